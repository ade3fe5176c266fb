"""The schema of a study file's smaller parts: backbones, histories, space; and what all sections have in common."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from promptgraft.objectives.spec import MOST_PIXELS_A_SIDE


class Section(BaseModel):
    """A mapping in a study file; immutable, and unknown keys are refused."""

    # Built when it is first used: `status` needs one section of many.
    model_config = ConfigDict(
        frozen=True, extra="forbid", str_strip_whitespace=False, defer_build=True, allow_inf_nan=False
    )


def _words(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


OneOrMore = BeforeValidator(_words, json_schema_input_type=tuple[str, ...] | str)
Words = Annotated[tuple[str, ...], OneOrMore]


def _range_or_choices(value: Any) -> Any:
    """Read a bare value or list as choices."""
    if isinstance(value, list):
        return {"choices": value}
    return value if isinstance(value, dict) else {"choices": [value]}


# A time as it stands in a table; YAML reads dates, too.
Moment = Annotated[
    str | None,
    BeforeValidator(lambda value: None if value is None else str(value), json_schema_input_type=str | float | None),
]


# A key of `histories`, and the one without which it has no meaning.
_PAIRED = {"least_rating": ("rating", "the column of ratings"), "test_from": ("validation_from", "a time before it")}


class HistoriesSection(Section):
    """Where the histories of users come from; `train` is the table of interactions then."""

    user: str = Field(description="Column of the user in the table of interactions.")
    time: str = Field(description="Column of numbers or dates there.")
    items: str = Field(description="Table of items, with the column `label` of the interactions, too.")
    text: Words = Field(min_length=1, description="Columns of that table which make an item's text, such as its title.")
    users: str | None = Field(None, description="Table of users, for user_profile.")
    attributes: Words = Field((), description="Columns of that table which are predicted, for user_profile.")
    positions: int = Field(5, ge=1, description="Number of the newest items of each user that are trained on.")
    least: int = Field(3, ge=2, description="Users and items with fewer interactions are dropped.")
    rating: str | None = Field(None, description="Column of ratings in the table of interactions; see `least_rating`.")
    least_rating: float | None = Field(
        None, validate_default=True, description="Interactions that are rated lower are dropped; needs `rating`."
    )

    validation_from: Moment = Field(
        None,
        description="Date or number from which on interactions are chosen by, in place of each user's last but one.",
    )
    test_from: Moment = Field(
        None,
        validate_default=True,
        description="Time from which on they are the test, in place of each user's last one; give both, or neither.",
    )
    negatives: int | None = Field(
        None,
        ge=1,
        description="Number of items drawn for each user, none that they had, among which metrics called `sampled_...` "
        "rank the one that came; these are computed beside those over all items, for recommendation.",
    )

    @field_validator("least_rating", "test_from")
    @classmethod
    def _comes_in_pairs(cls, value: float | str | None, info: ValidationInfo) -> float | str | None:
        other, what = _PAIRED[info.field_name or ""]
        if (value is None) != (info.data.get(other) is None):
            raise ValueError(f"goes with `{other}`, {what}: give both, or neither")
        return value


class ConditionSection(Section):
    """Condition under which a parameter is used."""

    parameter: str = Field(description="Name of the parameter that the condition is on.")
    choices: Annotated[
        tuple[Any, ...], BeforeValidator(lambda v: v if isinstance(v, list) else [v], json_schema_input_type=Any)
    ] = Field((), description="Values of it for which the condition holds.")
    above: float | None = Field(None, description="Or a bound: the condition holds for greater values.")


class ParameterSection(Section):
    """A fixed value, a list of choices, or a range."""

    model_config = ConfigDict(allow_inf_nan=True)  # Its dimension refuses them, and says which numbers it takes.

    choices: tuple[Any, ...] | None = Field(None, description="List of choices; a bare value or list is short for it.")
    low: float | None = Field(None, description="Lower end of a range.")
    high: float | None = Field(None, description="Upper end of a range.")
    step: float | None = Field(None, description="Distance between values of the range.")
    log: bool = Field(False, description="Whether to sample the range on a logarithmic scale.")
    when: ConditionSection | None = Field(
        None, description="Condition under which the parameter is used; always if left out."
    )


Searched = Annotated[
    ParameterSection | None,
    BeforeValidator(
        _range_or_choices, json_schema_input_type=ParameterSection | list[Any] | str | int | float | bool | None
    ),
]


class DemonstrationsSection(Section):
    """In-context examples: labelled training rows before the prompt."""

    count: Searched = Field(None, description="Number of demonstrations.")
    choice: Searched = Field(None, description="Selection: random, balanced or nearest.")
    order: Searched = Field(None, description="Order: random, alternating or nearest_last.")


class SoftPromptSection(Section):
    """Trainable vectors that are added to the prompt, or pixels that are added to images."""

    length: Searched = Field(
        None, description="Number of vectors, or width of a frame in pixels; 0 for no soft prompt."
    )
    init: Searched = Field(None, description="Initial values: vocabulary, label_words, template or source.")
    place: Searched = Field(None, description="Position: prefix, suffix, layer K, deep or frame.")
    parametrization: Searched = Field(
        None, description="What is trained: the vectors (direct), or a network that makes them (mlp, lstm)."
    )


class AdapterSection(Section):
    """Adapters, trained in place of the weights of layers that are not frozen."""

    method: Searched = Field(None, description="Method: none, lora or ia3.")
    rank: Searched = Field(None, description="Rank of LoRA's matrices.")


class DecodingSection(Section):
    """Writing of answers that are texts."""

    beams: Searched = Field(None, description="Number of beams; 1 for greedy decoding.")
    length_penalty: Searched = Field(None, description="Power of the length by which beams' scores are divided.")
    no_repeat_ngram_size: Searched = Field(
        None, description="Length of runs of tokens that may not repeat; 0 for none."
    )
    max_new_tokens: Searched = Field(None, description="Largest number of tokens of an answer.")


class BackboneSection(Section):
    """The pretrained model."""

    path: str = Field(
        description="Local folder (relative to the study file) or hub id; with @ and a branch, tag or commit behind it "
        "if it isn't to be the newest."
    )
    family: str = Field(description="Name of the backbone family, such as encoder.")
    max_tokens: int = Field(128, ge=8, description="Longest prompt, in tokens; longer texts are truncated.")
    layers: int | None = Field(
        None, ge=1, description="Number of the lowest layers or stages that are used; those above are left out."
    )
    image_size: int | None = Field(
        None,
        ge=8,
        le=MOST_PIXELS_A_SIDE,
        description="Height and width that images are resized to, instead of the image processor's.",
    )
    trust_remote_code: bool = Field(False, description="Run Python code that is stored with the weights.")
    micro_batch_size: int | None = Field(
        None, ge=1, description="Rows per forward pass in training; gradients of larger batches are accumulated."
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Type of frozen matrices and of computation; trained weights stay float32."
    )
    autocast: Literal["bfloat16", "float16"] | None = Field(
        None, validate_default=True, description="Type of computation only; weights keep theirs."
    )
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3"] | None = Field(
        None, validate_default=True, description="Implementation of attention, as in transformers."
    )
    gradient_checkpointing: bool = Field(
        False, description="Recompute layers in the backward pass, which saves memory."
    )
    device_map: str | dict[str, int | str] | None = Field(
        None, description="Placement of layers on devices, as in transformers, such as auto."
    )

    @field_validator("autocast")
    @classmethod
    def _is_that_of_dtype(cls, value: str | None, info: ValidationInfo) -> str | None:
        dtype = info.data.get("dtype", "float32")
        if value is not None and dtype not in ("float32", value):
            raise ValueError(f"must be {dtype} or left out, because dtype is {dtype}, got {value}")
        return value

    @field_validator("attn_implementation")
    @classmethod
    def _computes_in_low_precision(cls, value: str | None, info: ValidationInfo) -> str | None:
        low = info.data.get("dtype", "float32") != "float32" or info.data.get("autocast") is not None
        if value is not None and value.startswith("flash") and not low:
            raise ValueError(f"{value} does not support float32; add dtype: bfloat16, or use sdpa")
        return value


class WriterSection(Section):
    """A language model that writes templates."""

    path: str = Field(description="Local folder (relative to the study file) or hub id.")
    family: Literal["masked_lm", "causal_lm"] = Field(description="Kind of model.")


class GrowSection(Section):
    """Growth of the template pool while the study runs."""

    sources: Annotated[tuple[str, ...], OneOrMore] = Field(
        ("mutation", "crossover"), min_length=1, description="Names of the sources."
    )
    every: int = Field(
        8, ge=1, description="Number of finished trials between two rounds; the first round is at the start."
    )
    size: int = Field(4, ge=1, description="Number of templates that join in a round.")
    limit: int = Field(32, ge=2, description="Largest number of templates, including those of this file.")
    verbalizers: int = Field(
        0, ge=0, description="Number of verbalizers that join in a round, drafted for the best template."
    )
    label_words: int = Field(1, ge=1, le=20, description="Number of label words per label in them.")
    verbalizer_sources: Annotated[tuple[str, ...], OneOrMore] = Field(
        ("likelihood",), min_length=1, description="Names of the sources."
    )
    writer: WriterSection | None = Field(
        None, description="Model that writes templates; the backbone if left out and able to."
    )


class SpaceSection(Section):
    """The search space."""

    templates: dict[str, str] = Field({}, description="Templates by name, in jinja2's syntax.")
    chat_templates: dict[str, str] = Field(
        {},
        description="Templates by name, each the message of a user, in the tokenizer's chat template; causal LMs only.",
    )
    promptsource: Words = Field((), description="Files of templates in PromptSource's format.")
    grow: GrowSection | None = Field(None, description="Growth of the template pool while the study runs.")
    verbalizers: dict[str, dict[str, Words]] = Field({}, description="Label words by verbalizer name and label.")
    head: Searched = Field(
        None,
        description="Output head of an encoder: label_words, linear or probe; titles, of a causal model for items.",
    )
    pooling: Searched = Field(None, description="Text embedding of an encoder: mean, first or last token.")
    demonstrations: DemonstrationsSection = Field(
        DemonstrationsSection(), description="In-context examples before the prompt."
    )
    soft_prompt: SoftPromptSection = Field(SoftPromptSection(), description="The soft prompt.")
    frozen_layers: Searched = Field(
        None, description="Number of lowest layers to freeze; from 1 on, the embeddings are frozen, too."
    )
    adapter: AdapterSection = Field(AdapterSection(), description="Adapters in place of unfrozen weights.")
    source_steps: Searched = Field(None, description="Number of updates on the source before the migration.")
    source_objective: Searched = Field(
        None, description="What the source stage minimises: classification or contrastive loss."
    )
    alpha: Searched = Field(None, description="Weight of the source loss after the migration, in [0, 1].")
    source: Searched = Field(None, description="Name of the source to use, out of several `sources`.")
    contrastive_steps: Searched = Field(None, description="Number of contrastive updates after the migration.")
    steps: Searched = Field(None, description="Number of updates after the migration, and after those.")
    batch_size: Searched = Field(None, description="Rows of each task per update.")
    learning_rate: Searched = Field(None, description="Learning rate of the migrated weights, or of their adapters.")
    prompt_learning_rate: Searched = Field(None, description="Learning rate of the soft prompt and the head.")
    layer_decay: Searched = Field(None, description="Factor of the learning rate from each layer to the one below.")
    weight_decay: Searched = Field(None, description="AdamW's weight decay.")
    warmup: Searched = Field(None, description="Share of the updates over which learning rates rise.")
    label_smoothing: Searched = Field(None, description="Share of each label that is spread over all labels.")
    class_weights: Searched = Field(None, description="Weights of rows by label frequency: none or balanced.")
    augmentation: Searched = Field(
        None, description="Random changes of images in training: none, flip, crop, color or rand_augment."
    )
    probe_c: Searched = Field(None, description="Inverse strength of the probe's ridge penalty.")
    calibration: Searched = Field(None, description="Calibration of the scores: none, contextual or batch.")
    self_training: Searched = Field(
        None, description="Smallest probability at which to train on an unlabelled row's likeliest label; 0 for none."
    )
    prior: Searched = Field(
        None,
        description="Counts that join the text's scores: none; words or characters where rows have labels; items, "
        "popularity, neighbours or ease where they are histories.",
    )
    prior_recency: Searched = Field(
        None, description="How much more the newest items count for the prior: the k-th newest k ** -prior_recency."
    )
    text_weight: Searched = Field(
        None, description="Factor of the text's scores beside a prior; 0 for the prior alone."
    )
    decoding: DecodingSection = Field(DecodingSection(), description="Writing of answers that are texts.")
    custom: dict[str, Searched] = Field({}, description="Parameters of plugins, by name.")

    def described(self) -> Mapping[tuple[str, ...], ParameterSection]:
        """Return the parameters that the file sets, by their path below `space`."""
        found: dict[tuple[str, ...], ParameterSection | None] = {}
        for name in type(self).model_fields:
            section = getattr(self, name)
            if isinstance(section, DemonstrationsSection | SoftPromptSection | AdapterSection | DecodingSection):
                found |= {(name, own): getattr(section, own) for own in type(section).model_fields}
            elif name == "custom":
                found |= {(name, own): described for own, described in section.items()}
            elif name not in ("templates", "chat_templates", "promptsource", "grow", "verbalizers"):
                found[name,] = section
        return {path: section for path, section in found.items() if section is not None}
