"""What promptgraft uses of Optuna beyond its public API: a contract for each part, which a new Optuna may break."""

import ast
import contextlib
import inspect
import tomllib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import optuna
import pytest
import sqlalchemy
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import MedianPruner, SuccessiveHalvingPruner
from optuna.samplers import RandomSampler, TPESampler
from optuna.search_space import IntersectionSearchSpace
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState, create_trial
from optuna_dashboard import save_note
from optuna_dashboard._note import get_note_from_system_attrs
from packaging.requirements import Requirement

from promptgraft.search.storage import open_storage, optuna_private
from tests.support.paths import ROOT


def storage_of(study: optuna.Study, database: RDBStorage) -> None:
    trial = study.ask()
    trial_id = database.get_trial_id_from_study_id_trial_number(database.get_study_id_from_name("s"), trial.number)
    assert optuna_private.storage_of(study).get_trial(trial_id).number == trial.number


def database_of(study: optuna.Study, database: RDBStorage) -> None:
    assert optuna_private.database_of(study) is database
    assert optuna_private.database_of(optuna.load_study(study_name="s", storage=database)) is database
    assert optuna_private.database_of(optuna.create_study()) is None


def open_current(study: optuna.Study, database: RDBStorage) -> None:
    """The storage is Optuna's own in all its attributes, methods and versions; databases of other versions are left."""
    path, known = Path(str(database.engine.url.database)), {"heartbeat_interval": 20, "grace_period": 120}
    url = f"sqlite:///{path}"
    checked = RDBStorage(url, engine_kwargs={}, **known)
    opened = optuna_private.open_current(path, url, {}, **known)
    assert opened is not None
    trial = optuna.load_study(study_name="s", storage=opened).ask()
    opened.record_heartbeat(optuna_private.trial_id_of(study.get_trials()[trial.number]))
    assert optuna_private.last_beats(checked, 1).keys() == {1}
    assert opened.get_current_version() == opened.get_head_version() == checked.get_head_version()
    assert vars(opened).keys() == vars(checked).keys()
    plain = (str, int, type(None), dict)
    differing = {name for name, value in vars(checked).items() if value != vars(opened)[name]}
    assert {name for name in differing if isinstance(vars(checked)[name], plain)} == {"skip_compatibility_check"}
    for change in ("alembic_version SET version_num = 'v3.0.0.d'", "version_info SET library_version = '4.0.0'"):
        with database.engine.begin() as connection:
            connection.execute(sqlalchemy.text(f"UPDATE {change}"))
        assert optuna_private.open_current(path, url, {}, **known) is None
        with database.engine.begin() as connection:
            connection.execute(
                sqlalchemy.text(f"UPDATE alembic_version SET version_num = '{opened.get_head_version()}'")
            )
    assert optuna_private.open_current(path.with_name("none"), url, {}, **known) is None


def trial_id_of(study: optuna.Study, database: RDBStorage) -> None:
    number = study.ask().number
    assert database.get_trial_number_from_id(optuna_private.trial_id_of(study.get_trials()[number])) == number


def last_beats(study: optuna.Study, database: RDBStorage) -> None:
    """Only trials that run and have a heart are listed, and a beat changes what is listed of them."""
    study_id, ids = database.get_study_id_from_name("s"), []
    for _ in range(3):
        study.ask()
        ids.append(optuna_private.trial_id_of(study.get_trials()[-1]))
    alive, ended, _ = ids
    for trial_id in (alive, ended):
        database.record_heartbeat(trial_id)
    database.set_trial_state_values(ended, TrialState.FAIL)
    _silence(database, alive, 60)
    before = optuna_private.last_beats(database, study_id)
    assert list(before) == [alive]
    assert optuna_private.last_beats(database, study_id) == before
    database.record_heartbeat(alive)
    assert optuna_private.last_beats(database, study_id)[alive] != before[alive]


def has_heartbeat(study: optuna.Study, database: RDBStorage) -> None:
    study.ask()
    (trial_id,) = map(optuna_private.trial_id_of, study.get_trials())
    assert not optuna_private.has_heartbeat(database, trial_id)
    database.record_heartbeat(trial_id)
    assert optuna_private.has_heartbeat(database, trial_id)


def silent_seconds(study: optuna.Study, database: RDBStorage) -> None:
    study.ask()
    (trial_id,) = map(optuna_private.trial_id_of, study.get_trials())
    assert optuna_private.silent_seconds(database, trial_id) is None
    database.record_heartbeat(trial_id)
    _silence(database, trial_id, 500)
    assert optuna_private.silent_seconds(database, trial_id) == pytest.approx(500, abs=60)


def contains(study: optuna.Study, database: RDBStorage) -> None:
    for distribution, inside, outside in (
        (CategoricalDistribution(("a", "b")), "b", "c"),
        (IntDistribution(0, 8, step=4), 4, 5),
        (FloatDistribution(1e-5, 1e-2, log=True), 1e-3, 0.1),
    ):
        assert optuna_private.contains(distribution, inside)
        with contextlib.suppress(ValueError):  # Which its docstring allows.
            assert not optuna_private.contains(distribution, outside)


def share_search_space(study: optuna.Study, database: RDBStorage) -> None:
    """TPE draws from what the given space says that the trials have in common."""

    class Counted(IntersectionSearchSpace):
        asked = 0

        def calculate(
            self, study: optuna.Study, use_trial_cache: bool = False
        ) -> dict[str, optuna.distributions.BaseDistribution]:
            Counted.asked += 1
            return super().calculate(study, use_trial_cache)

    study.add_trial(create_trial(value=0.0, params={"x": 0.5}, distributions={"x": FloatDistribution(0, 1)}))
    sampler, common = TPESampler(seed=0, multivariate=True, n_startup_trials=1), Counted(include_pruned=True)
    optuna_private.share_search_space(sampler, common)
    study.sampler = sampler
    assert 0 <= study.ask().suggest_float("x", 0, 1) <= 1
    assert Counted.asked > 0
    optuna_private.share_search_space(RandomSampler(), common)


def enqueued_parameters(study: optuna.Study, database: RDBStorage) -> None:
    study.enqueue_trial({"x": 0.25})
    (waiting,) = study.get_trials(states=(TrialState.WAITING,))
    assert optuna_private.enqueued_parameters(waiting) == {"x": 0.25}
    assert optuna_private.enqueued_parameters(create_trial(value=0.0)) == {}


def retry_history(study: optuna.Study, database: RDBStorage) -> None:
    """What Optuna's own callback writes is read."""
    study.ask()
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        RetryHeartbeatStaleTrialCallback()(study, study.get_trials()[0])
    assert [optuna_private.retry_history(trial) for trial in study.get_trials()] == [[], [0]]


def retry_attrs(study: optuna.Study, database: RDBStorage) -> None:
    """What is written is read by Optuna's own callback."""
    study.ask()
    for _ in range(2):
        last = study.get_trials()[-1]
        study.add_trial(create_trial(state=TrialState.WAITING, system_attrs=optuna_private.retry_attrs(last)))
    last = study.get_trials()[-1]
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        assert RetryHeartbeatStaleTrialCallback.retry_history(last) == [0, 1]
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        assert RetryHeartbeatStaleTrialCallback.retried_trial_number(last) == 0


def study_over(study: optuna.Study, database: RDBStorage) -> None:
    """Every pruner decides through it as it does on the study itself, and sees what the storage hides."""
    for value in (0.1, 0.2, 0.3):
        study.add_trial(create_trial(value=value, intermediate_values={0: value}))
    trial = study.ask()
    trial.report(0.9, 0)
    running = study.get_trials()[-1]

    class Empty:
        def __getattr__(self, name: str) -> object:
            return getattr(optuna_private.storage_of(study), name)

        def get_all_trials(self, *args: object, **options: object) -> list[object]:
            return []

    for pruner in (MedianPruner(n_startup_trials=1), SuccessiveHalvingPruner(min_resource=1)):
        direct, hidden = (
            optuna_private.study_over("s", storage, pruner) for storage in (optuna_private.storage_of(study), Empty())
        )
        assert pruner.prune(direct, running) == pruner.prune(study, running)
        assert not pruner.prune(hidden, running)
    assert MedianPruner(n_startup_trials=1).prune(study, running)


def trial_for_note(study: optuna.Study, database: RDBStorage) -> None:
    study.ask()
    (trial_id,) = map(optuna_private.trial_id_of, study.get_trials())
    save_note(optuna_private.trial_for_note(study, database, trial_id), "noted")
    attrs = database.get_study_system_attrs(database.get_study_id_from_name("s"))
    assert get_note_from_system_attrs(attrs, trial_id)["body"] == "noted"


CONTRACTS: tuple[Callable[[optuna.Study, RDBStorage], None], ...] = (
    storage_of,
    database_of,
    open_current,
    trial_id_of,
    last_beats,
    has_heartbeat,
    silent_seconds,
    contains,
    share_search_space,
    enqueued_parameters,
    retry_history,
    retry_attrs,
    study_over,
    trial_for_note,
)


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract.__name__)
def test_optuna_still_does_what_is_needed_of(
    contract: Callable[[optuna.Study, RDBStorage], None], tmp_path: Path
) -> None:
    database = open_storage(f"sqlite:///{tmp_path / 'study.db'}")
    study = optuna.create_study(storage=database, study_name="s", sampler=RandomSampler(seed=0))
    name = f"{optuna_private.__name__}.{contract.__name__}"
    broken = what_is_broken(contract, study, database)
    assert broken is None, f"Optuna {version('optuna')} broke {name}: {broken}"


def what_is_broken(
    contract: Callable[[optuna.Study, RDBStorage], None], study: optuna.Study, database: RDBStorage
) -> str | None:
    """Say which error a contract ends with; None if it holds."""
    try:
        contract(study, database)
    except Exception as error:  # noqa: BLE001 (whatever it is, the contract is broken)
        return f"{type(error).__name__}: {error}"
    return None


def test_every_part_has_its_contract() -> None:
    assert {contract.__name__ for contract in CONTRACTS} == _functions(optuna_private)


def test_nothing_private_of_optuna_is_used_elsewhere() -> None:
    """No attribute with an underscore of anything but one's own, and no private module or key."""
    private = ("_storage", "_study_id", "_trial_id", "_backend", "_search_space", "_contains")
    keys = ("fixed_params", "failed_trial", "retry_history", "trial_heartbeats")
    wrong = []
    for file in (ROOT / "search").rglob("*.py"):
        if file.name == "optuna_private.py":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in private and ast.unparse(node.value) != "self":
                wrong.append(f"{file.name}:{node.lineno}: {ast.unparse(node)}")
            if isinstance(node, ast.ImportFrom) and "._" in (node.module or "") and "optuna" in (node.module or ""):
                wrong.append(f"{file.name}:{node.lineno}: {node.module}")
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                wrong += [f"{file.name}:{node.lineno}: {key}" for key in keys if node.value == key]
    assert not wrong


def test_the_installed_optuna_is_one_that_is_allowed_and_the_next_minor_release_is_not() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["search"]
    (allowed,) = [Requirement(text).specifier for text in extras if Requirement(text).name == "optuna"]
    installed = version("optuna")
    major, minor = map(int, installed.split(".")[:2])
    assert installed in allowed
    assert f"{major}.{minor}.99" in allowed, "a revision mends bugs alone"
    assert f"{major}.{minor + 1}.0" not in allowed


def _functions(module: ModuleType) -> set[str]:
    found = inspect.getmembers(module, inspect.isfunction)
    return {name for name, function in found if function.__module__ == module.__name__}


def _silence(database: RDBStorage, trial_id: int, seconds: float) -> None:
    """Put a trial's last heartbeat back in time."""
    with database.engine.begin() as connection:
        connection.execute(
            sqlalchemy.text("UPDATE trial_heartbeats SET heartbeat = datetime(heartbeat, :ago) WHERE trial_id = :id"),
            {"ago": f"-{seconds} seconds", "id": trial_id},
        )
