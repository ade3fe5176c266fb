"""The objective: evaluates candidates of one study, with the backbone loaded once."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from promptgraft.objectives.backbones import Backbone
from promptgraft.objectives.caching import LoadedBackbones, StageStore
from promptgraft.objectives.data import Row, Split, Task
from promptgraft.objectives.file_store import FileStore
from promptgraft.objectives.prompting import DemonstrationPools, PromptedModel, calibrate
from promptgraft.objectives.runtime import choose_device
from promptgraft.objectives.spec import ObjectiveSpec
from promptgraft.objectives.trial.checkpoints import Checkpoint
from promptgraft.objectives.trial.cross_validation import CrossValidation
from promptgraft.objectives.trial.cycle import Cycle
from promptgraft.objectives.trial.resources import Resources
from promptgraft.objectives.trial.results import Result
from promptgraft.objectives.trial.trial_data import LoadedTasks, StudyTasks
from promptgraft.spaces import Candidate, SearchSpace, Template, Verbalizer


class Objective:
    """Evaluates candidates of one study, one after another, each on its backbone.

    A study that names its backbones has one in use at a time: that of the last candidate, which is loaded when it is
    first needed. `spec` is the fixed part on that one.

    Args:
        spec: The study's fixed part.
        device: Where to compute; chosen from what this process was given if None.
        tasks: The study's target and sources, where another process has read them; they are read here if None.

    Raises:
        InvalidInputError: If the data or the backbone can't serve.

    Example:
        >>> objective = Objective(study.objective)  # doctest: +SKIP
        >>> result = objective.evaluate(candidate, seed=0)  # doctest: +SKIP
        >>> result.metrics["accuracy"]  # doctest: +SKIP
        0.796875
    """

    def __init__(
        self, spec: ObjectiveSpec, device: torch.device | None = None, tasks: LoadedTasks | None = None
    ) -> None:
        own_tasks = StudyTasks(*tasks) if tasks else StudyTasks.load(spec)
        stages = StageStore(FileStore(spec.files) if spec.files else None, spec.memory_bytes)
        self._spec = spec
        self._in_use = next(iter(spec.backbones), "")
        own = spec.on(self._in_use)
        self._resources = Resources(
            spec=own,
            tasks=own_tasks,
            demonstrations=DemonstrationPools(own_tasks.target, own_tasks.sources, own.space),
            backbones=LoadedBackbones(device or choose_device(), stages),
            stages=stages,
        )
        if not spec.backbones:
            self._resources.backbones.get(spec.backbone)  # What can't be loaded is refused here.
        self._cycle: Cycle | CrossValidation | None = None

    @property
    def spec(self) -> ObjectiveSpec:
        """The study's fixed part on the backbone in use, with the templates that joined."""
        return self._resources.spec

    @property
    def backbone(self) -> Backbone:
        """The pretrained model."""
        return self._resources.backbone

    @property
    def stages(self) -> StageStore:
        """What trials share."""
        return self._resources.stages

    @property
    def target(self) -> Task:
        """The target task, on the present split."""
        return self._resources.tasks.target

    @property
    def sources(self) -> Mapping[str, Task]:
        """The source tasks by name; that of a study that names but one is called ''."""
        return self._resources.tasks.sources

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of all tasks, each once, the target's first."""
        return self._resources.tasks.labels

    def use_backbone(self, name: str) -> None:
        """Take up another backbone of the study; a cycle that is open is over.

        Args:
            name: As in `Candidate.backbone`; the one in use stays if it is empty.

        Raises:
            InvalidInputError: If there is no such backbone.
        """
        if name in ("", self._in_use) or not self._spec.backbones:
            return
        self._close_cycle()
        self._resources = self._resources.with_spec(self._spec.on(name))
        self._in_use = name

    def use_split(self, split: Split, fewer: Mapping[str, int] | None = None) -> None:
        """Take up another split of the labelled rows; a cycle that is open is over.

        Args:
            split: The split.
            fewer: `target` or `source` -> how many of its training rows are kept; all where nothing is said.
        """
        tasks = self._resources.tasks.on(split, fewer)
        if tasks is not self._resources.tasks:
            self._close_cycle()
            self._resources = self._resources.on(tasks)

    def know(self, templates: Sequence[Template], verbalizers: Sequence[Verbalizer] = ()) -> None:
        """Take into the space what may have joined the study since."""
        space = self._spec.space.with_more(templates, verbalizers)
        if space != self._spec.space:
            self._spec = replace(self._spec, space=space)
            self._resources = self._resources.with_spec(self._spec.on(self._in_use))

    @contextmanager
    def searching(self, space: SearchSpace) -> Iterator[None]:
        """Look templates and verbalizers up in another space for a while."""
        before = self._resources
        self._resources = before.with_spec(replace(before.spec, space=space))
        try:
            yield
        finally:
            self._resources = before

    def run(
        self, candidate: Candidate, seed: int, checkpoint: Checkpoint | None = None, at: int | None = None
    ) -> Cycle | CrossValidation:
        """Begin a cycle, or one on every fold; one that is still open is over. See `Cycle` and `CrossValidation`.

        Args:
            candidate: What to evaluate.
            seed: Seed of initial values, batches and dropout.
            checkpoint: Where to save the state every now and then, and to go on from.
            at: Step whose state is the result; that of the best evaluation if None.
        """
        self._close_cycle()
        self.use_backbone(candidate.backbone)
        self.stages.start_trial()
        canonical = candidate.canonical(self.spec.space.facts)
        folds = self._resources.folds()
        if len(folds) == 1:
            self._cycle = Cycle(self._resources, canonical, seed, checkpoint, at)
        else:
            self._cycle = CrossValidation(folds, canonical, seed, checkpoint, at)
        return self._cycle

    def evaluate(self, candidate: Candidate, seed: int, at: int | None = None) -> Result:
        """Run the whole cycle, or up to a step, and return its outcome; see `run`."""
        *_, last = self.run(candidate, seed, at=at)
        assert last.result is not None
        return last.result

    def score(
        self, candidate: Candidate, delta: Mapping[str, Tensor], rows: Sequence[Row], seed: int | None = None
    ) -> npt.NDArray[np.float32]:
        """Score rows of the target with a trained state, or with the pretrained weights alone.

        Args:
            candidate: What is attached.
            delta: A result's `delta`, with its calibration; empty for the pretrained weights.
            rows: The rows.
            seed: Seed of the trial, which its demonstrations are drawn with; that of the splits if None.

        Returns:
            Logits, shape (len(rows), labels).
        """
        (model,) = self.untrained([candidate])
        model.load(delta)
        if model.prior is not None and not model.prior.tensors:
            self._resources.fit_prior(model)
        labels, batch_size = self.target.labels, self.spec.evaluation_batch_size
        seed = self.spec.split_seed if seed is None else seed
        shown = self._resources.demonstrations.get(candidate, "target", seed)
        if candidate.calibration != "none" and model.bias is None:
            calibrate(model, model.encode(self.target.train, shown), labels, batch_size, shown)
        return model.score(model.encode(rows, shown), labels, batch_size).numpy()

    def untrained(self, candidates: Sequence[Candidate]) -> list[PromptedModel]:
        """Return models with the pretrained weights, all on the backbone of the first: good for scoring only."""
        self._close_cycle()
        self.use_backbone(candidates[0].backbone if candidates else "")
        self.backbone.restore()
        return [self._resources.build_model(candidate, self.spec.split_seed) for candidate in candidates]

    def backbone_key(self) -> dict[str, object]:
        """Return everything that decides what the pretrained backbone makes of a prompt, as JSON types."""
        return self._resources.backbone_key()

    def _close_cycle(self) -> None:
        if self._cycle is not None:
            self._cycle.close()
            self._cycle = None
