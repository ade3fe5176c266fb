"""What a search will cost, before anything is run."""

from promptgraft.search.study import Study
from promptgraft.search.wording import duration


def cost_line(study: Study) -> str:
    """Say how much a search will run, and when it will end at the latest."""
    file, folds = study.file, study.target.folds
    trials = f"{file.budget.trials} trials" + (f" of {folds} folds" if folds > 1 else "")
    reruns = count_reruns(study)
    judged = f", then up to {reruns} reruns to judge the winner" if reruns else ""
    at_once = file.concurrent()
    side = f"{at_once} at a time" if at_once > 1 else "one at a time"
    if file.budget.timeout is not None:
        end = f"at most {duration(file.budget.timeout)}"
    else:
        end = "no time limit (`run --timeout 8h` sets one; `status` says when it will end, after three trials)"
    return f"cost: {trials}{judged}, {side} on this machine; {end}"


def count_reruns(study: Study) -> int:
    """Count the reruns of finalists and baselines that judging may take at most; learning curves left out."""
    judging = study.file.judging
    if not judging.finalists:
        return 0
    # Twice as many trials as finalists get one rerun to qualify; a single finalist has one more than it is compared on.
    race = judging.finalists * (judging.repeats + 1)
    needs_source = ("target_only", "source_only")
    controls = [name for name in judging.controls if study.sources or name not in needs_source]
    known = [name for name in controls if name not in study.file.baselines]
    winner = 1 if controls and judging.finalists > 1 else 0
    return race + judging.repeats * (len(known) + winner)
