"""What a kind of task can't use of what studies name, with the reason."""

from typing import ClassVar

from promptgraft.objectives.data.priors import PriorNames
from promptgraft.objectives.data.rows import WITHOUT_ONE_LABEL
from promptgraft.spaces import Template


class Refusals(PriorNames):
    """Says what doesn't apply to a kind of task.

    Attributes:
        one_label: Whether each row has exactly one label, which label words and confusion need, among others.
        heads: Heads that read answers, the default first; see `Candidate`.
        augmentations: How rows may change at random in training; texts don't.
    """

    one_label: ClassVar[bool] = False
    heads: ClassVar[tuple[str, ...]] = ("linear", "probe")
    augmentations: ClassVar[tuple[str, ...]] = ("none",)

    @classmethod
    def refuses(cls, name: str, value: object) -> str | None:
        """Say why the kind can't use a value of a candidate's parameter; None if it can.

        Args:
            name: The parameter, such as `soft_prompt.init`.
            value: The value.
        """
        if "answer" not in cls.heads and (name.startswith("decoding.") or (name == "head" and value == "answer")):
            return f"{name} is {value!r}, but answers of this kind of task are not texts that are written; leave it out"
        if name == "head" and value == "titles" and value not in cls.heads:
            return "head 'titles' scores the titles of items, which answers of this kind of task aren't; leave it out"
        if name == "augmentation" and value not in cls.augmentations:
            return cls._refused_augmentation(value)
        allowed = WITHOUT_ONE_LABEL.get(name)
        if cls.one_label or allowed is None or value in allowed:
            return cls.refuses_prior(name, value)
        choices = ", ".join(map(repr, allowed))
        return (
            f"{name} {value!r} needs rows with exactly one label each, which this kind of task has not; use {choices}"
        )

    @classmethod
    def _refused_augmentation(cls, value: object) -> str:
        return f"augmentation {value!r} changes images, and rows of this kind of task are texts; leave it out"

    @classmethod
    def refuses_template(cls, template: Template) -> str | None:
        """Say why the kind can't use a template; None if it can."""
        del template
        return None

    @classmethod
    def refuses_family(cls, name: str, *, has_head: bool) -> str | None:
        """Say why a family of backbones, read by a head or by label words, doesn't apply; None if it does."""
        reason = f"{name!r} reads label words, of which rows have no single one; use encoder or recurrent"
        return None if cls.one_label or has_head else reason

    @classmethod
    def refuses_baseline(cls, name: str) -> bool:
        """Whether a baseline, by its name in a study file, doesn't apply to the kind."""
        needs_label = name in ("zero_shot", "contrastive", "contrastive_source")
        return (needs_label and not cls.one_label) or cls.lacks_prior(name)
