"""Run one of the replay benchmark's peers, and measure all of its processes.

python -m peers JOB OUT --system NAME

The peers import no promptgraft: they are what a user would run today, in default and in tuned form.

    hpo_optuna  transformers' Trainer.hyperparameter_search, Optuna backend
    hpo_ray     the same, Ray backend
    tune_peft   Ray Tune, OptunaSearch, and a plain PyTorch loop over a PEFT model
    setfit      SetFit on the target's labels: no search, a reference of quality for time
    untrained   only scores: shows that both sides read the candidates alike

The default forms do what the documentation's examples do: the model is loaded for each trial, texts are tokenized for
each trial and padded to the longest allowed, layers are frozen by name, Ray starts an actor for each trial. The tuned
forms keep model and tokens and reset the weights from a copy, pad to the longest of a batch, freeze the embeddings with
the lower layers, reuse actors, and log nothing. Neither writes checkpoints, which favours the peers.
"""

import json
import signal
import sys
from pathlib import Path

from peers.processes import watch


def main() -> None:
    # Asked to end, it ends what it started first.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    code, measured = watch([sys.executable, "-P", "-m", "peers.systems", *sys.argv[1:]])
    if code:
        sys.exit(code)
    out = Path(sys.argv[2])
    out.write_text(json.dumps({**json.loads(out.read_text()), **measured}))


if __name__ == "__main__":
    main()
