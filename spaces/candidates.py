"""Candidates: one point of the search space, and all that varies between trials of a study."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import cast

from promptgraft.spaces.candidate_parts import GROUPS, Adapter, Decoding, Demonstrations, SoftPrompt
from promptgraft.spaces.custom_parameters import CUSTOM, CUSTOM_PARAMETERS
from promptgraft.spaces.errors import InvalidInputError
from promptgraft.spaces.parameters import Scalar, StudyFacts

# Priors that read a history as a sequence.
HAVE_RECENCY = ("neighbours", "ease")
# Fields that a candidate without a prior doesn't have in its records.
OF_PRIORS = ("prior", "prior_recency", "text_weight")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One point of the search space.

    Attributes:
        template: Id of the template.
        verbalizer: Id of the verbalizer; empty if no label words are used.
        head: What makes the logits of an encoder: cosines with label embeddings, which start as those of the label
            words (`label_words`); a `linear` layer, which starts at random; or a `probe`: a linear layer on normalised
            embeddings that is fitted to its optimum by logistic regression on alpha * L_s + (1 - alpha) * L_t, and
            then trained on with all else if `steps` says so (LP-FT; Kumar et al. 2022, arXiv:2202.10054). Language
            models have `label_words`, or `answer` where answers are texts, which they write; causal ones `titles` where
            labels are items: the log-probability of each title, of those that the prior ranks first.
        demonstrations: In-context examples before the prompt.
        soft_prompt: The soft prompt; with the place `prefix`, it comes before the demonstrations.
        frozen_layers: Number of frozen layers: 0 trains everything; k freezes the embeddings and layers 0..k-1.
        adapter: Trained in place of the weights that are not frozen.
        alpha: Weight of the source loss in `alpha * L_s + (1 - alpha) * L_t`.
        source_steps: Number of updates on the source alone, before the migration.
        source_objective: What these minimise: the source's `classification` loss, or a `contrastive` one, which pulls
            embeddings of one label together (SetFit's, on all pairs of a batch; Tunstall et al. 2022,
            arXiv:2209.11055) and leaves the head to the target. Encoders only.
        source: Name of the source, if a study has several; empty if it has one, and if none is used.
        contrastive_steps: Number of contrastive updates after the migration, before there is a head; also on
            alpha * L_s + (1 - alpha) * L_t. Encoders only.
        steps: Number of updates after the migration, or after those; training may end early.
        batch_size: Rows of each task per update.
        learning_rate: Learning rate of the migrated weights, or of the adapters in their place.
        prompt_learning_rate: Learning rate of what the migration attaches: soft prompt and head.
        layer_decay: Factor by which the learning rate of each layer is smaller than that of the layer above it.
        weight_decay: AdamW's.
        warmup: Share of the updates over which learning rates rise; they fall to 0 over the others.
        label_smoothing: Share of each label that is spread over all labels in the loss.
        class_weights: `balanced` weighs each row by the inverse frequency of its label; `none` doesn't.
        augmentation: How images change at random in training on the target, and on the source beside it, anew in each
            pass over the rows: mirrored (`flip`), cropped (`crop`), in other colours (`color`), or two operations of
            RandAugment (`rand_augment`). What the source stage trains on, and what is scored, stays as it is (`none`).
        probe_c: Inverse strength of the probe's ridge penalty, as scikit-learn's C.
        pooling: What an encoder's text embedding is: the `mean` of its tokens, its `first` or its `last` one.
        calibration: What is subtracted from each label's score in evaluation and prediction: nothing (`none`), or its
            mean over inputs without content (`contextual`) or over the target's training rows without their labels
            (`batch`); see `objectives.prompting.calibration`. The training loss does not include it.
        self_training: Smallest probability at which an unlabelled target row is trained on with its likeliest label;
            the same candidate, trained on the labelled rows alone, says how likely that is (Yarowsky 1995,
            doi:10.3115/981658.981684). 0 for no unlabelled rows.
        prior: Counts of the training rows that join the text's logits: TF-IDF of `words` or `characters`; in kinds that
            read histories also TF-IDF of `items`, `popularity` of items, `neighbours` (item-kNN, Sarwar et al. 2001) or
            `ease` (Steck 2019, doi:10.1145/3308558.3313710); see `objectives.data.priors`. A source's rows count
            alpha / (1 - alpha) times.
        prior_recency: The k-th newest item of a history counts k ** -prior_recency.
        text_weight: Factor of the text's logits beside a prior; with 0 the prior predicts alone.
        decoding: How answers that are texts are written.
        custom: Names and values of plugins' parameters, sorted by name; they act in training on the target only. A
            parameter that is left out has its neutral value.
        backbone: Name of the backbone, in a study that names them; empty in others.
    """

    template: str
    verbalizer: str
    head: str = "label_words"
    demonstrations: Demonstrations = field(default_factory=Demonstrations)
    soft_prompt: SoftPrompt = field(default_factory=SoftPrompt)
    frozen_layers: int = 0
    adapter: Adapter = field(default_factory=Adapter)
    alpha: float = 0.0
    source_steps: int = 0
    source_objective: str = "classification"
    source: str = ""
    contrastive_steps: int = 0
    steps: int = 32
    batch_size: int = 16
    learning_rate: float = 5e-5
    prompt_learning_rate: float = 1e-2
    layer_decay: float = 1.0
    weight_decay: float = 0.0
    warmup: float = 0.1
    label_smoothing: float = 0.0
    class_weights: str = "none"
    augmentation: str = "none"
    probe_c: float = 1.0
    pooling: str = "mean"
    calibration: str = "none"
    self_training: float = 0.0
    prior: str = "none"
    prior_recency: float = 0.0
    text_weight: float = 1.0
    decoding: Decoding = field(default_factory=Decoding)
    custom: tuple[tuple[str, Scalar], ...] = ()
    backbone: str = ""

    def canonical(self, facts: StudyFacts) -> "Candidate":
        """Set every hyperparameter that has no effect to its default, so that equivalent candidates are equal.

        Args:
            facts: What decides which hyperparameters can have an effect.

        Returns:
            The candidate that represents all candidates with the same outcome.

        Raises:
            InvalidInputError: If no installed package provides a custom parameter.
        """
        facts = facts.backbones.get(self.backbone, facts)
        return replace(self, **self._of_prior(facts))._canonical(facts)  # type: ignore[arg-type]

    def _canonical(self, facts: StudyFacts) -> "Candidate":
        changes: dict[str, object] = {}
        if not self.demonstrations.count:
            changes["demonstrations"] = Demonstrations()
        elif self.demonstrations.count == 1:
            changes["demonstrations"] = replace(self.demonstrations, order=Demonstrations().order)
        changes["soft_prompt"] = soft = self._canonical_prompt(facts)
        if self.head in ("linear", "probe", "answer", "titles") and soft.init != "label_words":
            changes["verbalizer"] = ""
        if self.head == "titles":  # Its loss is that of tokens, not of labels.
            changes |= _defaults("label_smoothing")
        if self.head != "answer":
            changes["decoding"] = Decoding()
        elif self.decoding.beams == 1:
            changes["decoding"] = replace(self.decoding, length_penalty=Decoding().length_penalty)
        if not facts.has_head:
            changes |= _defaults("source_objective", "contrastive_steps", "pooling", "probe_c")
        if self.head != "probe":
            changes |= _defaults("probe_c")
        if not facts.has_source:
            changes |= _defaults("alpha", "source_steps")
        found: Candidate = replace(self, **changes)  # type: ignore[arg-type]
        found = replace(found, **found._without_effect(facts))  # type: ignore[arg-type]
        return replace(found, source=found._canonical_source(facts))

    def _without_effect(self, facts: StudyFacts) -> dict[str, object]:
        """Return the defaults of what has no effect, given what is trained."""
        changes: dict[str, object] = {}
        carried = self.frozen_layers < facts.n_layers
        attached = facts.has_head or self.soft_prompt.length > 0
        in_rows = self.soft_prompt.length > 0 and (self.soft_prompt.framed or not facts.texts_of_labels)
        embeds = bool(self.contrastive_steps) and (carried or in_rows)
        trains = bool(self.steps) and (carried or attached)
        if not self.source_steps:
            changes |= _defaults("source_objective")
        if not embeds:
            changes |= _defaults("contrastive_steps")
        if not trains:
            changes |= _defaults("label_smoothing", "class_weights") | {"steps": 0}
        if not (trains or embeds):
            changes |= _defaults("batch_size", "learning_rate", "prompt_learning_rate", "weight_decay", "warmup")
            changes |= _defaults("augmentation")
            changes["frozen_layers"] = facts.n_layers
        if not (trains or embeds or self.head == "probe"):
            changes |= _defaults("self_training", *(["alpha"] if self.prior == "none" else []))
        custom = self.custom if trains else ()
        changes["custom"] = tuple((name, value) for name, value in custom if value != CUSTOM_PARAMETERS[name].neutral)
        if not (carried and (trains or embeds)):
            changes |= _defaults("learning_rate", "layer_decay") | {"adapter": Adapter()}
        elif self.adapter.method != "lora":
            changes["adapter"] = Adapter(self.adapter.method)
        if not attached or not (trains or self.soft_prompt.length):
            changes |= _defaults("prompt_learning_rate")
        return changes

    def _of_prior(self, facts: StudyFacts) -> dict[str, object]:
        """Return the defaults of what has no effect without a prior, or beside one that predicts alone."""
        changes = {} if self.prior in HAVE_RECENCY else _defaults("prior_recency")
        if self.prior == "none":
            return changes | _defaults("text_weight")
        if self.text_weight:
            return changes
        changes |= _defaults("source_steps", "contrastive_steps", "pooling") | {"steps": 0}
        return changes | {"soft_prompt": SoftPrompt(), "head": "linear" if facts.has_head else self.head}

    def _canonical_source(self, facts: StudyFacts) -> str:
        if not facts.sources or not self.uses_source:
            return ""
        return self.source or facts.sources[0]

    def _canonical_prompt(self, facts: StudyFacts) -> SoftPrompt:
        soft = self.soft_prompt
        if not (soft.length and (soft.framed or facts.reads_texts(self.head))):
            return SoftPrompt()
        from_source, has_words = soft.init == "source", not (soft.deep or soft.framed)
        if (from_source and not (facts.has_source and self.source_steps)) or not (from_source or has_words):
            return replace(soft, init=SoftPrompt().init)
        return soft

    @property
    def uses_source(self) -> bool:
        """Whether a source task is used at all."""
        return self.source_steps > 0 or self.alpha > 0

    @property
    def ignores_text(self) -> bool:
        """Whether a prior predicts alone."""
        return self.prior != "none" and not self.text_weight

    @property
    def is_trained(self) -> bool:
        """Whether weights are trained on the target, rather than fitted or left as they are."""
        return self.steps > 0 or self.contrastive_steps > 0

    @property
    def key(self) -> str:
        """Hash of the fields that are not at their defaults, 16 hexadecimal digits; equal for equal candidates only.

        A field that is added later, with a default that changes nothing, keeps all existing keys.
        """
        content = {name: value for name, value in self.to_dict().items() if value != _DEFAULT_VALUES.get(name)}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON types, which `from_values` reads back."""
        values: dict[str, object] = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in GROUPS}
        del values["custom"]
        if not self.backbone:  # Studies that name their backbones came later.
            del values["backbone"]
        if self.prior == "none":  # So did priors.
            values = {name: value for name, value in values.items() if name not in OF_PRIORS}
        if self.augmentation == "none":  # And augmentation.
            del values["augmentation"]
        values |= {f"{CUSTOM}.{name}": value for name, value in self.custom}
        for group in GROUPS:
            values |= {f"{group}.{name}": value for name, value in asdict(getattr(self, group)).items()}
        if self.head != "answer":  # It came later, and other records stay as they are.
            values = {name: value for name, value in values.items() if not name.startswith("decoding.")}
        return values

    @classmethod
    def from_values(cls, values: Mapping[str, Scalar]) -> "Candidate":
        """Build a candidate from parameter names and values, such as `soft_prompt.length`: 8.

        Raises:
            InvalidInputError: If a name is not a field of a candidate.
        """
        flat: dict[str, Scalar] = {}
        grouped: dict[str, dict[str, Scalar]] = {group: {} for group in (*GROUPS, CUSTOM)}
        for name, value in values.items():
            group, _, own = name.partition(".")
            target, key = (grouped[group], own) if group in grouped else (flat, name)
            target[key] = value
        custom = tuple(sorted(grouped.pop(CUSTOM).items()))
        try:
            groups = {group: GROUPS[group](**own) for group, own in grouped.items()}  # type: ignore[arg-type]
            return cls(**flat, **groups, custom=custom)  # type: ignore[arg-type]
        except TypeError as error:
            raise InvalidInputError(f"invalid candidate: {error}") from error


DEFAULTS: Mapping[str, Scalar] = {
    f.name: cast("Scalar", f.default)
    for f in fields(Candidate)
    if f.name not in ("template", "verbalizer", CUSTOM, *GROUPS)
}


def _defaults(*names: str) -> dict[str, object]:
    return {name: DEFAULTS[name] for name in names}


# Keys as in `to_dict`.
_DEFAULT_VALUES: Mapping[str, object] = (
    Candidate("", "").to_dict()
    | {f"decoding.{name}": value for name, value in asdict(Decoding()).items()}
    | _defaults(*OF_PRIORS)
)
