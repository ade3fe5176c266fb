"""What each family of backbones supports, without loading a model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from promptgraft.objectives.data import AnswerForm
from promptgraft.objectives.spec import MASKED_ATTENTION
from promptgraft.spaces import DEFAULTS, InvalidInputError, Registry, parse_place

# `model_type` in the configuration of our own recurrent models.
RECURRENT = "promptgraft_recurrent"

# Encoders of transformers 5 whose layers accept keys and values before their own, by the `model_type` of their
# configuration; each was tested. Other encoders raise an error, or ignore them silently.
DEEP_ENCODERS = (
    "bert",
    "bert-generation",
    "camembert",
    "data2vec-text",
    "electra",
    "ernie",
    "megatron-bert",
    "rembert",
    "roberta",
    "roberta-prelayernorm",
    "roc_bert",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
)

# Causal LMs whose layers do not, or whose keys and values have a form that PEFT does not support.
NOT_DEEP = ("falcon", "falcon_mamba", "mamba", "mamba2", "rwkv", "xlstm")

# Vision transformers of transformers 5 whose layers take patches alone, by `model_type`; each was tested. Others add
# positions in every layer, or merge patches.
VISION_TRANSFORMERS = ("deit", "dinov2", "dinov2_with_registers", "vit", "vit_msn")
# Convolutional models whose stages were tested, by `model_type`: the key of their configuration with an entry for each
# stage, or how many stages there are.
CONVOLUTIONAL: Mapping[str, str | int] = {
    "convnext": "depths",
    "convnextv2": "depths",
    "efficientnet": "num_block_repeats",
    "mobilenet_v2": 6,
    "mobilevit": 5,
    "regnet": "depths",
    "resnet": "depths",
}

# Models that find the classes of pixels and were tested, by `model_type`: the key of their configuration with an entry
# for each stage of the encoder, or how many stages there are. What makes the map that is read is one more.
SEGMENTATION: Mapping[str, str | int] = {"segformer": "depths", "mobilevit": 5}

# Models that find boxes and were tested, by `model_type`. What makes boxes of the last layer counts as one more.
NANODET = "promptgraft_nanodet"
RT_DETR = ("rt_detr", "rt_detr_v2")
DETECTION = ("detr", NANODET, *RT_DETR, "yolos")

# Models that compare images with texts and were tested, by `model_type`.
CLIP = ("chinese_clip", "clip", "metaclip_2", "siglip")

# What rows hold for a family to read.
Reads = Literal["text", "images"]

# Hyperparameters of text embeddings, which language models don't have; at their defaults they have no effect.
ENCODERS_ONLY = ("head", "source_objective", "contrastive_steps", "pooling")

# What needs texts, of rows or of labels; a parameter and the values that don't.
_WITHOUT_WORDS: Mapping[str, tuple[object, ...]] = {
    "head": ("linear", "probe"),
    "soft_prompt.init": ("vocabulary", "source"),
    "calibration": ("none",),
}

# Options of a backbone that `check_numerics` checks.
NUMERICS = ("dtype", "autocast", "attn_implementation")


@dataclass(frozen=True, slots=True)
class Family:
    """What all backbones of a family have in common.

    Attributes:
        has_head: Whether a trainable head over the hidden states of all tokens makes the logits.
        label_last: Whether the label must come after all fields of a template.
        in_parts: Whether its layers can be run from any layer on, which a soft prompt at `layer K` needs.
        adapters: Whether PEFT supports adapters in its layers.
        numerics: Whether it supports low precision and a choice of attention.
        encoder_decoder: Whether it has an encoder and a decoder, rather than one stack of layers.
        writes: Whether it can write answers that are texts.
        recurrent: Whether its models are those that `promptgraft new-recurrent` writes.
        shortens: Whether its upper layers can be left out, since what is read of the lower ones is pooled all the same.
        reads: What rows hold for it to read.
        texts_of_labels: Whether it reads texts of labels beside rows that hold images: those of templates and label
            words.
        answers: Form of the answers that are read off it.
        prompt_places: Kinds of places that a soft prompt may have; none where it takes none.
        poolings: How hidden states may be pooled; any way if None.
        model_types: The `model_type` of its models; any if empty.
        probe_c: Usual inverse strength of a probe's penalty. Pooled maps and patches of any two images are nearly
            parallel, and what tells them apart needs large weights.
    """

    has_head: bool = False
    label_last: bool = False
    in_parts: bool = True
    adapters: bool = True
    numerics: bool = True
    encoder_decoder: bool = False
    writes: bool = False
    recurrent: bool = False
    shortens: bool = False
    reads: Reads = "text"
    texts_of_labels: bool = False
    answers: AnswerForm = "labels"
    prompt_places: tuple[str, ...] = ("prefix", "suffix", "layer K", "deep")
    poolings: tuple[str, ...] | None = None
    model_types: tuple[str, ...] = ()
    probe_c: float = 1.0

    @property
    def has_words(self) -> bool:
        """Whether it reads texts at all, so that templates and label words have an effect."""
        return self.reads == "text" or self.texts_of_labels

    def heads(self, of_kind: Sequence[str]) -> tuple[str, ...]:
        """Return which of the heads of a kind of task it has, the default first."""
        if "titles" in of_kind and self.label_last:
            return ("titles",)  # There are too many items to score all.
        return tuple(head for head in of_kind if head != "titles" and (self.has_words or head != "label_words"))


# The class of each family is registered by the same name in `objectives.backbones.base`, which imports torch.
FAMILIES: Registry[Family] = Registry("backbone family")
FAMILIES.register("encoder")(Family(has_head=True, shortens=True))
FAMILIES.register("recurrent")(Family(has_head=True, adapters=False, numerics=False, recurrent=True))
FAMILIES.register("masked_lm")(Family())
FAMILIES.register("causal_lm")(Family(label_last=True, writes=True))
FAMILIES.register("seq2seq")(Family(in_parts=False, encoder_decoder=True, writes=True))
FAMILIES.register("vit")(
    Family(
        has_head=True,
        numerics=False,
        shortens=True,
        reads="images",
        prompt_places=("prefix", "layer K", "frame"),
        poolings=("mean", "first"),
        model_types=VISION_TRANSFORMERS,
        probe_c=30.0,
    )
)
_FRAMED = Family(
    has_head=True, adapters=False, numerics=False, reads="images", prompt_places=("frame",), poolings=("mean",)
)
FAMILIES.register("convolutional")(replace(_FRAMED, shortens=True, model_types=tuple(CONVOLUTIONAL), probe_c=30.0))
FAMILIES.register("segmentation")(replace(_FRAMED, answers="masks", model_types=tuple(SEGMENTATION)))
FAMILIES.register("detection")(replace(_FRAMED, answers="boxes", model_types=DETECTION))
FAMILIES.register("clip")(
    Family(
        has_head=True,
        numerics=False,
        reads="images",
        texts_of_labels=True,
        prompt_places=("prefix", "suffix", "frame"),
        poolings=("mean",),
        model_types=CLIP,
    )
)


@dataclass(frozen=True, slots=True)
class Architecture:
    """What of a backbone decides which candidates it can train.

    Attributes:
        family: Its family.
        n_layers: Its number of layers.
        model_type: Its architecture, as in the model's configuration; None if that can't be read.
        attn_implementation: Its implementation of attention; None for the default.
        gradient_checkpointing: Whether layers are recomputed in the backward pass.
        max_tokens: Longest prompt, in tokens, without a soft prompt; 0 if unknown.
        positions: Most tokens that it can read, soft prompt included; None if there is no limit or it is unknown.
        window: How far some of its layers see, in tokens; None if all see everything or it is unknown.
    """

    family: str
    n_layers: int
    model_type: str | None = None
    attn_implementation: str | None = None
    gradient_checkpointing: bool = False
    max_tokens: int = 0
    positions: int | None = None
    window: int | None = None


def check_candidate(values: Mapping[str, object], model: Architecture) -> None:
    """Refuse what a family or a model does not support.

    The one place that says so: called for each value of a parameter before a search, and by each trial.

    Args:
        values: Parameter -> value: of a whole candidate, or of some parameters.
        model: The backbone.

    Raises:
        InvalidInputError: With the first value that is not supported.
    """
    known, has_prompt = FAMILIES[model.family], values.get("soft_prompt.length") != 0
    length = values.get("soft_prompt.length")
    if isinstance(length, int) and length:
        _check_length(length, str(values.get("soft_prompt.place", "prefix")), model)
    for name, value in values.items():
        if name == "frozen_layers" and isinstance(value, int) and value > model.n_layers:
            raise InvalidInputError(
                f"frozen_layers must be in [0, {model.n_layers}], the backbone's number of layers, got {value}"
            )
        _check_head(name, value, known, model.family)
        _check_reading(name, value, known, model.family)
        if name == "soft_prompt.place" and has_prompt:
            _check_place(str(value), model)
        if name == "adapter.method" and value != "none" and not known.adapters:
            raise InvalidInputError(
                f"adapter.method {value!r} is not supported by the backbone family {model.family!r}; use none, and "
                "train the layers above frozen_layers"
            )
        if name == "demonstrations.count" and value and not known.label_last:
            raise InvalidInputError(
                f"{name} is {value}, but only causal LMs take demonstrations and backbone.family is {model.family!r}; "
                "leave it out, or use a backbone of family 'causal_lm'"
            )


def _check_head(name: str, value: object, known: Family, family: str) -> None:
    """Refuse heads that a family doesn't have, and what goes with those of encoders."""
    if name == "head" and value == "answer":
        if not known.writes:
            writers = " or ".join(sorted(own for own in FAMILIES if FAMILIES[own].writes))
            raise InvalidInputError(
                f"head 'answer' writes texts, which backbone family {family!r} can't; use {writers}"
            )
    elif name == "head" and value == "titles":
        if not known.label_last:
            raise InvalidInputError(
                f"head 'titles' continues a prompt by titles, which backbone family {family!r} can't; use causal_lm, "
                f"or head {'label_words, which scores all items at once' if known.has_words else 'linear'}"
            )
    elif name in ENCODERS_ONLY and not known.has_head and value != DEFAULTS[name]:
        raise InvalidInputError(
            f"{name} {value!r} is supported only by encoders, got a language model; use {DEFAULTS[name]!r}"
        )


def _check_reading(name: str, value: object, known: Family, family: str) -> None:
    """Refuse what a family doesn't have because of what it reads."""
    allowed = _WITHOUT_WORDS.get(name)
    if not known.has_words and allowed is not None and value not in allowed:
        raise InvalidInputError(
            f"{name} {value!r} needs words, and models of the backbone family {family!r} read images alone; use "
            f"{' or '.join(map(repr, allowed))}"
        )
    if name == "pooling" and known.poolings is not None and value not in known.poolings:
        raise InvalidInputError(
            f"pooling {value!r} does not apply to the backbone family {family!r}; use {' or '.join(known.poolings)}"
        )
    if name == "soft_prompt.parametrization" and value != "direct" and known.reads == "images":
        raise InvalidInputError(
            f"soft_prompt.parametrization {value!r} is not supported by the backbone family {family!r}; use direct"
        )


def _check_length(length: int, place: str, model: Architecture) -> None:
    """Refuse a soft prompt that the model has no positions for, or that is out of sight of the text behind it."""
    longest = length + model.max_tokens
    if model.positions is not None and longest > model.positions:
        raise InvalidInputError(
            f"soft_prompt.length {length} and backbone.max_tokens {model.max_tokens} make {longest} positions, but the "
            f"backbone has {model.positions}; shorten one of them"
        )
    if parse_place(place) is not None and model.window is not None and longest > model.window:
        raise InvalidInputError(
            f"soft_prompt.place {place!r} needs attention over all {longest} positions (length, max_tokens), but "
            f"layers of the backbone see {model.window}; shorten the prompt or use another place"
        )


def _check_place(place: str, model: Architecture) -> None:
    layer = parse_place(place)
    known = FAMILIES[model.family]
    places = known.prompt_places
    if (place if layer is None else "layer K") not in places:
        reason = ", whose vectors stand among the words of a label's text" if known.texts_of_labels else ""
        reason = reason or (", whose rows aren't images" if place == "frame" else "")
        reason = reason or (", which has no tokens that vectors could stand among" if places == ("frame",) else "")
        raise InvalidInputError(
            f"soft_prompt.place {place!r} is not supported by the backbone family {model.family!r}{reason}; use "
            f"{' or '.join(places) or 'soft_prompt.length 0'}"
        )
    if place == "deep":
        _check_deep(model)
    if layer is None:
        return
    if not FAMILIES[model.family].in_parts:
        raise InvalidInputError(
            f"soft_prompt.place {place!r} is not supported by the backbone family {model.family!r}, whose encoder runs "
            "only as a whole; use prefix or suffix"
        )
    if layer >= model.n_layers:
        raise InvalidInputError(
            f"soft_prompt.place {place!r} needs a layer in [0, {model.n_layers - 1}]: "
            f"the backbone has {model.n_layers} layers"
        )
    if model.attn_implementation not in (None, *MASKED_ATTENTION):
        raise InvalidInputError(
            f"soft_prompt.place {place!r} needs masks that backbone.attn_implementation "
            f"{model.attn_implementation!r} can't take; leave it out, or use {' or '.join(MASKED_ATTENTION)}"
        )


def _check_deep(model: Architecture) -> None:
    """Refuse a deep prefix that PEFT's prefix tuning does not support: it passes keys and values as a cache."""
    place = "soft_prompt.place 'deep'"
    known = FAMILIES[model.family]
    if known.recurrent:
        raise InvalidInputError(
            f"{place} is not supported by the backbone family {model.family!r}, which has no attention for keys and "
            "values; use prefix, suffix or layer K"
        )
    if model.model_type is None:
        return
    encodes = not (known.label_last or known.encoder_decoder)
    if model.model_type not in DEEP_ENCODERS if encodes else model.model_type in NOT_DEEP:
        others = f" (encoders that do: {', '.join(DEEP_ENCODERS)})" if encodes else ""
        raise InvalidInputError(
            f"{place} is not supported by {model.model_type!r} models, whose layers do not accept the keys and values "
            f"of PEFT's prefix tuning{others}; use prefix, suffix or layer K"
        )
    if model.gradient_checkpointing:
        raise InvalidInputError(
            f"{place} is not supported together with backbone.gradient_checkpointing, by PEFT's prefix tuning; set it "
            "to false, or use another place"
        )


def check_numerics(family: str, option: str, value: str | None) -> None:
    """Refuse low precision and implementations of attention that the family does not support.

    Args:
        family: The family.
        option: `dtype`, `autocast` or `attn_implementation`.
        value: The study's value for it.

    Raises:
        InvalidInputError: If the family does not support it.
    """
    if value not in (None, "float32") and not FAMILIES[family].numerics:
        raise InvalidInputError(
            f"backbone.{option} {value!r} is not supported by the backbone family {family!r}, whose models are "
            "run as transformers has them, and computes in float32; leave it out"
        )


def used_layers(family: str, layers: int | None, whole: int) -> int:
    """Return how many layers are used.

    Args:
        family: The family.
        layers: The study's `backbone.layers`.
        whole: How many the model has.

    Raises:
        InvalidInputError: If the model has fewer, or models of this family need all of them.
    """
    if layers is None:
        return whole
    if not FAMILIES[family].shortens:
        those = ", ".join(name for name in FAMILIES if FAMILIES[name].shortens)
        raise InvalidInputError(
            f"backbone.layers is {layers}, but models of the family {family!r} are read behind their last layer; leave "
            f"it out (families of which upper layers can be left out: {those})"
        )
    if not 1 <= layers <= whole:
        raise InvalidInputError(f"backbone.layers must be in [1, {whole}], the model's number of layers, got {layers}")
    return layers


def check_image_size(family: str, image_size: int | None) -> None:
    """Refuse a size of images for a model that reads none.

    Args:
        family: The family.
        image_size: The study's `backbone.image_size`.

    Raises:
        InvalidInputError: If it reads texts.
    """
    if image_size is not None and FAMILIES[family].reads != "images":
        raise InvalidInputError(
            f"backbone.image_size is {image_size}, but models of the family {family!r} read texts; leave it out"
        )
