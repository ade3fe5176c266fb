"""Parts of a candidate that consist of several fields: soft prompt, adapter, demonstrations, decoding."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from promptgraft.spaces.errors import InvalidInputError

_LAYER_PLACE = re.compile(r"layer (\d+)")


@dataclass(frozen=True, slots=True)
class SoftPrompt:
    """Trainable vectors among the embedded tokens, keys and values in every layer, or pixels around an image.

    Attributes:
        length: Number of vectors, in tokens, or width of a `frame`, in pixels; 0 means none.
        init: Initial values: `vocabulary` (rows sampled from the embedding matrix), `label_words` or `template` (the
            rows of those words, repeated), or `source` (as `vocabulary`, then trained in the source stage; SPoT, Vu et
            al. 2022, arXiv:2110.07904). With a network, these are its inputs. Keys and values of `deep` are
            initialized at random, and a `frame` with zeros.
        place: `prefix` (before the text), `suffix` (after the text and before a causal LM's label), `layer K` (as
            `suffix`, but inserted at layer K: layers 0..K-1 never see them), `deep` (keys and values before the
            text's in every layer, including frozen ones; prefix tuning, Li & Liang 2021, arXiv:2101.00190) or `frame`
            (what is added to the outermost pixels of each image; visual prompting, Bahng et al. 2022,
            arXiv:2203.17274).
        parametrization: What is trained: the vectors themselves (`direct`), or inputs and a network that computes the
            vectors from them: `mlp`, or `lstm` followed by an MLP (P-tuning, Liu et al. 2021, arXiv:2103.10385; for
            `deep` the projection of Li & Liang, which is an MLP).
    """

    length: int = 0
    init: str = "vocabulary"
    place: str = "prefix"
    parametrization: str = "direct"

    @property
    def deep(self) -> bool:
        """Whether it consists of keys and values in every layer."""
        return self.place == "deep"

    @property
    def framed(self) -> bool:
        """Whether it is a frame of pixels."""
        return self.place == "frame"

    @property
    def tokens(self) -> int:
        """Number of tokens by which it makes what a model reads longer."""
        return 0 if self.framed else self.length

    def check(self) -> None:
        """Refuse a network that the place does not support.

        Raises:
            InvalidInputError: If an LSTM is to make keys and values.
        """
        if self.deep and self.parametrization == "lstm":
            raise InvalidInputError(
                "soft_prompt.parametrization 'lstm' is not supported at soft_prompt.place 'deep', where PEFT has only "
                "an MLP; use direct or mlp there, or restrict the parametrization to other places with "
                "`when: {parameter: soft_prompt.place, choices: [...]}`"
            )

    @property
    def layer(self) -> int | None:
        """K of the place `layer K`, otherwise None.

        Raises:
            InvalidInputError: If the place is unknown.
        """
        return parse_place(self.place)


@dataclass(frozen=True, slots=True)
class Adapter:
    """Small trainable weights in the layers above the frozen ones, whose own weights then stay fixed.

    Attributes:
        method: `none`, `lora` or `ia3`.
        rank: LoRA's rank.
    """

    method: str = "none"
    rank: int = 8


@dataclass(frozen=True, slots=True)
class Demonstrations:
    """In-context examples: labelled training rows before a row's own prompt; causal LMs only.

    Attributes:
        count: Largest number; those that do not fit into `max_tokens` are left out.
        choice: Selection: `random` (the same for all rows), `balanced` (the same for all rows, labels in turn) or
            `nearest` (by cosine of TF-IDF vectors, for each row; after Liu et al. 2022, arXiv:2101.06804).
        order: `random`, `alternating` (labels in turn, because models favour labels near the end; Zhao et al. 2021,
            arXiv:2102.09690) or `nearest_last` (the nearest by TF-IDF is next to the row; Liu et al.). Results depend
            on it strongly (Lu et al. 2022, arXiv:2104.08786).
    """

    count: int = 0
    choice: str = "balanced"
    order: str = "random"


@dataclass(frozen=True, slots=True)
class Decoding:
    """How a text is written, where answers are texts; it takes no part in training.

    Attributes:
        beams: Texts that are kept in the search for the likeliest one; 1 takes the likeliest token each time.
        length_penalty: Power of the length by which a text's log-probability is divided; without effect with 1 beam.
        no_repeat_ngram_size: Length of the runs of tokens that may not occur twice; 0 for none.
        max_new_tokens: Most tokens of a text.
    """

    beams: int = 1
    length_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    max_new_tokens: int = 64


def parse_place(place: str) -> int | None:
    """Parse a soft prompt's place.

    Returns:
        K for `layer K`, None for `prefix`, `suffix`, `deep` and `frame`.

    Raises:
        InvalidInputError: If it is none of these.
    """
    if place in ("prefix", "suffix", "deep", "frame"):
        return None
    match = _LAYER_PLACE.fullmatch(place)
    if match is None:
        raise InvalidInputError(
            f"unknown soft-prompt place {place!r}; expected 'prefix', 'suffix', 'deep', 'frame' or 'layer K' with "
            "K = 0, 1, …"
        )
    return int(match.group(1))


# By the field of a candidate.
GROUPS: Mapping[str, type[Demonstrations] | type[SoftPrompt] | type[Adapter] | type[Decoding]] = {
    "demonstrations": Demonstrations,
    "soft_prompt": SoftPrompt,
    "adapter": Adapter,
    "decoding": Decoding,
}
