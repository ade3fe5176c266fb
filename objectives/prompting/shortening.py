"""Prompts that have too many tokens: their longest field is cut."""

from collections.abc import Mapping

from promptgraft.objectives.backbones import Backbone
from promptgraft.spaces import InvalidInputError, Template


def shorten(backbone: Backbone, template: Template, fields: Mapping[str, str], excess: int) -> dict[str, str]:
    """Cut tokens off the end of the field that has most of them: half, where all it has isn't enough.

    Args:
        backbone: Its tokenizer counts.
        template: What the fields are of.
        fields: Template field -> value.
        excess: Tokens that are too many.

    Raises:
        InvalidInputError: If nothing of the field would be left.
    """
    ends = {name: _token_ends(backbone, value) for name, value in fields.items() if name in template.fields}
    longest = max(ends, key=lambda name: len(ends[name]))
    kept = max(len(ends[longest]) - excess, len(ends[longest]) // 2 if excess >= len(ends[longest]) else 0)
    text = fields[longest]
    end = ends[longest][kept - 1] if kept else 0
    if end == len(text):  # The last character, such as an emoji, is several tokens.
        end = max((place for place in ends[longest] if place < end), default=0)
    if not end:
        raise InvalidInputError(
            f"template {template.name!r} leaves no room for {longest!r} in max_tokens = "
            f"{backbone.spec.max_tokens}; raise max_tokens or shorten the template"
        )
    return {**fields, longest: text[:end]}


def _token_ends(backbone: Backbone, text: str) -> list[int]:
    """Return where in a text each of its tokens ends; about there, if the tokenizer doesn't say."""
    tokenizer = backbone.tokenizer
    if not tokenizer.is_fast:
        count = len(backbone.special_names.as_text(text))
        return [len(text) * place // count for place in range(1, count + 1)]
    options = {"add_special_tokens": False, "split_special_tokens": True, "return_offsets_mapping": True}
    return [end for _, end in tokenizer(text, **options)["offset_mapping"]]
