"""Untrained prompts are looked at before a search, if that is to guide its sampler."""

import logging
from collections.abc import Callable

from promptgraft.search.guidance import FIRST_LOOKS, merge_looks
from promptgraft.search.ledger import StudyLedger
from promptgraft.search.notes import save_study_note
from promptgraft.search.studies import Study

logger = logging.getLogger(__name__)


def look_first(study: Study, ledger: StudyLedger, say: Callable[[str], None]) -> None:
    """Have untrained prompts scored that were not, on a worker of a Ray that must be there; record what they score.

    Args:
        study: The checked study.
        ledger: Its record, whose sampler is guided then.
        say: Shows a line.
    """
    space = study.objective.space
    if not study.file.guidance.first_looks or len(space.templates) * len(space.verbalizers) < 2:
        return
    pairs = {(t.id, v.id): f"{t.name}, {v.name}" for t in space.templates for v in space.verbalizers}
    looks = ledger.looks()
    if pairs.keys() - {(look["template"], look["verbalizer"]) for look in looks}:
        import ray

        from promptgraft.search.worker import race_untrained

        resources = study.file.resources
        task = ray.remote(race_untrained).options(num_cpus=resources.cpu, num_gpus=resources.gpu)
        try:
            new = ray.get(task.remote(study.objective, resources.cpu))
        except ray.exceptions.RayTaskError as error:
            logger.warning("untrained prompts could not be looked at, so they guide nothing: %s", error.cause)
            return
        looks = merge_looks(looks, new)  # Templates that joined stay.
        ledger.study.set_user_attr(FIRST_LOOKS, looks)
        save_study_note(ledger.study, study)
        best = pairs[new[0]["template"], new[0]["verbalizer"]]
        say(f"first looks: {len(pairs)} untrained prompts, the best {best}")
    ledger.guidance.use_looks(looks)
