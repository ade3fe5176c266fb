"""Who tries it: the Optuna study, Ray Tune, the winner, the bundle and the command line."""
