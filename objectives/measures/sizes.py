"""How long a candidate's prompt is and how many weights it trains, known before a trial and without its weights."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from promptgraft.objectives.backbones import BACKBONES, FAMILIES
from promptgraft.objectives.data import Task
from promptgraft.objectives.prompting import DemonstrationPools, EncodedRow, PromptedModel
from promptgraft.objectives.spec import BackboneSpec
from promptgraft.spaces import Adapter, Candidate, Demonstrations, SearchSpace, SoftPrompt


class Sizes:
    """Counts what a trial would report, by the trial's own code on a backbone of shapes alone (torch's meta device).

    Args:
        backbone: The pretrained model; its configuration and tokenizer are read, its weights are not.
        space: The search space; templates and verbalizers are looked up in it.
        labels: Labels of both tasks.
        target: The target task; its rows decide how long demonstrations are. Not needed where there are none.
        seed: The trials' seed, which demonstrations are drawn with.

    Raises:
        InvalidInputError: If the backbone can't serve.
    """

    def __init__(
        self,
        backbone: BackboneSpec,
        space: SearchSpace,
        labels: Sequence[str],
        target: Task | None = None,
        seed: int = 0,
    ) -> None:
        self.space = space
        self.target = target
        self.seed = seed
        self.labels = tuple(labels)
        # How it computes changes no size, and may need what this machine lacks.
        plain = replace(backbone.in_float32(), attn_implementation=None, device_map=None)
        self._backbone = BACKBONES[backbone.family](plain, torch.device("meta"))
        places = FAMILIES[backbone.family].prompt_places
        self._any_place = next((own for own in ("suffix", "prefix") if own in places), None)
        self._tokens: dict[tuple[str, str, Demonstrations], int] = {}
        self._parameters: dict[tuple[str, SoftPrompt, int, Adapter], int] = {}

    def prompt_tokens(self, candidate: Candidate) -> int:
        """Count the tokens that the template adds to the text, and the soft prompt's; see `Result.prompt_tokens`.

        Raises:
            InvalidInputError: If the backbone can't do what the candidate asks.
        """
        candidate = candidate.canonical(self.space.facts)
        key = (candidate.template, candidate.verbalizer, candidate.demonstrations)
        if key not in self._tokens:
            bare = replace(candidate, soft_prompt=SoftPrompt(), adapter=Adapter())
            model = self.model(bare)
            self._tokens[key] = model.prompt_tokens(self._shown(model))
        return self._tokens[key] + candidate.soft_prompt.tokens

    def trainable_parameters(self, candidate: Candidate) -> int:
        """Count the weights that the target stage would train; see `Result.trainable_parameters`.

        Raises:
            InvalidInputError: If the backbone can't do what the candidate asks.
        """
        candidate = candidate.canonical(self.space.facts)
        # Neither first values of vectors nor their places change the number.
        soft = replace(candidate.soft_prompt, init="vocabulary")
        if self._any_place and not (soft.deep or soft.framed):
            soft = replace(soft, place=self._any_place)
        key = (candidate.head, soft, candidate.frozen_layers, candidate.adapter)
        if key not in self._parameters:
            self._parameters[key] = self.model(replace(candidate, soft_prompt=soft)).trainable_parameters
        return self._parameters[key]

    def _shown(self, model: PromptedModel) -> list[EncodedRow]:
        """Encode validation rows with their demonstrations; none if the candidate has no demonstrations."""
        if not model.candidate.demonstrations.count:
            return []
        assert self.target is not None, "demonstrations are rows of the target"
        pool = DemonstrationPools(self.target, {}, self.space).get(model.candidate, "validation", self.seed)
        return model.encode(self.target.validation, pool)

    def check_label_words(self, candidate: Candidate) -> None:
        """Refuse label words that the tokenizer takes for the same; see `Backbone.check_label_words`."""
        template, verbalizer = self.space.template(candidate.template), self.space.verbalizer(candidate.verbalizer)
        self._backbone.check_label_words(template, verbalizer, self.labels)

    def model(self, candidate: Candidate) -> PromptedModel:
        """Build a candidate's model; the one built before can't be used any more.

        Raises:
            InvalidInputError: If the backbone can't do what the candidate asks.
        """
        self._backbone.restore()
        template = self.space.template(candidate.template)
        verbalizer = self.space.verbalizer(candidate.verbalizer) if candidate.verbalizer else None
        return PromptedModel(self._backbone, candidate, template, verbalizer, self.labels, seed=0)
