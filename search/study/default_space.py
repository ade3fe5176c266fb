"""The search space of a study whose file leaves it out; templates and label words where a file has none.

The space becomes an ordinary section of the study file when that is loaded. For encoders with a source it holds the
recipes that were best on movie -> Amazon reviews (128 labelled rows, MiniLM with 6 layers). Accuracy on 1,000 rows, the
mean of 3 splits, and CPU-seconds of one fit: linear probe 0.776, 1; after 80 contrastive updates on the source 0.804,
25; and then 40 contrastive ones on the target, embeddings and first layer frozen, learning rate 1e-4, 0.845, 24 more
(60 of them 0.840, 36; 60 with two layers frozen 0.838, 30); 60 of them without the source 0.838, 35. Freezing nothing
takes 46 and is no better (0.833 against 0.832 on two of the splits). Other families were not measured.

The source stage has the settings that were cheapest among equals. Accuracy of its probe with 8 labels a class, the mean
of 6 splits, on Amazon -> tweets, tweets -> NYT and movie -> Amazon, and CPU-seconds: 80 updates of 32 rows, lower half
frozen, learning rate 2e-4: 0.857, 0.840, 0.809, 49 to 63; 80 of 16, two thirds frozen, 4e-4: 0.871, 0.834, 0.799, 19 to
26; 40 of 32, 2e-4: 0.865, 0.837, 0.788, 27 to 35; 20 of 32, 4e-4: 0.851, 0.830, 0.765, 20 to 22.

Kinds that read histories have priors beside the text, texts with labels TF-IDF of characters; docs/task-kinds.md has
what these were measured to be worth.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

from ruamel.yaml import YAML

from promptgraft.objectives.backbones import FAMILIES
from promptgraft.objectives.data import MOST_OF_EASE, TASK_KINDS, Task, all_labels
from promptgraft.search.study.effort import EFFORTS, Effort
from promptgraft.search.study.schema.sections import SpaceSection
from promptgraft.search.study.schema.study_file import StudyFile
from promptgraft.search.study.schema.tasks import SourceSection, SourceTrainingSection
from promptgraft.spaces import LABEL_FIELD, InvalidInputError, words_of_name

SOURCE_UPDATES = 80
RECURRENT_SOURCE_UPDATES = 400
CONTRASTIVE_UPDATES = (40, 100)
# Updates on the target: the most come to about 16 epochs of 16 rows, but to no fewer than this.
LEAST_UPDATES = 32
# Label words are written out for people for so many labels at most.
MOST_LABELS = 100
# Items of a history that templates show, the newest first, where the next one is predicted, and where the user is.
NEXT_ITEM: Mapping[str, str] = {"last": "[0]", "three": "[:3] | join('; ')", "six": "[:6] | join('; ')"}
PROFILE: Mapping[str, str] = {"newest": "[:20] | join('; ')", "oldest": "[-20:] | join('; ')"}
# Rows of users and items are many, and contrast all items: batches that serve that, on the source and the target.
HISTORY_BATCH = 64
# Factors of the text's logits beside TF-IDF of characters.
TEXT_WEIGHTS = [0.3, 1.0]


@dataclass(frozen=True, slots=True)
class SpaceFacts:
    """What a default space depends on.

    Attributes:
        family: Family of the backbone.
        n_layers: Its number of layers.
        fields: Fields that templates may use.
        label_column: Column of the target's label.
        labels: Labels of all tasks.
        has_source: Whether there is a source.
        shares_labels: Whether each source has all labels of the target.
        rows: Number of the target's labelled rows.
        one_label: Whether each row has exactly one label; see `Task`.
        images: Whether rows are images, of which templates show nothing.
        heads: Heads that read answers, the default first.
        languages: Of a translation: from which language into which one.
        histories: Whether rows are histories of users.
        priors: Priors of the kind of task that so many labels allow.
        overlaps: Whether a source has some label of the target.
    """

    family: str
    n_layers: int
    fields: tuple[str, ...]
    label_column: str
    labels: tuple[str, ...]
    has_source: bool
    shares_labels: bool
    rows: int
    one_label: bool = True
    images: bool = False
    heads: tuple[str, ...] = ("label_words", "linear", "probe")
    languages: tuple[str, str] | None = None
    histories: bool = False
    priors: tuple[str, ...] = ()
    overlaps: bool = True

    @property
    def writes(self) -> bool:
        """Whether answers are texts."""
        return "answer" in self.heads

    @property
    def worded(self) -> bool:
        """Whether label words apply."""
        return self.one_label and "label_words" in self.heads and FAMILIES[self.family].has_words

    @property
    def next_item(self) -> bool:
        """Whether labels are the items of which histories are made."""
        return self.histories and self.one_label

    @classmethod
    def of(cls, file: StudyFile, n_layers: int, target: Task | None, sources: Mapping[str, Task]) -> "SpaceFacts":
        """Take the facts from a study file and its tasks; without a target there are no labels."""
        others = [section.text for section in file.all_sources().values()]
        known, kind = sources.values(), TASK_KINDS[file.target.kind]
        names = all_labels(target, known) if target else ()
        return cls(
            file.only_backbone.family,
            n_layers,
            tuple(field for field in file.target.text if all(field in other for other in others)),
            file.target.label,
            names,
            bool(file.all_sources()),
            bool(sources) and target is not None and all(set(target.labels) <= set(task.labels) for task in known),
            len(target.labelled) if target else 0,
            kind.one_label,
            kind.reads == "images",
            FAMILIES[file.only_backbone.family].heads(kind.heads),
            file.target.languages,
            histories=kind.reads_histories,
            priors=tuple(name for name in kind.priors if name != "ease" or len(names) <= MOST_OF_EASE),
            overlaps=target is not None and any(set(target.labels) & set(task.labels) for task in known),
        )


def with_default_space(file: StudyFile, facts: SpaceFacts) -> StudyFile:
    """Return a study file with what it leaves out of its space.

    Where it leaves out the whole space, sources without `training` get settings that fit the space. Templates and
    label words are drafted where a space has none; hyperparameters that such a space leaves out keep their defaults.

    Raises:
        InvalidInputError: If templates can't be drafted from the names of the fields.
    """
    if file.space is None:
        training = default_source_training(facts)
        return file.model_copy(
            update={
                "space": default_space(facts, EFFORTS[file.effort]),
                "source": file.source and _trained(file.source, training),
                "sources": {name: _trained(section, training) for name, section in file.sources.items()},
            }
        )
    changes: dict[str, Any] = {}
    has_words = FAMILIES[facts.family].has_words
    if not (has_words and (file.space.templates or file.space.chat_templates or file.space.promptsource)):
        changes["templates"] = draft_templates(facts)
    if not has_words:  # Templates and label words are another backbone's.
        changes["verbalizers"] = {}
    if facts.worded and not (file.space.verbalizers or file.space.promptsource):
        changes["verbalizers"] = draft_verbalizers(facts.labels)
    return file.model_copy(update={"space": file.space.model_copy(update=changes)}) if changes else file


def _trained(section: SourceSection, training: SourceTrainingSection) -> SourceSection:
    return section if "training" in section.model_fields_set else section.model_copy(update={"training": training})


def default_source_training(facts: SpaceFacts) -> SourceTrainingSection:
    """Return settings of the source stage that fit the default space."""
    if FAMILIES[facts.family].recurrent:  # These are trained from scratch.
        return SourceTrainingSection(batch_size=32, learning_rate=2e-3)
    if FAMILIES[facts.family].texts_of_labels:
        half = facts.n_layers // 2
        return SourceTrainingSection(batch_size=16, learning_rate=2e-5, head_learning_rate=1e-3, frozen_layers=half)
    if facts.next_item:
        return SourceTrainingSection(batch_size=HISTORY_BATCH, learning_rate=2e-4, frozen_layers=facts.n_layers)
    return SourceTrainingSection(batch_size=16, learning_rate=4e-4, frozen_layers=2 * facts.n_layers // 3)


def default_space(facts: SpaceFacts, effort: Effort) -> SpaceSection:
    """Return a search space that fits a task.

    Args:
        facts: The task and the backbone.
        effort: How large the space may be.

    Raises:
        InvalidInputError: If templates can't be drafted from the names of the fields.
    """
    content: dict[str, Any] = {"templates": draft_templates(facts)}
    if facts.worded:
        content["verbalizers"] = draft_verbalizers(facts.labels)
    family = FAMILIES[facts.family]
    frozen = {facts.n_layers // 2, 3 * facts.n_layers // 4}
    if family.has_head and not family.recurrent:
        frozen.add(max(1, facts.n_layers // 6))
    content["frozen_layers"] = sorted({0, *frozen} if effort.all_layers or family.recurrent else frozen)
    if facts.has_source:
        content["source_steps"] = [RECURRENT_SOURCE_UPDATES] if family.recurrent else [0, SOURCE_UPDATES]
        content["alpha"] = [0.0, 0.2, 0.5] if facts.shares_labels else 0.0
    dimensions = _encoder_dimensions if family.has_head else _language_model_dimensions
    own = (_image_text_dimensions if family.texts_of_labels else dimensions)(facts, effort)
    return SpaceSection.model_validate(content | own | _prior_dimensions(facts) | _history_dimensions(facts))


def _prior_dimensions(facts: SpaceFacts) -> dict[str, Any]:
    """Return what is searched where characters may join what the backbone makes of a text."""
    return {"prior": ["none", "characters"], "text_weight": TEXT_WEIGHTS} if "characters" in facts.priors else {}


def _history_dimensions(facts: SpaceFacts) -> dict[str, Any]:
    """Return what is searched of kinds that read histories: counts beside the text, and what suits many items."""
    if not facts.histories:
        return {}
    counts = [name for name in facts.priors if name != "popularity"]
    found: dict[str, Any] = {"prior": ["none", *counts], "text_weight": [0.0, 0.1, 0.3, 1.0]}
    found["prompt_learning_rate"] = _log_range(3e-3, 3e-2)
    if not facts.next_item:
        return found
    if "titles" in facts.heads:
        found["prior"] = counts
    found |= {"prior_recency": [0.0, 0.5, 1.0], "batch_size": HISTORY_BATCH}
    if facts.has_source and facts.overlaps:
        found["alpha"] = [0.0, 0.3, 0.5]
    if FAMILIES[facts.family].has_head:
        found["head"] = list(facts.heads)
        found["frozen_layers"] = sorted({2 * facts.n_layers // 3, facts.n_layers})
    return found


def _encoder_dimensions(facts: SpaceFacts, effort: Effort) -> dict[str, Any]:
    """Return what is searched of encoders: a probe, contrastive updates, and training from the probe on."""
    family = FAMILIES[facts.family]
    recurrent, poolings = family.recurrent, family.poolings or ()
    found: dict[str, Any] = {
        "head": [head for head in ("probe", "linear") if head in facts.heads],
        "steps": update_numbers(facts.rows, effort.most_updates),
        "learning_rate": _log_range(2e-4, 5e-3) if recurrent else _log_range(2e-5, 2e-4),
    }
    if "probe" in facts.heads:
        found["probe_c"] = _log_range(family.probe_c / 10, family.probe_c * 30)
    if facts.one_label and "probe" in facts.heads:
        found["head"] = "probe"
        found["contrastive_steps"] = [0, *CONTRASTIVE_UPDATES]
    if facts.has_source and facts.one_label and "probe" in facts.heads:
        found["source_objective"] = ["classification", "contrastive"] if recurrent else "contrastive"
    if len(poolings) > 1:
        found["pooling"] = list(poolings)
    if effort.rich:
        worded = facts.worded and all(any(map(str.isalpha, label)) for label in facts.labels)
        found["head"] = [head for head in ("probe", "label_words" if worded else "linear") if head in facts.heads]
        found |= {"prompt_learning_rate": _log_range(1e-3, 3e-2), "layer_decay": [1.0, 0.9, 0.8]}
    return found


def _image_text_dimensions(facts: SpaceFacts, effort: Effort) -> dict[str, Any]:
    """Return what is searched of models that compare images with texts: their embeddings of labels, or context."""
    found: dict[str, Any] = {
        "head": ["label_words", "probe"],
        "steps": update_numbers(facts.rows, effort.most_updates),
        "frozen_layers": sorted({0, facts.n_layers} if effort.all_layers else {facts.n_layers // 2, facts.n_layers}),
        "learning_rate": _log_range(1e-6, 1e-4),
        "prompt_learning_rate": _log_range(3e-4, 1e-2),
        "probe_c": _log_range(0.1, 30.0),
        "soft_prompt": {"length": [0, 4, 16] if effort.rich else [0, 4], "place": "prefix"},
    }
    if effort.rich:
        found |= {"calibration": ["none", "batch"], "layer_decay": [1.0, 0.9, 0.8]}
    return found


def _language_model_dimensions(facts: SpaceFacts, effort: Effort) -> dict[str, Any]:
    """Return what is searched of language models, which are larger: half as many updates."""
    encoder_decoder = FAMILIES[facts.family].encoder_decoder
    found: dict[str, Any] = {
        "steps": update_numbers(facts.rows, effort.most_updates // 2),
        "learning_rate": _log_range(5e-5, 1e-3) if encoder_decoder else _log_range(2e-5, 2e-4),
    }
    if facts.one_label and not facts.histories:
        found["calibration"] = ["none", "batch"]
    if effort.rich:
        found |= {"soft_prompt": {"length": [0, 8], "place": "suffix"}, "adapter": {"method": ["none", "lora"]}}
        found["prompt_learning_rate"] = _log_range(1e-3, 3e-2)
    return found


def _log_range(low: float, high: float) -> dict[str, Any]:
    return {"low": low, "high": high, "log": True}


def update_numbers(rows: int, most: int) -> list[int]:
    """Return numbers of updates on a target with so many rows: none, and up to about 16 epochs.

    Args:
        rows: Number of labelled rows.
        most: Largest number of updates.
    """
    largest = min(most, max(LEAST_UPDATES, 2 ** round(math.log2(max(1, rows)))))
    return [0, largest // 4, largest // 2, largest]


def draft_templates(facts: SpaceFacts) -> dict[str, str]:
    """Write templates from the names of the fields and of the label's column.

    Raises:
        InvalidInputError: If there is no field, or a name is none that a template can use.
    """
    if not facts.fields:
        raise InvalidInputError(
            "target and sources have no field in common, which templates are drafted from; give their columns the same "
            "names under `text`, or write space.templates"
        )
    for field in facts.fields:
        if not field.isidentifier() or field == LABEL_FIELD:
            raise InvalidInputError(
                f"no template can be drafted with a field named {field!r}; name it otherwise under `text`, as in "
                f"`text: {{text: {field}}}`, or write space.templates"
            )
    if facts.histories:
        (field,), shown = facts.fields, NEXT_ITEM if facts.next_item else PROFILE
        split = f"{field}.split('\\n')"
        if "titles" in facts.heads:  # What comes next stands behind the newest one.
            shown = {name: part.replace(" | join", " | reverse | join") for name, part in shown.items()}
            return {name: f"{{{{ {split}{part} }}}}; {{{{ {LABEL_FIELD} }}}}" for name, part in shown.items()}
        return {name: f"{{{{ {split}{part} }}}} {{{{ {LABEL_FIELD} }}}}" for name, part in shown.items()}
    joined = " ".join(f"{{{{ {field} }}}}" for field in facts.fields)
    family, label = FAMILIES[facts.family], f"{{{{ {LABEL_FIELD} }}}}"
    end = "" if family.label_last or family.encoder_decoder else "."
    statement = f"{joined} It was {label}{end}"
    if family.texts_of_labels:
        return {"photo": f"a photo of {label}", "plain": label}
    if facts.images or not (facts.one_label or facts.writes):
        return {"plain": f"{joined} {label}"}
    if family.has_head:
        return {"plain": f"{joined} {label}", "statement": statement}
    title = _title(facts.label_column) if facts.label_column.isidentifier() else "Label"
    lines = [*(f"{_title(field)}: {{{{ {field} }}}}" for field in facts.fields), f"{title}: {label}"]
    if facts.languages:
        return _translating(facts.languages, joined, label, lines=family.label_last)
    named = {"named": "\n".join(lines)}
    return named if facts.writes else {"statement": statement, **named}


def _translating(languages: tuple[str, str], text: str, label: str, *, lines: bool) -> dict[str, str]:
    """Write templates of a translation: for models that were trained to translate the text alone is enough."""
    source, target = languages
    if lines:
        return {"named": f"{source}: {text}\n{target}: {label}"}
    return {"plain": f"{text} {label}", "task": f"translate {source} to {target}: {text} {label}"}


def _title(name: str) -> str:
    return name.replace("_", " ").strip().capitalize()


def draft_verbalizers(labels: Sequence[str]) -> dict[str, dict[str, tuple[str, ...]]]:
    """Write label words from the names of the labels; names with digits, and names that would become alike, stay."""
    words = {label: words_of_name(label) for label in labels}
    counts = Counter(words.values())
    return {"names": {label: (word if word and counts[word] == 1 else label,) for label, word in words.items()}}


def space_text(file: StudyFile) -> str:
    """Write the space of a study, and how its sources are trained, as parts of its study file.

    Args:
        file: The study file, with its space filled in.
    """
    content: dict[str, Any] = {}
    training = {name: section.training.model_dump() for name, section in file.all_sources().items()}
    if file.source is not None:
        content["source"] = {"training": training[""]}
    if file.sources:
        content["sources"] = {name: {"training": training[name]} for name in file.sources}
    if file.space is not None:
        space = file.space.model_dump(mode="json", exclude_defaults=True)
        if not FAMILIES[file.only_backbone.family].has_words:
            del space["templates"]  # They are always the same.
        if any(len(words) > MOST_LABELS for words in file.space.verbalizers.values()):
            del space["verbalizers"]
        content["space"] = _shortened(space)
    yaml, written = YAML(), StringIO()
    yaml.default_flow_style = None
    yaml.width = 120
    yaml.dump(content, written)
    return written.getvalue()


def _shortened(value: Any) -> Any:
    """Write choices as a list, and a single one as a value, as a study file may."""
    if not isinstance(value, dict):
        return value
    if value.keys() == {"choices"}:
        return value["choices"][0] if len(value["choices"]) == 1 else value["choices"]
    return {name: _shortened(inner) for name, inner in value.items()}
