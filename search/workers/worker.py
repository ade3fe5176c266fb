"""The Ray actor that runs trials, one after another, with the backbone kept loaded."""

import logging
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import ray
from ray import tune

from promptgraft.objectives.file_store import DiskFullError, FileStore
from promptgraft.objectives.spec import ObjectiveSpec
from promptgraft.search.sampling import verbalizer_content
from promptgraft.search.side_jobs import GROWTH_JOB
from promptgraft.search.storage import keep_result
from promptgraft.search.trials import Report, cause_of
from promptgraft.search.workers.repeats import Repeats
from promptgraft.spaces import Candidate

if TYPE_CHECKING:
    from promptgraft.objectives.trial import Evaluation, Objective

logger = logging.getLogger(__name__)


class TrialRunner(tune.Trainable):  # type: ignore[misc]
    """Runs one cycle at a time; a step of Ray's is the training up to the next evaluation."""

    def setup(self, config: dict[str, Any], spec: ObjectiveSpec, checkpoint_every_s: float, threads: int) -> None:
        """Load the study's fixed part once; Ray then reuses this actor for many trials."""
        import torch

        from promptgraft.objectives.measures import CostMeter, PromptMeter
        from promptgraft.objectives.runtime import quiet_transformers
        from promptgraft.objectives.trial import Objective

        quiet_transformers()
        torch.set_num_threads(threads)
        assert spec.files is not None
        self._files = FileStore(spec.files)
        context = ray.get_runtime_context()
        self._place = {"node": context.get_node_id(), "gpus": context.get_accelerator_ids().get("GPU", [])}
        self._checkpoint_every_s = checkpoint_every_s
        self._objective: Objective = Objective(spec)
        self._meters = PromptMeter(self._objective), CostMeter(self._objective)
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take up the next trial."""
        from promptgraft.objectives.trial import Checkpoint, checkpoint_name

        self._number = int(new_config["number"])
        self._errand, self._work = new_config.get("errand"), new_config.get("work", {})
        self._cycle: Iterator[Evaluation] = iter(())
        if self._errand is not None:
            return True
        self._objective.know(new_config["templates"], new_config["verbalizers"])
        self._candidate = Candidate.from_values(new_config["candidate"])
        self._seed = int(new_config["seed"])
        name = checkpoint_name(self._candidate.key, self._seed)
        checkpoint = Checkpoint(self._files, name, self._checkpoint_every_s)
        self._figures: dict[str, float] = {}
        self._started = time.perf_counter()
        self._stages = self._objective.stages.use
        self._cycle = self._objective.run(self._candidate, self._seed, checkpoint)
        return True

    def step(self) -> dict[str, Any]:
        """Go on to the next evaluation."""
        try:
            if self._errand is not None:
                return {"report": Report(final=True, found=self._run_errand())}
            if not self._figures:
                self._figures = self._measure()
            evaluation = next(self._cycle)
            return {"report": self._report(evaluation)}
        except Exception as error:  # The trial's boundary: it fails, and the search goes on.
            logger.exception("%s failed", self._errand or f"trial {self._number}")
            interrupted = isinstance(error, DiskFullError)
            return {"report": Report(final=True, failure=cause_of(error), interrupted=interrupted)}

    def _run_errand(self) -> dict[str, Any]:
        work = self._work
        if self._errand == GROWTH_JOB:
            return grow_pool(self._objective, work)
        self._objective.know(work["templates"], work["verbalizers"])
        try:
            repeats = Repeats(self._objective, self._files, work["seed"])
            return repeats.train(work["candidate"], work["step"], work["repeat"])
        finally:
            self._objective.use_split(0)

    def cleanup(self) -> None:
        """Close the cycle."""
        self._cycle = iter(())

    def _measure(self) -> dict[str, float]:
        """Measure the candidate before the cycle begins, outside its time."""
        prompt_meter, cost_meter = self._meters
        prompt = prompt_meter.measure(self._candidate)
        figures = {"adaptability_content": round(prompt.content, 4), "adaptability_form": round(prompt.form, 4)}
        figures |= cost_meter.measure(self._candidate)
        self._started = time.perf_counter()
        return figures

    def _report(self, evaluation: "Evaluation") -> Report:
        result = evaluation.result
        summary: dict[str, Any] = {}
        if result is not None:
            keep_result(self._files, self._number, result)
            summary = {
                "best_step": result.step,
                "resumed_at": result.resumed_at,
                **self._place,
                "max_rss_bytes": result.max_rss_bytes,
                "trainable_parameters": result.trainable_parameters,
                "prompt_tokens": result.prompt_tokens,
                "load_report": result.load_report.summary(),
            }
            if self._candidate.demonstrations.count:
                summary["demonstrations"] = round(result.demonstrations, 2)
        shown = result or evaluation
        return Report(
            step=evaluation.step,
            value=evaluation.value,
            metrics=dict(shown.metrics),
            confusion=shown.confusion,
            source_loss=evaluation.source_loss,
            target_loss=evaluation.target_loss,
            final=result is not None,
            example=self._objective.example(),
            figures=self._figures,
            cost=self._cost(evaluation),
            summary=summary | ({"value": result.value} if result else {}),
        )

    def _cost(self, evaluation: "Evaluation") -> dict[str, float]:
        use = self._objective.stages.use - self._stages
        # A result's time includes that of the worker that began the trial, if it was resumed.
        seconds = evaluation.result.seconds if evaluation.result else time.perf_counter() - self._started
        return {
            "seconds": round(seconds, 3),
            "stages_found": use.hits,
            "stages_computed": use.misses,
            "seconds_saved": round(use.saved_s, 3),
        }


def grow_pool(objective: "Objective", work: dict[str, Any]) -> dict[str, Any]:
    """Run a round of growth; see `objectives.growth.rounds` and `search.sampling.pool`.

    Args:
        objective: The worker's objective.
        work: From `Grower.next_round`.

    Returns:
        `templates`, `verbalizers` and `scores`, as JSON types.
    """
    from promptgraft.objectives.growth import GrowthPlan, WriterSpec, grow

    writer = WriterSpec(**work["writer"]) if work["writer"] else None
    words = (work["verbalizers"], work["label_words"], tuple(work["verbalizer_sources"]))
    plan = GrowthPlan(tuple(work["sources"]), work["size"], writer, *words)
    objective.know(work["parents"], work["known_verbalizers"])
    growth = grow(objective, work["parents"], plan, work["round"], work["seed"])
    return {
        "templates": [asdict(template) for template in growth.templates],
        "verbalizers": [verbalizer_content(verbalizer) for verbalizer in growth.verbalizers],
        "scores": [asdict(entry) for entry in growth.scores],
    }


class RepeatRunner(Repeats):
    """A plain actor of Ray's that runs repeats, with the backbone kept loaded.

    Args:
        spec: The study's fixed part.
        threads: Threads of one cycle.
        seed: The study's seed.
    """

    def __init__(self, spec: ObjectiveSpec, threads: int, seed: int) -> None:
        import torch

        from promptgraft.objectives.runtime import quiet_transformers
        from promptgraft.objectives.trial import Objective

        quiet_transformers()
        torch.set_num_threads(threads)
        assert spec.files is not None
        super().__init__(Objective(spec), FileStore(spec.files), seed)


def score_finalists(
    spec: ObjectiveSpec, threads: int, trials: list[tuple[int, dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Score trials again in float32; see `search.judging.float32_rescoring`."""
    import torch

    from promptgraft.objectives.runtime import quiet_transformers
    from promptgraft.search.judging import score_in_float32

    quiet_transformers()
    torch.set_num_threads(threads)
    return score_in_float32(spec, trials)
