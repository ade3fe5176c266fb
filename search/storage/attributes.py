"""Every attribute that promptgraft stores in an Optuna study: its name, and the typed record that it is read as.

Nothing else reads or writes user attributes. What is stored stays readable: a name keeps its meaning, a record that an
older version wrote lacks what came later, and unknown keys are left alone. See docs/architecture.md for a table.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from promptgraft.objectives.measures import PromptAsTokens, UntrainedScore
from promptgraft.search.storage.records import (
    Edit,
    Ensemble,
    Float32Score,
    Opening,
    Outcome,
    Owner,
    Pool,
    RunRecord,
    parsed,
    to_json,
)
from promptgraft.search.study import JudgingSection
from promptgraft.spaces import Candidate

# Of the study. The definition is the study file; `identity` holds hashes of rows and weights, and fingerprints.
DEFINITION, IDENTITY, STUDY_FILE, WANTED = "definition", "identity", "study_file", "wanted"
EDITS, RUN, PARAMETERS, ENSEMBLE, TOKEN = "edits", "run", "parameters", "ensemble", "token"
TEMPLATE_POOL, UNTRAINED_SCORES = "template_pool", "untrained_scores"
# Of the study, with the number of a trial and more appended.
REPEAT, CONTROL, CURVE = "repeat_trial_", "control_trial_", "curve_trial_"
# In place of the number: controls that are the same for every trial.
SHARED = "shared"
FLOAT32, TEST_SET, PROMPT_AS_TOKENS = "float32_trial_", "held_out_trial_", "reading_trial_"
WEIGHTS = "weights_trial_"
# Of a trial.
CANDIDATE, CANDIDATE_KEY, OWNER = "candidate", "candidate_key", "owner"
BASELINE, START_POINT = "baseline", "start_point"
CAUSE, INTERRUPTED, RETRY_OF, TIMES_LOST, RAN_S = "cause", "interrupted", "retry_of", "times_lost", "ran_s"
VALIDATION, CONFUSION, LOSSES, STAGE = "validation_", "confusion", "losses", "stage"


def repeat_attr(trial: int, repeat: int) -> str:
    """Name the attribute of a trial's repeat in the race."""
    return f"{REPEAT}{trial}_{repeat}"


def control_attr(trial: int | str, control: str, repeat: int) -> str:
    """Name the attribute of a repeat of one of a trial's controls; `SHARED` for one of every trial's."""
    return f"{CONTROL}{trial}_{control}_{repeat}"


def curve_attr(trial: int, part: str, rows: int, repeat: int) -> str:
    """Name the attribute of a repeat of a trial on fewer rows of a part of the data."""
    return f"{CURVE}{trial}_{part}_{rows}_{repeat}"


@dataclass(frozen=True, slots=True)
class StudyRecord:
    """What promptgraft has recorded of a study, as it was when it was looked at.

    Attributes:
        attrs: The study's user attributes.
    """

    attrs: Mapping[str, Any]

    @classmethod
    def of(cls, study: optuna.Study) -> "StudyRecord":
        """Look at a study; its storage is read once."""
        return cls(study.user_attrs)

    def stored(self, name: str) -> Any:
        """Return an attribute as it is stored; None if there is none."""
        return self.attrs.get(name)

    @property
    def definition(self) -> Mapping[str, Any]:
        """The study file as it was run last; nothing where there is none."""
        return self.attrs.get(DEFINITION) or {}

    @property
    def identity(self) -> Mapping[str, Any]:
        """Hashes of rows and weights, settings, and the ids of templates and verbalizers; nothing before a run."""
        return self.attrs.get(IDENTITY) or {}

    @property
    def judging(self) -> JudgingSection:
        """How it is judged; not at all if it is from before there was such a thing."""
        return JudgingSection.model_validate(self.definition.get("judging", {"finalists": 0}))

    @property
    def has_source(self) -> bool:
        """Whether it names a source."""
        return self.definition.get("source") is not None or bool(self.definition.get("sources"))

    @property
    def study_file(self) -> str | None:
        """Path of the study file."""
        return self.attrs.get(STUDY_FILE)

    @property
    def token(self) -> str | None:
        """A random name that tells it from every other study; None before a run that gave it one."""
        return self.attrs.get(TOKEN)

    @property
    def wanted(self) -> int | None:
        """Finished trials that the last run was to reach."""
        return self.attrs.get(WANTED)

    @property
    def edits(self) -> list[Edit]:
        """Edits of the study file between runs."""
        return [parsed(Edit, entry) for entry in self.attrs.get(EDITS, [])]

    @property
    def run(self) -> RunRecord | None:
        """The last run."""
        content = self.attrs.get(RUN)
        return RunRecord.from_json(content) if content else None

    @property
    def untrained(self) -> list[UntrainedScore]:
        """Scores of untrained prompts, the best first."""
        return [parsed(UntrainedScore, entry) for entry in self.attrs.get(UNTRAINED_SCORES, [])]

    @property
    def pool(self) -> Pool:
        """What joined while it ran."""
        content = self.attrs.get(TEMPLATE_POOL)
        return Pool.from_json(content) if content else Pool()

    @property
    def rounds(self) -> int:
        """Rounds of growth that were run, without reading what they found."""
        return int(self.attrs.get(TEMPLATE_POOL, {"rounds": 0})["rounds"])

    @property
    def repeats(self) -> dict[int, dict[int, Outcome]]:
        """Repeats of the race: trial -> number of the repeat -> outcome."""
        found: dict[int, dict[int, Outcome]] = {}
        for (trial, repeat), outcome in self._outcomes(REPEAT, 2):
            found.setdefault(int(trial), {})[int(repeat)] = outcome
        return found

    def controls(self, trial: int | str) -> dict[str, dict[int, Outcome]]:
        """Return the repeats of a trial's controls, itself among them: control -> number of the repeat -> outcome.

        `SHARED` in place of the trial's number gives those that all trials have in common.
        """
        found: dict[str, dict[int, Outcome]] = {}
        for (control, repeat), outcome in self._outcomes(f"{CONTROL}{trial}_", 2):
            found.setdefault(control, {})[int(repeat)] = outcome
        return found

    def curve(self, trial: int) -> dict[str, dict[int, dict[int, Outcome]]]:
        """Return the repeats of a trial on fewer rows: part -> rows -> number of the repeat -> outcome."""
        found: dict[str, dict[int, dict[int, Outcome]]] = {}
        for (part, rows, repeat), outcome in self._outcomes(f"{CURVE}{trial}_", 3):
            found.setdefault(part, {}).setdefault(int(rows), {})[int(repeat)] = outcome
        return found

    def outcome(self, attr: str) -> Outcome | None:
        """Return what is recorded under the attribute of a repeat."""
        return parsed(Outcome, self.attrs[attr]) if attr in self.attrs else None

    def seconds(self, *kinds: str) -> list[float]:
        """Return how long each repeat of some kinds took: `REPEAT`, `CONTROL`, `CURVE`."""
        return [outcome.seconds or 0.0 for kind in kinds for _, outcome in self._outcomes(kind, 1)]

    @property
    def repeat_numbers(self) -> list[int]:
        """Numbers of the repeats of all kinds, each once."""
        return sorted({int(parts[-1]) for kind in (REPEAT, CONTROL, CURVE) for parts, _ in self._outcomes(kind, 2)})

    @property
    def float32(self) -> dict[int, Float32Score]:
        """Scores in float32, by trial; none where the search itself was in float32."""
        return {int(number): parsed(Float32Score, content) for number, content in self._below(FLOAT32)}

    @property
    def openings(self) -> list[Opening]:
        """Every opening of the test set, in order."""
        found = [Opening.from_json(int(number), content) for number, content in self._below(TEST_SET)]
        return sorted(found, key=lambda opening: (opening.opened, opening.trial))

    def opening(self, trial: int) -> Opening | None:
        """Return the opening for a trial, if there was one."""
        return next((opening for opening in self.openings if opening.trial == trial), None)

    @property
    def ensemble(self) -> Ensemble | None:
        """The ensemble that the last run chose, whether it ships or not; None if it looked for none."""
        content = self.attrs.get(ENSEMBLE)
        return parsed(Ensemble, content) if content else None

    def shipped_ensemble(self, winner: int) -> Ensemble | None:
        """Return the ensemble that ships in the winner's place; None if the winner ships alone."""
        found = self.ensemble
        return found if found and found.chosen and found.members[0] == winner else None

    def weights_hash(self, trial: int) -> str | None:
        """Return the hash of the weights that an export trained anew for a trial; None if it used the trial's own."""
        return self.attrs.get(f"{WEIGHTS}{trial}")

    def reading(self, trial: int) -> PromptAsTokens | None:
        """Return a trial's soft prompt read as tokens; None before the trial was exported."""
        content = self.attrs.get(f"{PROMPT_AS_TOKENS}{trial}")
        return parsed(PromptAsTokens, content) if content else None

    def _below(self, prefix: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        return ((name.removeprefix(prefix), own) for name, own in self.attrs.items() if name.startswith(prefix))

    def _outcomes(self, prefix: str, parts: int) -> Iterator[tuple[list[str], Outcome]]:
        """Yield the outcomes below a prefix, with what follows it: names of controls may have underscores, too."""
        for rest, content in self._below(prefix):
            yield rest.rsplit("_", parts - 1), parsed(Outcome, content)


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """What promptgraft has recorded of a trial.

    Attributes:
        attrs: The trial's user attributes.
    """

    attrs: Mapping[str, Any]

    @classmethod
    def of(cls, trial: FrozenTrial) -> "TrialRecord":
        """Look at a trial."""
        return cls(trial.user_attrs)

    @property
    def values(self) -> dict[str, Any]:
        """Its candidate as it is stored; nothing if it has none, as a trial that a user added."""
        return self.attrs.get(CANDIDATE) or {}

    @property
    def has_candidate(self) -> bool:
        """Whether it has one."""
        return CANDIDATE in self.attrs

    @property
    def candidate(self) -> Candidate:
        """Its candidate, which it must have."""
        return Candidate.from_values(self.attrs[CANDIDATE])

    @property
    def uses_source(self) -> bool:
        """Whether it is known to use the source, also where another version stored the candidate."""
        return bool(self.values.get("source_steps") or self.values.get("alpha"))

    @property
    def baseline(self) -> str | None:
        """Name of the baseline that it is; None if it was proposed by the sampler."""
        return self.attrs.get(BASELINE)

    @property
    def start_point(self) -> str | None:
        """Name of the start point that it is; None if the sampler drew it, or a user queued it."""
        return self.attrs.get(START_POINT)

    @property
    def fold_values(self) -> Sequence[float]:
        """The metric of each fold; nothing where there is but one."""
        return self.attrs.get("fold_values") or ()

    @property
    def standard_error(self) -> float | None:
        """Standard error of the mean over folds; None where there is but one."""
        return self.attrs.get("standard_error")

    @property
    def owner(self) -> Owner | None:
        """Who runs it."""
        content = self.attrs.get(OWNER)
        return parsed(Owner, {"driver": "", "started": 0.0, **content}) if content else None

    @property
    def cause(self) -> str | None:
        """Why it failed."""
        return self.attrs.get(CAUSE)

    @property
    def is_interrupted(self) -> bool:
        """Whether it was cut off through no fault of its own."""
        return INTERRUPTED in self.attrs

    @property
    def retry_of(self) -> int | None:
        """The lost trial that it runs again."""
        return self.attrs.get(RETRY_OF)

    @property
    def times_lost(self) -> int:
        """How often its candidate was lost before."""
        return int(self.attrs.get(TIMES_LOST, 0))

    @property
    def ran_s(self) -> float | None:
        """How long an orphan ran: it was found much later than it ended."""
        return self.attrs.get(RAN_S)

    @property
    def best_step(self) -> int | None:
        """The step at which it was best; None if no worker of ours ran it to its end."""
        return self.attrs.get("best_step")

    @property
    def metrics(self) -> dict[str, float]:
        """Its validation metrics."""
        return {name.removeprefix(VALIDATION): v for name, v in self.attrs.items() if name.startswith(VALIDATION)}

    @property
    def weights_hash(self) -> str | None:
        """Hash of the weights that it kept; None if it has none of its own, or was run before they were hashed."""
        return self.attrs.get("weights_hash")

    @property
    def load_report(self) -> str | None:
        """What the migration did with the weights."""
        return self.attrs.get("load_report")

    @property
    def gpus(self) -> Sequence[str]:
        """Ray's ids of its GPUs."""
        return self.attrs.get("gpus") or ()

    @property
    def stage(self) -> str | None:
        """Where it was, in words, when it last reported from a stage that takes long; None after its evaluation."""
        return self.attrs.get(STAGE)

    def figure(self, name: str) -> float | None:
        """Return something that was measured of it, such as `seconds` or `prompt_tokens`; None if it wasn't."""
        return self.attrs.get(name)


def candidate_attrs(candidate: Candidate, owner: Owner) -> dict[str, Any]:
    """Return the attributes that a trial has from its start."""
    return {CANDIDATE: candidate.to_dict(), CANDIDATE_KEY: candidate.key, OWNER: asdict(owner)}


def baseline_attrs(name: str, candidate: Candidate) -> dict[str, Any]:
    """Return the attributes of a waiting trial that is a baseline."""
    return {BASELINE: name, CANDIDATE: candidate.to_dict(), CANDIDATE_KEY: candidate.key}


def start_point_attrs(name: str) -> dict[str, Any]:
    """Return the attributes of a waiting trial that is a start point."""
    return {START_POINT: name}


def failure_attrs(cause: str, *, interrupted: bool = False) -> dict[str, Any]:
    """Return the attributes of a trial that failed, or was cut off through no fault of its own."""
    return {CAUSE: cause} | ({INTERRUPTED: True} if interrupted else {})


def rerun_attrs(lost: FrozenTrial, times_lost: int) -> dict[str, Any]:
    """Return the attributes of a waiting trial that runs a lost one again."""
    names = (CANDIDATE, CANDIDATE_KEY, BASELINE, START_POINT)
    kept = {name: lost.user_attrs[name] for name in names if name in lost.user_attrs}
    return {**kept, RETRY_OF: lost.number, TIMES_LOST: times_lost}


def write_study(study: optuna.Study, name: str, record: Any) -> None:
    """Store an attribute of a study: a record, or what JSON knows."""
    study.set_user_attr(name, to_json(record))


def write_trial(storage: BaseStorage, trial_id: int, attrs: Mapping[str, Any]) -> None:
    """Store attributes of a live trial: records, or what JSON knows."""
    for name, record in attrs.items():
        storage.set_trial_user_attr(trial_id, name, to_json(record))
