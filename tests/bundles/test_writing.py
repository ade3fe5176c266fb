"""A bundle is replaced as a whole or not at all, and nothing else is ever replaced."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from promptgraft.bundles import (
    MANIFEST_FILE,
    Manifest,
    Predictor,
    read_examples,
    read_manifest,
    staged_bundle,
    verify,
)
from promptgraft.bundles.manifest import BACKBONE_FOLDER, CARD_FILE, DELTA_FILE, EXAMPLES_FILE
from promptgraft.bundles.writing import BundleNotWrittenError
from promptgraft.objectives.spec import ObjectiveSpec
from promptgraft.spaces import InvalidInputError
from tests.support.bundles import export_small, write_bundle
from tests.support.disks import largest_file
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def exported(
    tmp_path_factory: pytest.TempPathFactory, make_spec: Callable[..., ObjectiveSpec], tiny_models: dict[str, str]
) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "bundle"
    return export_small(folder, make_spec(tiny_models["encoder"], "encoder", rows=8), steps=2)


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


def replace(bundle: Path, *, source: Path | None = None, backbone: Path | None = None, **changes: Any) -> Manifest:
    """Write another bundle in place of this one, without examples."""
    source = source or bundle
    manifest = read_manifest(source).model_copy(update={"trial": 7, **changes})
    return write_bundle(bundle, manifest, [load_file(source / DELTA_FILE)], "# another\n", backbone=backbone)


def content(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_earlier_bundle_stays_if_its_successor_cannot_be_completed(
    bundle: Path, tmp_path: Path, tiny_models: dict[str, str]
) -> None:
    before = content(bundle)
    with pytest.raises(BundleNotWrittenError, match=r"can't be written: No such file or directory .*no such model"):
        replace(bundle, backbone=tmp_path / "no such model")  # All but the backbone was written then.
    for size in (100, 10_000, (bundle / DELTA_FILE).stat().st_size + 1000):
        with largest_file(size), pytest.raises(BundleNotWrittenError, match=r"can't be written: .*File too large"):
            replace(bundle, backbone=Path(tiny_models["encoder"]))
    assert content(bundle) == before
    assert {path.name for path in tmp_path.iterdir()} <= {"bundle", ".bundle.lock"}


def test_what_the_successor_lacks_is_removed_and_files_of_others_stay(
    bundle: Path, tiny_models: dict[str, str]
) -> None:
    (bundle / "notes.txt").write_text("mine")
    (bundle / "plots").mkdir()
    (bundle / "plots" / "a.png").write_text("mine, too")
    assert replace(bundle, backbone=Path(tiny_models["encoder"])) == read_manifest(bundle)
    assert read_examples(bundle) is None
    assert (bundle / CARD_FILE).read_text() == "# another\n"
    # Its own backbone is that of the bundle that it replaces.
    assert replace(bundle, backbone=bundle / BACKBONE_FOLDER).backbone.bundled
    Predictor(bundle)
    assert not replace(bundle).backbone.bundled
    names = {path.name for path in bundle.iterdir()}
    assert not names & {BACKBONE_FOLDER, EXAMPLES_FILE}
    assert not [name for name in names if "partial" in name]
    assert (bundle / "notes.txt").read_text() == "mine"
    assert (bundle / "plots" / "a.png").read_text() == "mine, too"


@pytest.mark.parametrize("inside", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["beside", "inside"])
def test_a_kill_at_any_moment_leaves_one_bundle_whole(bundle: Path, inside: bool) -> None:
    """A child kills itself before its first change of a file, the second, and so on, until one export gets through.

    Where files have to be replaced one by one (here, since the process works in that folder), a bundle in between
    doesn't load; what is replaced later is never taken for it.
    """
    backbone, old = bundle.parent / "model", content(bundle)
    backbone.mkdir()
    manifest = read_manifest(bundle)
    for name in manifest.backbone.files:
        (backbone / name).write_text(name)  # A small one makes it quick.
    place, source = bundle.parent / "target", Path(shutil.copytree(bundle, bundle.parent / "source"))
    whole, moments = 0, 0
    while True:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(bundle, place)
        child = os.fork()
        if child == 0:
            _killed_at(moments, place, source, backbone, inside=inside)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        try:
            found = read_manifest(place)
        except InvalidInputError:
            assert inside, f"neither the old bundle nor the new one after {moments} changes"
        else:
            whole += 1
            assert found.trial == 7 or content(place).items() >= old.items()
        moments += 1
    assert moments > 20
    assert whole == moments or (inside and whole > moments / 2)
    assert read_manifest(place).trial == 7
    assert replace(place, source=source, trial=8).trial == 8  # Files that the last kill left don't get in the way.
    assert verify(place).passed, verify(place)


def _killed_at(moment: int, place: Path, source: Path, backbone: Path, *, inside: bool) -> None:
    """Write a bundle, but die at a change of its files; never returns."""
    left = [moment]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and "r" in str(arguments[1]):
            return
        changes = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.chmod")
        if event == "ctypes.dlsym" or (event in changes and str(place.parent) in str(arguments)):
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1

    code = 1
    try:
        if inside:
            os.chdir(place)
        sys.addaudithook(hook)
        replace(place, source=source, backbone=backbone)
        code = 0
    finally:
        os._exit(code)


def test_only_empty_folders_and_bundles_of_the_same_study_are_written_to(bundle: Path, tmp_path: Path) -> None:
    def refused(folder: Path, why: str) -> None:
        before = content(tmp_path)
        with pytest.raises(InvalidInputError, match=why):
            replace(folder, source=bundle)
        assert content(tmp_path) == before

    for name in ("README.md", "requirements.txt", "backbone/model.bin", MANIFEST_FILE):
        file = tmp_path / "mine" / name
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps({"name": "a web page", "icons": []}))
        refused(
            tmp_path / "mine",
            rf"mine holds no bundle but other files \({file.relative_to(tmp_path / 'mine').parts[0]}\)",
        )
        shutil.rmtree(tmp_path / "mine")
    (tmp_path / "file").write_text("mine")
    refused(tmp_path / "file", "file is a file; name a new folder")
    refused(tmp_path / "file" / "inner", "inner: the bundle can't be written to: ")
    refused(bundle / "inner" / "other", f"other is in the bundle {bundle}, which holds only what was exported")
    (tmp_path / "loop").symlink_to("loop")
    refused(tmp_path / "loop", "loop: the bundle can't be written to: ")
    refused(tmp_path / ("n" * 300), "the bundle can't be written to: File name too long")
    refused(Path("/proc/inner"), "^/proc/inner: the bundle can't be written to: No such file")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    for folder in (tmp_path / "link", tmp_path / "new" / "inner", bundle):
        assert replace(folder, source=bundle) == read_manifest(folder)
    assert (tmp_path / "link").is_symlink()


def test_another_studys_bundle_is_replaced_on_demand_only(bundle: Path) -> None:
    before = content(bundle)
    with pytest.raises(InvalidInputError, match=r"holds the bundle of study 'test', not of 'other'.*--force"):
        replace(bundle, study="other")
    assert content(bundle) == before
    with staged_bundle(bundle, "other", force=True) as staging:
        manifest = read_manifest(bundle).model_copy(update={"study": "other"})
        staging.write(manifest, [load_file(bundle / DELTA_FILE)], "# other\n")
        staging.put_in_place()
    assert read_manifest(bundle).study == "other"


def test_names_in_an_earlier_manifest_lead_nowhere(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside, source = bundle.parent / "precious.txt", Path(shutil.copytree(bundle, bundle.parent / "source"))
    outside.write_text("mine")
    about = json.loads((bundle / MANIFEST_FILE).read_text())
    about["files"] |= {"../precious.txt": "0", str(outside): "0"}
    (bundle / MANIFEST_FILE).write_text(json.dumps(about))
    with pytest.raises(InvalidInputError, match="is no name of a file in the bundle"):
        read_manifest(bundle)
    monkeypatch.chdir(bundle)  # Its files are replaced one by one then.
    replace(bundle, source=source)
    assert outside.read_text() == "mine"
    Predictor(bundle)


def test_two_at_once_take_turns(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = Path(shutil.copytree(bundle, bundle.parent / "source"))
    with ThreadPoolExecutor(1) as pool:
        with staged_bundle(bundle, "test") as staging:
            second = pool.submit(replace, bundle, source=source, trial=2)
            wait_until(lambda: "waiting for it" in caplog.text)
            manifest = read_manifest(bundle).model_copy(update={"trial": 1})
            staging.write(manifest, [load_file(bundle / DELTA_FILE)], "# one\n")
            staging.put_in_place()
            assert read_manifest(bundle).trial == 1
        assert second.result().trial == 2
    assert read_manifest(bundle).trial == 2


@pytest.mark.timeout(60)
def test_a_folder_that_takes_no_files_is_no_export_to_wait_for() -> None:
    with pytest.raises(InvalidInputError, match=r"/proc/x: the bundle can't be written to: .*/proc/\.x\.lock"):
        staged_bundle(Path("/proc/x"), "test").__enter__()
