"""What a family of backbones can do, known without loading any."""

from dataclasses import dataclass

from promptgraft.spaces import InvalidInputError, Registry

# What the configuration of our own recurrent models calls its architecture.
RECURRENT = "promptgraft_recurrent"

# Encoders of transformers 5 whose layers take keys and values in front of their own, by their configuration's
# `model_type`; tried one by one. Others raise, or pass over them in silence.
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

# Causal LMs that don't, or whose keys and values have a form that PEFT doesn't know.
NOT_DEEP = ("falcon", "falcon_mamba", "mamba", "mamba2", "rwkv", "xlstm")

# The options of a backbone that `check_numerics` knows.
NUMERICS = ("dtype", "autocast", "attn_implementation")


@dataclass(frozen=True, slots=True)
class Family:
    """What every backbone of a family has in common.

    Attributes:
        has_head: Whether reading it out takes trainable weights of ours, over all its tokens.
        label_last: Whether the label has to stand behind all fields of a template.
        in_parts: Whether its layers can be run from any one on; a soft prompt at `layer K` wants that.
        adapters: Whether PEFT knows where its layers take adapters.
        numerics: Whether it computes in low precision, and with a choice of attention.
        encoder_decoder: Whether its layers are an encoder's and a decoder's, rather than those of one stack.
        recurrent: Whether its models are those that `promptgraft new-recurrent` writes.
    """

    has_head: bool = False
    label_last: bool = False
    in_parts: bool = True
    adapters: bool = True
    numerics: bool = True
    encoder_decoder: bool = False
    recurrent: bool = False


# The class of each is registered under the same name in `objectives.backbones.base`, which imports torch.
FAMILIES: Registry[Family] = Registry("backbone family")
FAMILIES.register("encoder")(Family(has_head=True))
FAMILIES.register("recurrent")(Family(has_head=True, adapters=False, numerics=False, recurrent=True))
FAMILIES.register("masked_lm")(Family())
FAMILIES.register("causal_lm")(Family(label_last=True))
FAMILIES.register("seq2seq")(Family(in_parts=False, encoder_decoder=True))


def check_place(family: str, place: str) -> None:
    """Refuse a soft prompt where the family can't let one in.

    Raises:
        InvalidInputError: If the place is `layer K` and the layers run only as a whole.
    """
    if place.startswith("layer") and not FAMILIES[family].in_parts:
        raise InvalidInputError(
            f"soft_prompt.place {place!r} can't be had with the backbone family {family!r}, whose encoder runs only "
            "as a whole; use prefix or suffix"
        )


def check_deep(family: str, model_type: str, gradient_checkpointing: bool) -> None:
    """Refuse a deep prefix where PEFT's prefix tuning has no way in: its keys and values go in as a cache's.

    Args:
        family: The family.
        model_type: What the model's configuration calls its architecture.
        gradient_checkpointing: Whether layers are run again in the backward pass.

    Raises:
        InvalidInputError: If there is no attention, the architecture takes no cache, or layers that run again would
            add to it twice.
    """
    place = "soft_prompt.place 'deep'"
    known = FAMILIES[family]
    if known.recurrent:
        raise InvalidInputError(
            f"{place} can't be had with the backbone family {family!r}, which has no attention to take keys and "
            "values; use prefix, suffix or layer K"
        )
    encodes = not (known.label_last or known.encoder_decoder)
    if model_type not in DEEP_ENCODERS if encodes else model_type in NOT_DEEP:
        others = f" (of encoders, these do: {', '.join(DEEP_ENCODERS)})" if encodes else ""
        raise InvalidInputError(
            f"{place} can't be had with a {model_type!r} model, whose layers take no keys and values of PEFT's prefix "
            f"tuning{others}; use prefix, suffix or layer K"
        )
    if gradient_checkpointing:
        raise InvalidInputError(
            f"{place} can't be had with backbone.gradient_checkpointing, as PEFT's prefix tuning can't; set it to "
            "false, or use another place"
        )


def check_adapter(family: str, method: str) -> None:
    """Refuse adapters where PEFT has none.

    Raises:
        InvalidInputError: If the family takes none.
    """
    if method != "none" and not FAMILIES[family].adapters:
        raise InvalidInputError(
            f"PEFT has no adapter.method {method!r} for the backbone family {family!r}; use none, and train the layers "
            "above frozen_layers"
        )


def check_numerics(family: str, option: str, value: str | None) -> None:
    """Refuse low precision and implementations of attention where there are none.

    Args:
        family: The family.
        option: `dtype`, `autocast` or `attn_implementation`.
        value: What a study chooses for it.

    Raises:
        InvalidInputError: If it chooses what the family doesn't have.
    """
    if value not in (None, "float32") and not FAMILIES[family].numerics:
        raise InvalidInputError(
            f"backbone.{option} {value!r} can't be had with the backbone family {family!r}, which has no attention and "
            "computes in float32; leave it out"
        )
