"""What a bundle says of itself: everything that production needs of a winner, as data; nothing in it is code."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from promptgraft.objectives.backbones import FAMILIES
from promptgraft.objectives.data import TASK_KINDS, Row, Task
from promptgraft.objectives.prompting import DemonstrationPool
from promptgraft.objectives.spec import MOST_PIXELS_A_SIDE
from promptgraft.spaces import DIMENSIONS, Candidate, InvalidInputError, Template, Verbalizer

SCHEMA_VERSION = 2
MANIFEST_FILE, DELTA_FILE, CARD_FILE = "manifest.json", "delta.safetensors", "README.md"
EXAMPLES_FILE, LOCK_FILE, BACKBONE_FOLDER = "examples.json", "requirements.txt", "backbone"


def is_plain(name: str) -> bool:
    """Tell whether a name is that of a file in its own folder, and leads nowhere else."""
    return name not in ("", ".", "..") and not set(name) & set("/\\\0")


def _plain_names(files: dict[str, str]) -> dict[str, str]:
    for name in files:
        if not is_plain(name):
            raise ValueError(f"{name!r} is no name of a file in the bundle")
    return files


# File name -> SHA-256 of its content.
FileHashes = Annotated[dict[str, str], AfterValidator(_plain_names)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BackboneReference(_Part):
    """The pretrained model that the delta belongs to.

    Attributes:
        path: Local folder or hub id; where it was, if the bundle brings it along.
        bundled: Whether the bundle brings it along, in its folder `backbone`.
        family: Backbone family.
        max_tokens: Longest rendered prompt, in tokens.
        files: File name -> SHA-256 of its content.
        trust_remote_code: Whether the model needs Python code that lies beside its weights.
        dtype: Type in which it is loaded and computes.
        attn_implementation: How transformers computes attention; its own choice if None.
        layers: How many of its lowest layers are used; all if None.
        image_size: Height and width of the images that it reads; what its image processor says if None.
    """

    path: str
    bundled: bool = False
    family: str
    max_tokens: int = Field(ge=8)
    files: FileHashes
    trust_remote_code: bool = False
    dtype: Literal["float32"] = "float32"
    attn_implementation: str | None = None
    layers: int | None = Field(None, ge=1)
    image_size: int | None = Field(None, ge=8, le=MOST_PIXELS_A_SIDE)


class DemonstrationRow(_Part):
    """A training row that prompts may show.

    Attributes:
        fields: Template field -> value.
        label: Its label, or its answer where that is a text.
    """

    fields: dict[str, str]
    label: str


class TemplatePart(_Part):
    """A template.

    Attributes:
        name: The user's name for it.
        text: In jinja2's syntax.
    """

    name: str
    text: str


class VerbalizerPart(_Part):
    """A verbalizer.

    Attributes:
        name: The user's name for it.
        words: Label -> label words.
    """

    name: str
    words: dict[str, tuple[str, ...]]


class Examples(_Part):
    """Rows with the logits that the trial gave them, by which `verify` checks that a bundle still gives the same.

    Attributes:
        rows: Template field -> value, a mapping a row.
        logits: Shape (rows, labels), or (rows, words, labels), padded with zeros.
    """

    rows: tuple[dict[str, str], ...] = Field(min_length=1)
    logits: tuple[tuple[FiniteFloat | tuple[FiniteFloat, ...], ...], ...]


class MemberPart(_Part):
    """A model of an ensemble.

    Attributes:
        trial: Number of its trial.
        weight: Its share of the ensemble's probabilities.
        file: Its weights.
        candidate: The candidate, by parameter name.
        template: The template.
        verbalizer: The verbalizer; None if the head uses none.
        demonstrations: Training rows that are shown in front of a prompt, in the order of preference; all of them where
            each prompt is shown those nearest to it.
    """

    trial: int
    weight: float = Field(gt=0, le=1)
    file: str = Field(pattern=r"^delta(-\d+)?\.safetensors$")
    candidate: dict[str, Any]
    template: TemplatePart
    verbalizer: VerbalizerPart | None
    demonstrations: tuple[DemonstrationRow, ...] = ()

    def parts(self, head_labels: Sequence[str], shown: Sequence[str]) -> tuple[Candidate, Template, Verbalizer | None]:
        """Build the candidate, its template and its verbalizer.

        Args:
            head_labels: Labels that the head was built for.
            shown: Names of the fields that templates may show.

        Raises:
            InvalidInputError: If they don't make sense, or the verbalizer lacks words for a label.
        """
        verbalizer = None
        if self.verbalizer is not None:
            verbalizer = Verbalizer(self.verbalizer.name, self.verbalizer.words)
            verbalizer.check_labels(head_labels)
        template = Template(self.template.name, self.template.text)
        template.check_fields(shown)
        return self._candidate(), template, verbalizer

    def _candidate(self) -> Candidate:
        values: dict[str, Any] = {}
        for name, value in self.candidate.items():
            if name in DIMENSIONS:
                value = DIMENSIONS[name].check(value)
            elif not isinstance(value, str | int | float):
                raise InvalidInputError(f"{name} must be a string or a number, got {value!r}")
            values[name] = value
        return Candidate.from_values(values)


# Fields that came after version 2 was released; they are left out where they say nothing, which keeps older digests.
_LATER: Mapping[str, object] = {
    "kind": "text_classification",
    "members": (),
    "temperature": 1.0,
    "thresholds": (),
    "signatures": {},
    "languages": None,
    "coverage": (),
    "item_columns": (),
    "item_ids": (),
}
_LATER_OF_BACKBONE = ("layers", "image_size")


class CoveragePoint(_Part):
    """What a model is right about if the rows of which it is least sure are left to a person.

    Attributes:
        threshold: Smallest probability of the likeliest label at which the model decides.
        coverage: Share of the rows that it decides on.
        accuracy: Share of these that it gets right.
    """

    threshold: float
    coverage: float
    accuracy: float


class Manifest(_Part):
    """What a bundle says of itself.

    Attributes:
        schema_version: Version of this layout.
        study: Name of the study.
        kind: Kind of task.
        trial: Number of the winning trial.
        seed: Seed of that trial.
        candidate: The candidate, by parameter name.
        template: The template.
        verbalizer: The verbalizer; None if the head uses none.
        labels: The target's labels, in the order of the logits; or the name of the number.
        head_labels: Labels that the head was built for: the target's and the source's.
        columns: Template field -> column of the input table.
        backbone: The pretrained model.
        evaluation_batch_size: Rows a batch.
        metrics: Split -> metric -> value.
        intervals: Split -> metric -> ends of the interval of that value on rows like these.
        data: `target rows`, `source rows` and `test rows` -> hash of those that the study was started with.
        demonstrations: Training rows that are shown in front of a prompt, in the order of preference; all of them where
            each prompt is shown those nearest to it.
        members: The other models of an ensemble, which the trial leads; the trial has what their weights leave of 1.
        temperature: What logits are divided by before they become probabilities.
        thresholds: Smallest probability at which each label is predicted, of kinds of task with several labels a row.
        signatures: Metric -> how a library of metrics computed it, where it has a signature for that.
        languages: From which language into which one it translates; None if it doesn't.
        coverage: What it is right about, by how sure it must be; on rows out of their fold.
        item_columns: Where it recommends items: the columns of their id and their text in the study's table.
        item_ids: The id of each of these items, in the order of the labels; none where an older version wrote it.
        files: File of this bundle -> SHA-256 of its content.
        versions: Package -> version that wrote it; `requirements.txt` has all that these need.
        digest: SHA-256 of this manifest, written as it is with an empty digest.
    """

    schema_version: int = SCHEMA_VERSION
    study: str
    kind: str = "text_classification"
    trial: int
    seed: int = Field(ge=0, lt=2**31)
    candidate: dict[str, Any]
    template: TemplatePart
    verbalizer: VerbalizerPart | None
    labels: tuple[str, ...]
    head_labels: tuple[str, ...]
    columns: dict[str, str]
    backbone: BackboneReference
    evaluation_batch_size: int = Field(ge=1, le=100_000)
    metrics: dict[str, dict[str, float]]
    intervals: dict[str, dict[str, tuple[float, float]]] = {}
    data: dict[str, str | dict[str, str] | None] = {}
    demonstrations: tuple[DemonstrationRow, ...] = ()
    members: tuple[MemberPart, ...] = ()
    temperature: float = Field(1.0, gt=0)
    thresholds: tuple[float, ...] = ()
    signatures: dict[str, str] = {}
    languages: tuple[str, str] | None = None
    coverage: tuple[CoveragePoint, ...] = ()
    item_columns: tuple[str, ...] = ()
    item_ids: tuple[str, ...] = ()
    files: FileHashes = {}
    versions: dict[str, str] = {}
    digest: str = ""

    @model_validator(mode="after")
    def _fits_together(self) -> "Manifest":
        if self.kind not in TASK_KINDS:
            raise ValueError(
                f"there is no task kind {self.kind!r} here; install the package that the study was run with"
            )
        kind = TASK_KINDS[self.kind]
        # What is found at places may be of a single kind.
        least = 2 if kind.has_labels and not kind.in_places else 1
        if len(set(self.labels)) < max(least, len(self.labels)) or len(set(self.head_labels)) < len(self.head_labels):
            raise ValueError(f"labels must be {least} or more, each once")
        if len(self.thresholds) not in (0, len(self.labels)):
            raise ValueError("thresholds must be as many as labels")
        if len(self.item_ids) not in (0, len(self.labels)):
            raise ValueError("item_ids must be as many as labels")
        if not set(self.labels) <= set(self.head_labels):
            raise ValueError("labels must be among head_labels")
        rows = [*self.demonstrations, *(entry for member in self.members for entry in member.demonstrations)]
        shown = {entry.label for entry in rows}
        if kind.has_labels and not shown <= set(self.labels):
            raise ValueError("labels of demonstrations must be among labels")
        if sum(member.weight for member in self.members) >= 1:
            raise ValueError("weights of members must leave some for the trial itself")
        return self

    @property
    def task(self) -> Task:
        """The task, without any rows: it says what outputs mean."""
        return TASK_KINDS[self.kind](labels=self.labels, train=(), thresholds=self.thresholds)

    @property
    def origin(self) -> dict[str, Any]:
        """`study`, `trial` and `digest`: what others' records say of a bundle."""
        return {"study": self.study, "trial": self.trial, "digest": self.digest}

    @property
    def models(self) -> tuple[MemberPart, ...]:
        """All models: the trial itself, then the other members of an ensemble."""
        first = MemberPart(
            trial=self.trial,
            weight=1.0 - sum(member.weight for member in self.members),
            file=DELTA_FILE,
            candidate=self.candidate,
            template=self.template,
            verbalizer=self.verbalizer,
            demonstrations=self.demonstrations,
        )
        return (first, *self.members)

    def to_json(self) -> str:
        """Write it as it stands in a bundle, with its digest."""
        silent: dict[str, Any] = {name: True for name, default in _LATER.items() if getattr(self, name) == default}
        silent["backbone"] = {name for name in _LATER_OF_BACKBONE if getattr(self.backbone, name) is None}
        bare = self.model_copy(update={"digest": ""}).model_dump_json(indent=2, exclude=silent)
        digest = hashlib.sha256(bare.encode()).hexdigest()
        return self.model_copy(update={"digest": digest}).model_dump_json(indent=2, exclude=silent) + "\n"

    def parts(self) -> tuple[Candidate, Template, Verbalizer | None]:
        """Build the trial's candidate, its template and its verbalizer; see `MemberPart.parts`."""
        return self.models[0].parts(self.head_labels, self.shown)

    @property
    def shown(self) -> tuple[str, ...]:
        """Names of the fields that templates show; none where texts are of labels alone."""
        return () if FAMILIES[self.backbone.family].texts_of_labels else tuple(self.columns)

    def pool(self, member: MemberPart | None = None) -> DemonstrationPool | None:
        """Build a model's pool of demonstrations; None if its candidate has none.

        Args:
            member: The model; the trial itself if None.

        Raises:
            InvalidInputError: If there are too few rows.
        """
        member = member or self.models[0]
        candidate, template, verbalizer = member.parts(self.head_labels, self.shown)
        if not candidate.demonstrations.count:
            return None
        rows = [
            Row(entry.fields, entry.label if verbalizer is None else self.labels.index(entry.label))
            for entry in member.demonstrations
        ]
        return DemonstrationPool(candidate.demonstrations, rows, self.labels, template, verbalizer)


def demonstration_rows(pool: DemonstrationPool | None, labels: Sequence[str]) -> tuple[DemonstrationRow, ...]:
    """Write down a pool's rows.

    Args:
        pool: The pool; none gives no rows.
        labels: The target's labels.
    """
    rows = pool.rows if pool else ()
    names = [labels[row.answer] if isinstance(row.answer, int) else str(row.answer) for row in rows]
    return tuple(DemonstrationRow(fields=dict(row.fields), label=name) for row, name in zip(rows, names, strict=True))


def check_abstaining(task: Task, abstain_below: float) -> None:
    """Refuse a smallest probability of a label where rows have no single label.

    Raises:
        InvalidInputError: If it is given for such a kind of task.
    """
    if abstain_below and not task.one_label:
        raise InvalidInputError(f"--abstain-below is {abstain_below:g}, but this bundle's rows have no single label")
