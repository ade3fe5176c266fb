"""Items that came after a bundle was made: they are recommended by their texts, without training."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from promptgraft.bundles.manifest import Manifest, MemberPart, VerbalizerPart
from promptgraft.objectives.data import HistorySpec, read_table
from promptgraft.objectives.kinds import read_texts, with_id
from promptgraft.objectives.prompting import HEAD_WEIGHT, PromptedModel
from promptgraft.spaces import InvalidInputError, words_of_name


@dataclass(frozen=True, slots=True)
class NewItems:
    """What a table of items adds to a bundle.

    Attributes:
        names: Texts of the new items, by which they are called; with an id behind it where two have the same.
        known: Rows whose items the bundle has already.
        without_text: Rows without an id or a text.
    """

    names: tuple[str, ...] = ()
    known: int = 0
    without_text: int = 0

    def __str__(self) -> str:
        """Say what was read."""
        also = f", {self.known} known already" if self.known else ""
        return f"{len(self.names)} new items{also}" + (
            f"; {self.without_text} rows are left out, since an id or a text is missing" if self.without_text else ""
        )


def read_new_items(path: str, manifest: Manifest) -> NewItems:
    """Read a table of items with the columns that the study's had.

    Args:
        path: The table; items that the bundle has already may be in it.
        manifest: The bundle's.

    Raises:
        InvalidInputError: If the table can't be read, no item of it is new, or the bundle doesn't take any.
    """
    if (reason := _why_none(manifest)) is not None:
        raise InvalidInputError(f"{path}: no items can be added, since {reason}")
    item, *text = manifest.item_columns
    texts = read_texts(HistorySpec("", "", path, tuple(text)), item)
    known = set(manifest.item_ids) or _known_by_texts(texts, manifest.labels)
    names = _names({own: said for own, said in texts.items() if own not in known}, manifest.labels)
    found = NewItems(names, len(texts) - len(names), len(read_table(path, [item])) - len(texts))
    if not names:
        raise InvalidInputError(f"{path}: no row is a new item ({found}); leave it out")
    return found


def _known_by_texts(texts: Mapping[str, str], labels: Sequence[str]) -> set[str]:
    """Return the ids of items that a bundle of an older version has, which knows them by texts, or texts with ids.

    Of several with the text of a known one the first is taken for it: what is recommended by texts tells them apart no
    more than that.
    """
    left, known = set(labels), set[str]()
    for item, text in texts.items():
        name = next((own for own in (with_id(text, item), text) if own in left), None)
        if name is not None:
            left.remove(name)
            known.add(item)
    return known


def _names(new: Mapping[str, str], known: Sequence[str]) -> tuple[str, ...]:
    """Call new items by their texts; with the id behind it where another item has the same, known or new."""
    counts, found = Counter(new.values()), dict.fromkeys(known)
    for item, text in new.items():
        name = with_id(text, item) if text in found or counts[text] > 1 else text
        while name in found:
            name = with_id(name, item)
        found[name] = None
    return tuple(found)[len(known) :]


def _why_none(manifest: Manifest) -> str | None:
    """Say why a bundle takes no new items; None if it does."""
    if not manifest.item_columns:
        return "the bundle recommends none, or an older version made it; export a study of kind 'recommendation'"
    for member in manifest.models:
        head, weight = member.candidate.get("head", "label_words"), member.candidate.get("text_weight", 1.0)
        if member.candidate.get("prior", "none") != "none" and weight == 0:
            return (
                f"trial {member.trial} counts who had what, without texts, and nobody had new ones; export a trial "
                "with text_weight above 0, as with --trial N"
            )
        if head == "titles":
            return (
                f"trial {member.trial} ranks those that a prior lists, and nobody had new ones; export a trial of an "
                "encoder with head 'label_words'"
            )
        if head != "label_words":
            return (
                f"head {head!r} of trial {member.trial} has learnt the items that there were; export a trial with head "
                "'label_words', as with --trial N, or leave other heads out of the space"
            )
    return None


def with_items(part: MemberPart, names: tuple[str, ...]) -> MemberPart:
    """Return a model's description with label words of new items, made of their names as a drafted space makes them."""
    words = part.verbalizer
    if not names or words is None:
        return part
    used = Counter(word for own in words.words.values() for word in own) + Counter(map(words_of_name, names))
    more = {name: (own if (own := words_of_name(name)) and used[own] == 1 else name,) for name in names}
    return part.model_copy(update={"verbalizer": VerbalizerPart(name=words.name, words=words.words | more)})


def with_rows(delta: Mapping[str, Tensor], model: PromptedModel, count: int) -> dict[str, Tensor]:
    """Return a bundle's weights with the head's rows of new items: embeddings of their texts by the pretrained model.

    The rows of all other items began as such embeddings, too.

    Args:
        delta: The bundle's weights.
        model: The model, before these are loaded; the new items are its last labels.
        count: How many items are new.
    """
    found = dict(delta)
    if count and HEAD_WEIGHT in found:
        rows = model.weights()[HEAD_WEIGHT][-count:].detach().cpu()
        found[HEAD_WEIGHT] = torch.cat([found[HEAD_WEIGHT], rows])
    return found
