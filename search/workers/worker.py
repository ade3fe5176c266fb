"""The Ray actor that runs trials, one after another, with the backbone kept loaded."""

import logging
import time
from typing import TYPE_CHECKING, Any

import ray
from ray import tune

from promptgraft.objectives.data import Split
from promptgraft.objectives.file_store import DiskFullError, FileStore
from promptgraft.objectives.progress import StageProgress
from promptgraft.objectives.spec import ObjectiveSpec
from promptgraft.search.storage import Float32Score, Outcome, keep_result
from promptgraft.search.trials import (
    Evaluated,
    Failed,
    FoldScores,
    GrowthJob,
    Job,
    Message,
    RepeatJob,
    SideJobDone,
    TrialJob,
    TrialSummary,
    cause_of,
)
from promptgraft.search.workers.repeats import Repeats
from promptgraft.spaces import Candidate, mask_logs, uncollected

if TYPE_CHECKING:
    from promptgraft.objectives.growth import Growth
    from promptgraft.objectives.trial import CrossValidation, Cycle, Evaluation, LoadedTasks, Result

logger = logging.getLogger(__name__)


class TrialRunner(tune.Trainable):  # type: ignore[misc]
    """Runs one cycle at a time; a step of Ray's is the training up to the next report."""

    def setup(
        self,
        config: dict[str, Any],
        spec: ObjectiveSpec,
        tasks: "LoadedTasks | None",
        checkpoint_every_s: float,
        threads: int,
    ) -> None:
        """Load the study's fixed part once; Ray then reuses this actor for many trials.

        Args:
            config: The first job.
            spec: The study's fixed part, with its files.
            tasks: Its tasks; they are read here if None.
            checkpoint_every_s: Seconds between two checkpoints.
            threads: Threads of one cycle.
        """
        with uncollected():
            from promptgraft.objectives.measures import CostMeter, PromptMeter
            from promptgraft.objectives.runtime import limit_threads, quiet_transformers
            from promptgraft.objectives.trial import Objective

            mask_logs()
            quiet_transformers()
            limit_threads(threads)
            self._objective: Objective = Objective(spec, tasks=tasks)
        assert spec.files is not None
        self._files = FileStore(spec.files)
        context = ray.get_runtime_context()
        self._node = context.get_node_id()
        self._gpus = tuple(map(str, context.get_accelerator_ids().get("GPU", ())))
        self._checkpoint_every_s = checkpoint_every_s
        self._scored = self._objective.target.scored()
        self._meters = PromptMeter(self._objective), CostMeter(self._objective)
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take up the next job."""
        self._job: Job = new_config["job"]
        self._cycle: Cycle | CrossValidation | None = None
        return True

    def step(self) -> dict[str, Any]:
        """Go on to the trial's next report, or do a side job."""
        return {"message": self._message()}

    def _message(self) -> Message:
        job = self._job
        try:
            if isinstance(job, TrialJob):
                if self._cycle is None:
                    self._begin(job)
                return self._reported(job)
            if isinstance(job, GrowthJob):
                return SideJobDone(self._grow(job))
            return SideJobDone(self._repeat(job))
        except Exception as error:  # The trial's boundary: it fails, and the search goes on.
            logger.exception("%s failed", job)
            return Failed(cause_of(error), interrupted=isinstance(error, DiskFullError))

    def _begin(self, job: TrialJob) -> None:
        """Measure a trial's candidate, outside the trial's time, and begin its cycle."""
        from promptgraft.objectives.trial import Checkpoint, checkpoint_name

        self._objective.know(job.templates, job.verbalizers)
        prompt_meter, cost_meter = self._meters
        prompt = prompt_meter.measure(job.candidate)
        measured = {"adaptability_content": prompt.content, "adaptability_form": prompt.form}
        self._figures = {name: round(value, 4) for name, value in measured.items() if value is not None}
        self._figures |= cost_meter.measure(job.candidate)
        name = checkpoint_name(job.candidate.key, job.seed)
        checkpoint = Checkpoint(self._files, name, self._checkpoint_every_s)
        self._started = time.perf_counter()
        self._cycle = self._objective.run(job.candidate, job.seed, checkpoint)

    def _grow(self, job: GrowthJob) -> "Growth":
        from promptgraft.objectives.growth import grow

        self._objective.know(job.parents, job.verbalizers)
        return grow(self._objective, job.parents, job.plan, job.round, job.seed)

    def _repeat(self, job: RepeatJob) -> Outcome:
        self._objective.know(job.templates, job.verbalizers)
        try:
            repeats = Repeats(self._objective, self._files, job.seed)
            return repeats.train(job.candidate.to_dict(), job.step, job.repeat)
        finally:
            self._objective.use_split(Split())

    def cleanup(self) -> None:
        """Close the cycle."""
        self._cycle = None

    def _reported(self, job: TrialJob) -> Evaluated | StageProgress:
        """Go on to the next evaluation, or for a while within a long stage."""
        assert self._cycle is not None
        report = self._cycle.advance()
        return report if isinstance(report, StageProgress) else self._evaluated(job, report)

    def _evaluated(self, job: TrialJob, evaluation: "Evaluation") -> Evaluated:
        """Describe an evaluation."""
        assert self._cycle is not None
        result = evaluation.result
        weights_hash = None if result is None else keep_result(self._files, job.number, result)
        shown = result or evaluation
        return Evaluated(
            step=evaluation.step,
            fold=evaluation.fold,
            value=evaluation.value,
            metrics=dict(shown.metrics),
            confusion=shown.confusion,
            source_loss=evaluation.source_loss,
            target_loss=evaluation.target_loss,
            example=self._cycle.example(),
            figures=self._figures,
            cost=self._cost(evaluation),
            summary=self._summary(job.candidate, result, weights_hash) if result else None,
            scores=self._scores(evaluation.so_far) if evaluation.so_far else None,
        )

    def _scores(self, result: "Result") -> FoldScores:
        """Say how good the outputs of each row are, as far as folds have been run."""
        found = self._objective.target.row_scores(result.logits, self._scored[: len(result.logits)])
        return FoldScores(result.fold_values, tuple(found.tolist()))

    def _summary(self, candidate: Candidate, result: "Result", weights_hash: str | None) -> TrialSummary:
        return TrialSummary(
            weights_hash=weights_hash,
            value=result.value,
            best_step=result.step,
            fold_values=result.fold_values or None,
            standard_error=result.standard_error,
            resumed_at=result.resumed_at,
            node=self._node,
            gpus=self._gpus,
            max_rss_bytes=result.max_rss_bytes,
            max_gpu_bytes=result.max_gpu_bytes,
            reduced_to=result.reduced_to,
            trainable_parameters=result.trainable_parameters,
            prompt_tokens=result.prompt_tokens,
            load_report=result.load_report.summary(),
            demonstrations=round(result.demonstrations, 2) if candidate.demonstrations.count else None,
        )

    def _cost(self, evaluation: "Evaluation") -> dict[str, float]:
        use = self._objective.stages.use_of_trial
        # A result's time includes that of the worker that began the trial, if it was resumed.
        seconds = evaluation.result.seconds if evaluation.result else time.perf_counter() - self._started
        return {
            "seconds": round(seconds, 3),
            "stages_found": use.hits,
            "stages_computed": use.misses,
            "seconds_saved": round(use.saved_s, 3),
        }


class RepeatRunner(Repeats):
    """A plain actor of Ray's that runs repeats, with the backbone kept loaded.

    Args:
        spec: The study's fixed part.
        tasks: Its tasks; they are read here if None.
        threads: Threads of one cycle.
        seed: The study's seed.
    """

    def __init__(self, spec: ObjectiveSpec, tasks: "LoadedTasks | None", threads: int, seed: int) -> None:
        with uncollected():
            from promptgraft.objectives.runtime import limit_threads, quiet_transformers
            from promptgraft.objectives.trial import Objective

        mask_logs()
        quiet_transformers()
        limit_threads(threads)
        assert spec.files is not None
        super().__init__(Objective(spec, tasks=tasks), FileStore(spec.files), seed)


def score_finalists(
    spec: ObjectiveSpec,
    tasks: "LoadedTasks | None",
    threads: int,
    trials: list[tuple[int, dict[str, Any], str | None]],
) -> dict[int, Float32Score]:
    """Score trials again in float32; see `search.judging.float32_rescoring`."""
    from promptgraft.objectives.runtime import limit_threads, quiet_transformers
    from promptgraft.search.judging import score_in_float32

    mask_logs()
    quiet_transformers()
    limit_threads(threads)
    return score_in_float32(spec, trials, tasks)
