"""What is stored of a study and its trials, as typed records; `search.storage.attributes` has their names."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar

from promptgraft.spaces import SearchSpace, Template, Verbalizer

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a repeat found: of a finalist, of a control, or on fewer rows.

    Attributes:
        value: The study's metric on its validation rows; None if it failed.
        metrics: All validation metrics.
        seconds: How long it took.
        failure: Why it failed.
        trial: The trial that was repeated, where further trials may bring a better one in its place.
    """

    value: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: float | None = None
    failure: str | None = None
    trial: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as it is stored."""
        return {name: value for name, value in asdict(self).items() if value is not None and value != {}}


@dataclass(frozen=True, slots=True)
class Float32Score:
    """What the weights of a search in lower precision score in float32.

    Attributes:
        value: The study's metric on the validation rows.
        metrics: All validation metrics.
        max_probability_difference: Largest difference from a probability of the search; None if it wasn't recorded.
    """

    value: float
    metrics: Mapping[str, float]
    max_probability_difference: float | None = None


@dataclass(frozen=True, slots=True)
class Ensemble:
    """Trials whose models may ship together.

    Attributes:
        members: Numbers of the trials, the winner first.
        weights: Share of each in the mean of their probabilities.
        value: The study's metric over the folds, each scored by the members that the others chose.
        alone: That of the winner.
        error: Standard error of their difference over the folds.
        loss: Mean log loss of the rows out of their fold, in nats.
        loss_alone: That of the winner.
        chosen: Whether it ships.
    """

    members: tuple[int, ...]
    weights: tuple[float, ...]
    value: float
    alone: float
    error: float
    loss: float
    loss_alone: float
    chosen: bool


@dataclass(frozen=True, slots=True)
class Opening:
    """An opening of the test set.

    Attributes:
        trial: The trial that it was opened for.
        opened: When, in ISO 8601.
        rows: Hash of the rows.
        who: Who opened it; None in a record of an older version.
        table: Name and metrics of each system, the trial first; None if scoring was cut off.
        interval: Ends of the interval of the trial's metric.
        transfer: What the source is worth on these rows, as `TransferGain` is stored.
        members: The trials of an ensemble, if one was scored that this one leads; the table then begins with it.
    """

    trial: int
    opened: str
    rows: str
    who: str | None = None
    table: Sequence[tuple[str, Mapping[str, float]]] | None = None
    interval: tuple[float, float] | None = None
    transfer: Mapping[str, Any] | None = None
    members: tuple[int, ...] = ()

    @classmethod
    def from_json(cls, trial: int, content: Mapping[str, Any]) -> "Opening":
        """Read it as it is stored."""
        opening = parsed(cls, {**content, "trial": trial})
        return replace(opening, table=opening.table and tuple((name, metrics) for name, metrics in opening.table))

    def to_json(self) -> dict[str, Any]:
        """Return it as it is stored: the trial is in the attribute's name."""
        found: dict[str, Any] = {"rows": self.rows, "opened": self.opened, "who": self.who, "table": self.table}
        if self.members:
            found["members"] = list(self.members)
        return found | ({"interval": self.interval, "transfer": self.transfer} if self.table is not None else {})

    def alone(self) -> "Opening":
        """Return what it says of the trial itself, without an ensemble that it leads; the interval was of that."""
        return replace(self, table=self.table and self.table[1:], interval=None, members=()) if self.members else self


@dataclass(frozen=True, slots=True)
class Edit:
    """Edits of a study file between two runs.

    Attributes:
        date: When, in ISO 8601.
        edits: What was edited, in words.
        fingerprint: Of the search space from then on.
    """

    date: str
    edits: Sequence[str]
    fingerprint: str | None = None


@dataclass(frozen=True, slots=True)
class RunRecord:
    """The last run of a study.

    Attributes:
        limits: What it may use, as `Limits` is stored.
        concurrent: Trials at a time.
        files: URL of its files.
        versions: Library -> version.
        driver: Who runs it; None in a record of an older version.
        ended: Why it ended; None while it goes on, or if its driver died.
    """

    limits: Mapping[str, Any]
    concurrent: int
    files: str
    versions: Mapping[str, str] = field(default_factory=dict)
    driver: "Owner | None" = None
    ended: str | None = None

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "RunRecord":
        """Read it as it is stored."""
        driver = content.get("driver")
        return parsed(cls, {**content, "driver": parsed(Owner, driver) if driver else None})


@dataclass(frozen=True, slots=True)
class Owner:
    """Who runs a trial, or a study.

    Attributes:
        driver: A random name of the driver.
        host: Its machine.
        pid: Its process there.
        started: When the driver started, seconds since the epoch.
        machine: Boot of the machine and namespaces, in which `pid` and `ticks` mean something; empty if unknown.
        ticks: When the process started, in ticks since that boot.
    """

    driver: str
    host: str
    pid: int
    started: float
    machine: str = ""
    ticks: int = 0


@dataclass(frozen=True, slots=True)
class Pool:
    """What a study has found beside the templates of its file.

    Attributes:
        rounds: Rounds of growth that were run.
        templates: The templates that joined.
        verbalizers: Likewise.
    """

    rounds: int = 0
    templates: tuple[Template, ...] = ()
    verbalizers: tuple[Verbalizer, ...] = ()

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Pool":
        """Read it as it is stored."""
        templates = tuple(Template(**{**entry, "parents": tuple(entry["parents"])}) for entry in content["templates"])
        words = [(entry["name"], entry["words"].items()) for entry in content["verbalizers"]]
        verbalizers = tuple(Verbalizer(name, {label: tuple(own) for label, own in labels}) for name, labels in words)
        return cls(content["rounds"], templates, verbalizers)

    def to_json(self) -> dict[str, Any]:
        """Return it as it is stored."""
        words = [(entry.name, entry.words.items()) for entry in self.verbalizers]
        return {
            "rounds": self.rounds,
            "templates": [
                {"name": own.name, "text": own.text, "source": own.source, "parents": own.parents}
                for own in self.templates
            ],
            "verbalizers": [
                {"name": name, "words": {label: list(own) for label, own in labels}} for name, labels in words
            ],
        }

    def added_to(self, space: SearchSpace) -> SearchSpace:
        """Return a space with all that joined; what its file has by now is left out."""
        return space.with_more(self.templates, self.verbalizers)


def to_json(value: Any) -> Any:
    """Return something made of dataclasses, mappings and sequences in JSON types.

    A field that has a default is left out where it has it: a key that is there only now and then. An underscore at the
    end of a name, which keeps it from being a word of Python's, is dropped.
    """
    if hasattr(value, "to_json"):
        return to_json(value.to_json())
    if is_dataclass(value):
        own = [(entry, getattr(value, entry.name)) for entry in fields(value)]
        kept = [(entry.name, given) for entry, given in own if entry.default is MISSING or given != entry.default]
        return {name.removesuffix("_"): to_json(given) for name, given in kept}
    if isinstance(value, Mapping):
        return {str(name): to_json(own) for name, own in value.items()}
    return [to_json(own) for own in value] if isinstance(value, Sequence) and not isinstance(value, str) else value


def parsed(kind: type[T], content: Mapping[str, Any]) -> T:
    """Build a record from what is stored, without what later versions may have added; lists become tuples."""
    known = {entry.name for entry in fields(kind)}  # type: ignore[arg-type]
    return kind(**{n: tuple(v) if isinstance(v, list) else v for n, v in content.items() if n in known})
