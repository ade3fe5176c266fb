"""Whether trials can run what a study allows, tried by their own code on shapes alone: no weights are loaded."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from promptgraft.objectives.backbones import BACKBONES
from promptgraft.objectives.data import Task
from promptgraft.objectives.measures.sizes import Sizes
from promptgraft.objectives.prompting import DemonstrationPools
from promptgraft.objectives.spec import BackboneSpec, ObjectiveSpec
from promptgraft.objectives.trial import StudyTasks
from promptgraft.spaces import Adapter, Candidate, Demonstrations, SoftPrompt


class Rehearsal:
    """Does what a trial does before its first forward pass, and raises what it would.

    Args:
        spec: The study's fixed part.
        labels: The labels of all tasks.
        target: The target task.
        sources: The source tasks, by name.

    Raises:
        InvalidInputError: If the backbone can't be loaded as its family, or lacks something that is read.
    """

    def __init__(self, spec: ObjectiveSpec, labels: Sequence[str], target: Task, sources: Mapping[str, Task]) -> None:
        self._spec = spec
        self._sizes = Sizes(spec.backbone, spec.space, labels, target, spec.split_seed)
        self._tasks = StudyTasks(target, sources).folds()

    def try_prompt(self, candidate: Candidate) -> None:
        """Encode a short and a long text, where rows are texts, or those of labels.

        Raises:
            InvalidInputError: If the template leaves no room for it.
        """
        bare = replace(candidate, soft_prompt=SoftPrompt(), adapter=Adapter(), demonstrations=Demonstrations())
        model = self._sizes.model(bare)
        if self._tasks[0].target.reads != "text":
            return
        longest = "word " * self._spec.backbone.max_tokens
        model.encode_fields([dict.fromkeys(model.template.fields, text) for text in ("word", longest)])

    def try_words(self, candidate: Candidate) -> None:
        """See that no two labels have the same label words.

        Raises:
            InvalidInputError: If the tokenizer takes words of two labels for the same, or doesn't know a word.
        """
        self._sizes.check_label_words(candidate)

    def try_candidate(self, candidate: Candidate) -> None:
        """Attach what a candidate asks for, and choose its demonstrations on every fold.

        Raises:
            InvalidInputError: If the backbone can't do it, or a fold has too few rows.
        """
        self._sizes.model(replace(candidate, soft_prompt=replace(candidate.soft_prompt, init="vocabulary")))
        for tasks in self._tasks if candidate.demonstrations.count else ():
            pools = DemonstrationPools(tasks.target, tasks.sources, self._spec.space)
            for part in ("target", *(["source"] if candidate.source_steps else [])):
                pools.get(candidate, part, self._spec.split_seed)


def read_shapes(spec: BackboneSpec) -> None:
    """See that a model could be loaded; its weights are not.

    Raises:
        InvalidInputError: If it couldn't.
    """
    BACKBONES[spec.family](spec, torch.device("meta"))
