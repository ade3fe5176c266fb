"""What each family of backbones supports, without loading a model."""

from dataclasses import dataclass

from promptgraft.spaces import InvalidInputError, Registry

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
        recurrent: Whether its models are those that `promptgraft new-recurrent` writes.
    """

    has_head: bool = False
    label_last: bool = False
    in_parts: bool = True
    adapters: bool = True
    numerics: bool = True
    encoder_decoder: bool = False
    recurrent: bool = False


# The class of each family is registered by the same name in `objectives.backbones.base`, which imports torch.
FAMILIES: Registry[Family] = Registry("backbone family")
FAMILIES.register("encoder")(Family(has_head=True))
FAMILIES.register("recurrent")(Family(has_head=True, adapters=False, numerics=False, recurrent=True))
FAMILIES.register("masked_lm")(Family())
FAMILIES.register("causal_lm")(Family(label_last=True))
FAMILIES.register("seq2seq")(Family(in_parts=False, encoder_decoder=True))


def check_place(family: str, place: str) -> None:
    """Refuse a place of the soft prompt that the family does not support.

    Raises:
        InvalidInputError: If the place is `layer K` and the layers run only as a whole.
    """
    if place.startswith("layer") and not FAMILIES[family].in_parts:
        raise InvalidInputError(
            f"soft_prompt.place {place!r} is not supported by the backbone family {family!r}, whose encoder runs only "
            "as a whole; use prefix or suffix"
        )


def check_deep(family: str, model_type: str, gradient_checkpointing: bool) -> None:
    """Refuse a deep prefix that PEFT's prefix tuning does not support: it passes keys and values as a cache.

    Args:
        family: The family.
        model_type: Architecture, as in the model's configuration.
        gradient_checkpointing: Whether layers are recomputed in the backward pass.

    Raises:
        InvalidInputError: If there is no attention, the architecture accepts no cache, or recomputed layers would add
            to it twice.
    """
    place = "soft_prompt.place 'deep'"
    known = FAMILIES[family]
    if known.recurrent:
        raise InvalidInputError(
            f"{place} is not supported by the backbone family {family!r}, which has no attention for keys and values; "
            "use prefix, suffix or layer K"
        )
    encodes = not (known.label_last or known.encoder_decoder)
    if model_type not in DEEP_ENCODERS if encodes else model_type in NOT_DEEP:
        others = f" (encoders that do: {', '.join(DEEP_ENCODERS)})" if encodes else ""
        raise InvalidInputError(
            f"{place} is not supported by {model_type!r} models, whose layers do not accept the keys and values of "
            f"PEFT's prefix tuning{others}; use prefix, suffix or layer K"
        )
    if gradient_checkpointing:
        raise InvalidInputError(
            f"{place} is not supported together with backbone.gradient_checkpointing, by PEFT's prefix tuning; set it "
            "to false, or use another place"
        )


def check_adapter(family: str, method: str) -> None:
    """Refuse adapters that PEFT does not support.

    Raises:
        InvalidInputError: If the family supports none.
    """
    if method != "none" and not FAMILIES[family].adapters:
        raise InvalidInputError(
            f"adapter.method {method!r} is not supported by the backbone family {family!r}; use none, and train the "
            "layers above frozen_layers"
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
            f"backbone.{option} {value!r} is not supported by the backbone family {family!r}, which has no attention "
            "and computes in float32; leave it out"
        )
