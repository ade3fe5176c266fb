"""Several studies in one folder: none of them writes another one's files."""

import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from promptgraft.objectives.file_store import FileStore
from promptgraft.search.storage import (
    IDENTITY,
    RunFolder,
    StudyRecord,
    open_storage,
    own_files,
    own_folder,
    write_study,
)
from promptgraft.search.trials import tidy

Create = Callable[..., optuna.Study]


@pytest.fixture
def create(tmp_path: Path) -> Create:
    """Create a study in the database of a folder, or open it again."""

    def created(name: str, database: str = "one.db") -> optuna.Study:
        url = f"sqlite:///{tmp_path / database}"
        return optuna.create_study(study_name=name, storage=open_storage(url), load_if_exists=True)

    return created


@pytest.fixture(params=["folder", "file://", "memory://"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> RunFolder:
    """A folder given in one of the ways that there are."""
    path = tmp_path / "runs"
    if request.param == "folder":
        return RunFolder(path)
    return RunFolder(path, f"{request.param}{tmp_path}/files-{secrets.token_hex(4)}")


def places(*found: RunFolder) -> list[tuple[Path, str, Path]]:
    return [(each.bundle, each.files_url, each.path / "report.html") for each in found]


@pytest.mark.parametrize("databases", [("one.db", "one.db"), ("one.db", "two.db")])
@pytest.mark.parametrize("names", [("s", "t"), ("s", "s"), ("s", "S"), ("s-1", "s")])
def test_each_study_has_a_place_of_its_own(
    create: Create, folder: RunFolder, names: tuple[str, str], databases: tuple[str, str]
) -> None:
    """Whatever its name is and wherever its database is; the first one has the folder itself."""
    if names[0] == names[1] and databases[0] == databases[1]:
        pytest.skip("that is one study")
    first, second = (create(name, database) for name, database in zip(names, databases, strict=True))
    ours, theirs = own_folder(first, folder), own_folder(second, folder)
    assert (ours.path, ours.files_url, ours.shared) == (folder.path, folder.files_url, None)
    for one, other in zip(*places(ours, theirs), strict=True):
        assert one != other
    ours.files().create_text("artifacts/trial-0/x", "first")
    theirs.files().create_text("artifacts/trial-0/x", "second")
    assert ours.files().read_text("artifacts/trial-0/x") == "first"
    # The database and the dashboard's artifacts stay where they were: one dashboard shows all studies.
    assert (theirs.database, theirs.dashboard) == (folder.database, folder.dashboard)
    for study, found in ((create(names[0], databases[0]), ours), (create(names[1], databases[1]), theirs)):
        assert own_folder(study, folder) == found
        assert own_folder(study, found).files_url == found.files_url


def test_an_older_study_keeps_its_folder(create: Create, folder: RunFolder) -> None:
    """It has written there without saying whose the folder is; a new study, started first, leaves it alone."""
    older, new = create("older"), create("new")
    write_study(older, IDENTITY, {"settings": {}})
    folder.files().create_text("artifacts/trial-0/x", "older")
    found = own_folder(new, folder)
    assert found.files_url != folder.files_url
    assert found.files().read_text("artifacts/trial-0/x") is None
    assert own_folder(older, folder).files_url == folder.files_url
    assert own_folder(create("newer"), folder).files_url not in (folder.files_url, found.files_url)


def test_of_two_older_studies_in_one_folder_one_keeps_it(create: Create, folder: RunFolder) -> None:
    older, other = create("older"), create("other")
    for study in (older, other):
        write_study(study, IDENTITY, {"settings": {}})
    assert own_folder(older, folder).files_url == folder.files_url != own_folder(other, folder).files_url


def test_a_damaged_owner_file_gives_the_folder_to_nobody(create: Create, folder: RunFolder) -> None:
    folder.files().create_text("study.json", '{"study": "s", "tok')
    first, second = own_folder(create("s"), folder), own_folder(create("t"), folder)
    assert len({folder.files_url, first.files_url, second.files_url}) == 3


def test_of_many_that_start_at_once_one_has_the_folder(create: Create, folder: RunFolder) -> None:
    studies = [create(f"s{number}") for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda study: own_folder(study, folder), studies))
    assert len({each.files_url for each in found}) == 8
    assert [each.files_url for each in found].count(folder.files_url) == 1


def test_two_drivers_of_one_study_agree_on_its_place(create: Create, folder: RunFolder) -> None:
    own_folder(create("first"), folder)
    create("s")
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: own_folder(create("s"), folder), range(4)))
    assert len(found) == 1
    assert StudyRecord.of(create("s")).token


def test_a_study_counts_and_tidies_its_own_files_only(create: Create, folder: RunFolder) -> None:
    ours, theirs = own_folder(create("s"), folder), own_folder(create("t"), folder)
    theirs.files().create_text("artifacts/trial-0/delta.safetensors", "x" * 1000)
    theirs.files().create_text("stages/a.safetensors", "x" * 1000)
    files = replace(ours).files()
    assert not [file for file in own_files(files) if "trial-0" in file.name]
    assert tidy(files, [], [], quota_bytes=500, stages_bytes=1).full is None
    assert len(own_files(FileStore(theirs.files_url))) >= 2
