"""A registry in a folder: it points to nothing that isn't whole, and touches nothing that isn't its own."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from promptgraft.bundles import MANIFEST_FILE, read_manifest, verify
from promptgraft.bundles.manifest import DELTA_FILE
from promptgraft.bundles.registry.folder import FolderRegistry
from promptgraft.objectives.spec import ObjectiveSpec
from promptgraft.spaces import InvalidInputError
from tests.support.bundles import export_small
from tests.support.commands import typed
from tests.support.disks import largest_file

Bundles = tuple[Path, Path]


@pytest.fixture(scope="module")
def bundles(
    tmp_path_factory: pytest.TempPathFactory, make_spec: Callable[..., ObjectiveSpec], tiny_models: dict[str, str]
) -> Bundles:
    folder = tmp_path_factory.mktemp("bundles")
    spec = make_spec(tiny_models["encoder"], "encoder", rows=8)
    return export_small(folder / "old", spec, steps=1), export_small(folder / "new", spec, steps=2)


def test_a_registry_copies_what_the_manifest_lists_and_follows_no_link(bundles: Bundles, tmp_path: Path) -> None:
    registry, copy = FolderRegistry(tmp_path / "registry"), Path(shutil.copytree(bundles[1], tmp_path / "copy"))
    secret = tmp_path / "secret.txt"
    secret.write_text("nobody else's")
    (copy / "secret.txt").symlink_to(secret)
    (copy / "notes").mkdir()
    (copy / "notes" / "a.txt").write_text("mine")
    assert registry.promote(copy) == 1
    names = {path.name for path in registry.champion.iterdir()}
    assert names == {path.name for path in bundles[1].iterdir()}
    assert verify(registry.champion).passed
    (copy / DELTA_FILE).rename(tmp_path / "elsewhere")
    (copy / DELTA_FILE).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidInputError, match=r"delta.safetensors is a link, and what it leads to may change"):
        FolderRegistry(tmp_path / "other").promote(copy)
    assert not (tmp_path / "other" / "champion").exists()
    for name in ("versions", "history.jsonl", ".lock"):
        place = tmp_path / "planted" / name
        place.parent.mkdir(exist_ok=True)
        place.symlink_to(secret if name != "versions" else tmp_path)
        with pytest.raises(InvalidInputError, match=f"{name} is a link, which a registry doesn't follow"):
            FolderRegistry(place.parent).promote(bundles[0])
        place.unlink()
    assert secret.read_text() == "nobody else's"
    (tmp_path / "planted" / "champion").mkdir()
    with pytest.raises(InvalidInputError, match="champion is not the link of a registry"):
        FolderRegistry(tmp_path / "planted").promote(bundles[0])
    refused = typed("registry", "promote", str(secret), str(bundles[0]))
    assert (refused.exit_code, f"{secret}: the registry can't be changed" in refused.stderr) == (2, True)


@pytest.mark.parametrize("damage", ["weights", "manifest", "gone", "link", "another"])
def test_a_registry_never_points_to_a_damaged_version(bundles: Bundles, tmp_path: Path, damage: str) -> None:
    registry = FolderRegistry(tmp_path / "registry")
    assert [registry.promote(bundle) for bundle in bundles] == [1, 2]
    first, history = registry.folder / "versions" / "0001", registry.history()
    if damage in ("weights", "manifest"):
        file = first / (DELTA_FILE if damage == "weights" else MANIFEST_FILE)
        file.write_bytes(file.read_bytes()[:-1])
    else:
        first.rename(tmp_path / "moved")
        if damage == "link":
            first.symlink_to(tmp_path / "moved")
        if damage == "another":
            shutil.copytree(bundles[1], first)
    result = typed("registry", "rollback", str(registry.folder))
    assert (result.exit_code, "can't go back to version 1, and the champion stays: " in result.stderr) == (2, True)
    assert read_manifest(registry.champion) == read_manifest(bundles[1])
    assert registry.history() == history
    assert registry.promote(bundles[0]) == 3, "a good copy of it is a new version"
    assert read_manifest(registry.champion) == read_manifest(bundles[0])
    assert registry.roll_back() == 2


def test_a_torn_record_is_no_entry_and_is_mended(bundles: Bundles, tmp_path: Path) -> None:
    registry = FolderRegistry(tmp_path / "registry")
    assert registry.promote(bundles[0]) == 1
    path = registry.folder / "history.jsonl"
    (whole,) = path.read_bytes().splitlines(keepends=True)
    for length in (1, 20, len(whole) - 3):
        path.write_bytes(whole + whole[:length])
        assert [entry["version"] for entry in registry.history()] == [1]
    assert typed("registry", "history", str(registry.folder), "--json").exit_code == 0
    assert registry.promote(bundles[1]) == 2
    assert len(path.read_bytes().splitlines()) == 2
    # Earlier versions appended to what was torn.
    path.write_bytes(whole[:20] + path.read_bytes().splitlines(keepends=True)[1] + whole)
    assert [entry["version"] for entry in registry.history()] == [2, 1]
    path.write_bytes(b"nothing of ours\n" + whole)
    refused = typed("registry", "rollback", str(registry.folder))
    assert (refused.exit_code, "history.jsonl: line 1 is damaged" in refused.stderr) == (2, True)


def test_a_full_disk_leaves_the_champion(bundles: Bundles, tmp_path: Path) -> None:
    registry = FolderRegistry(tmp_path / "registry")
    assert registry.promote(bundles[0]) == 1
    history = registry.history()
    for size in (100, (bundles[1] / DELTA_FILE).stat().st_size - 1):
        with (
            largest_file(size),
            pytest.raises(InvalidInputError, match=r"can't be changed, and the champion stays: File too"),
        ):
            registry.promote(bundles[1])
    assert registry.history() == history
    assert verify(registry.champion).passed
    assert registry.promote(bundles[1]) == 2


def test_looking_at_a_registry_that_is_not_there_makes_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "nowhere", tmp_path / "file"):
        for command in ("history", "rollback"):
            refused = typed("registry", command, str(place))
            assert (refused.exit_code, f"{place}: no registry is there" in refused.stderr) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.timeout(60)
def test_a_folder_that_takes_no_files_is_an_error_at_once(bundles: Bundles) -> None:
    with pytest.raises(InvalidInputError, match=r"/proc: the registry can't be changed.*/proc/\.lock"):
        FolderRegistry(Path("/proc")).promote(bundles[0])
