"""`verify` finds every changed byte and names its file, and passes what was exported, wherever it was moved to."""

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from promptgraft.bundles import LOCK_FILE, Predictor, read_examples, read_manifest, verification, verify
from promptgraft.bundles.folder import file_sha256, locked_requirements
from promptgraft.bundles.manifest import BACKBONE_FOLDER, EXAMPLES_FILE, MANIFEST_FILE
from promptgraft.objectives.spec import BackboneSpec, ObjectiveSpec
from promptgraft.objectives.trial import Objective
from promptgraft.spaces import Candidate
from tests.support.bundles import export, write_bundle
from tests.support.specs import TEMPLATES, VERBALIZERS

MakeSpec = Callable[..., ObjectiveSpec]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, make_spec: MakeSpec, tiny_models: dict[str, str]) -> Path:
    """A bundle that brings its backbone along; where that was there is nothing any more."""
    folder, moved = tmp_path_factory.mktemp("bundle"), tmp_path_factory.mktemp("model") / "encoder"
    shutil.copytree(tiny_models["encoder"], moved)
    spec = make_spec(str(moved), "encoder", rows=8)
    candidate = Candidate(TEMPLATES[0].id, VERBALIZERS[0].id, steps=2, batch_size=4, frozen_layers=2)
    export(folder / "plain", spec, Objective(spec), candidate)
    predictor = Predictor(folder / "plain")
    delta = predictor.members[0].model.snapshot(list(predictor.members[0].model.trainable()))
    whole = (read_manifest(folder / "plain"), [delta], "# card\n", read_examples(folder / "plain"), moved)
    write_bundle(folder / "whole", *whole)
    shutil.rmtree(moved)
    return folder / "whole"


def test_what_was_exported_passes_wherever_it_is(bundle: Path, tmp_path: Path) -> None:
    found = verify(Path(shutil.copytree(bundle, tmp_path / "elsewhere")))
    assert found.passed
    assert (found.rows, found.agreeing, found.problems) == (8, 8, ())
    assert found.difference is not None
    assert found.difference <= 5e-6
    assert read_manifest(bundle).backbone.bundled


def test_every_changed_byte_is_found_and_its_file_named(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One byte at a time; half of them anywhere in the bundle, the others in its small files."""

    def unused(*_: object, **__: object) -> None:
        raise AssertionError("nothing is computed with a file that was changed")

    monkeypatch.setattr(verification, "Predictor", unused)
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    files = sorted(path for path in copy.rglob("*") if path.is_file())
    sizes = [path.stat().st_size for path in files]
    small = [path for path, size in zip(files, sizes, strict=True) if size < 50_000]
    assert {path.name for path in small} >= {MANIFEST_FILE, EXAMPLES_FILE, LOCK_FILE, "README.md", "config.json"}
    chance = random.Random(0)
    for number in range(100):
        path = chance.choices(files, sizes)[0] if number % 2 else chance.choice(small)
        place, change = chance.randrange(path.stat().st_size), chance.randrange(1, 256)
        with path.open("r+b") as stream:
            stream.seek(place)
            old = stream.read(1)
            stream.seek(place)
            stream.write(bytes([old[0] ^ change]))
        found = verify(copy)
        assert not found.passed, (path, place)
        assert [name for name, _ in found.problems] == [str(path.relative_to(copy))], (path, place)
        with path.open("r+b") as stream:
            stream.seek(place)
            stream.write(old)
    monkeypatch.undo()
    assert verify(copy).passed


def test_what_is_missing_is_named(bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    (copy / LOCK_FILE).unlink()
    (copy / BACKBONE_FOLDER / "config.json").unlink()
    assert [name for name, _ in verify(copy).problems] == [LOCK_FILE, f"{BACKBONE_FOLDER}/config.json"]
    (copy / MANIFEST_FILE).unlink()
    assert [name for name, _ in verify(copy).problems] == [MANIFEST_FILE]
    assert [name for name, _ in verify(tmp_path / "nowhere").problems] == [MANIFEST_FILE]


def test_other_outputs_are_found_though_all_hashes_are_right(bundle: Path, tmp_path: Path) -> None:
    """A library or a processor that computes something else."""
    examples = read_examples(bundle)
    assert examples is not None
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))

    def rewritten(logits: np.ndarray) -> verification.Verification:  # type: ignore[type-arg]
        changed = examples.model_copy(update={"logits": tuple(map(tuple, logits.tolist()))})
        predictor = Predictor(bundle)
        delta = predictor.members[0].model.snapshot(list(predictor.members[0].model.trainable()))
        write_bundle(copy, read_manifest(bundle), [delta], "# card\n", changed, bundle / BACKBONE_FOLDER)
        return verify(copy)

    logits = np.array(examples.logits)
    nearly = rewritten(logits + 1e-3 * np.abs(logits).max())
    assert (nearly.passed, nearly.agreeing, nearly.rows) == (False, 8, 8)
    other = rewritten(-logits)
    assert (other.passed, other.agreeing) == (False, 0)
    assert rewritten(logits).passed


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda held: held["logits"][1].append(0.5), "row 1 has 3 logits for 2 labels"),
        (lambda held: held["logits"].pop(), "8 rows have 7 rows of logits"),
        (lambda held: held["logits"][2].__setitem__(0, float("nan")), "logits.2.0: Input should be a finite number"),
        (lambda held: held["logits"][0].__setitem__(1, float("inf")), "logits.0.1: Input should be a finite number"),
        (lambda held: held["logits"][0].__setitem__(1, "much"), "logits.0.1: Input should be a valid number"),
        (lambda held: held["rows"][3].clear(), "row 3 lacks the field 'text'"),
        (lambda held: held["rows"][3].update(text=7), "rows.3.text: Input should be a valid string"),
        (lambda held: held.update(rows=[], logits=[]), "rows: Tuple should have at least 1 item"),
        (lambda held: held.pop("logits"), "logits: Field required"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_examples_that_are_none_are_one_problem(
    bundle: Path, tmp_path: Path, damage: Callable[[dict[str, Any]], object], problem: str
) -> None:
    """With all hashes right: someone wrote them so."""
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    held = json.loads((copy / EXAMPLES_FILE).read_bytes())
    damage(held)
    (copy / EXAMPLES_FILE).write_text(json.dumps(held))
    manifest = read_manifest(bundle)
    hashed = manifest.files | {EXAMPLES_FILE: file_sha256(copy / EXAMPLES_FILE)}
    (copy / MANIFEST_FILE).write_text(manifest.model_copy(update={"files": hashed}).to_json())
    ((name, said),) = verify(copy).problems
    assert name == EXAMPLES_FILE
    assert f"doesn't hold example rows with their logits: {problem}" in said
    assert said.endswith("; export the trial again")


def test_a_backbone_beside_the_bundle_is_checked_too(
    make_spec: MakeSpec, tiny_models: dict[str, str], tmp_path: Path
) -> None:
    path = Path(shutil.copytree(tiny_models["encoder"], tmp_path / "model"))
    spec = make_spec(str(path), "encoder", rows=8)
    spec = replace(spec, backbone=BackboneSpec(str(path), "encoder", 64))
    export(tmp_path / "b", spec, Objective(spec), Candidate(TEMPLATES[0].id, VERBALIZERS[0].id, steps=1, batch_size=4))
    assert verify(tmp_path / "b").passed
    (path / "model.safetensors").write_bytes(b"other weights")
    ((name, problem),) = verify(tmp_path / "b").problems
    assert (name, problem) == (f"{path}/model.safetensors", "is not the file that the trial was trained with")
    assert verify(tmp_path / "b", tiny_models["encoder"]).passed
    shutil.rmtree(path)
    ((name, problem),) = verify(tmp_path / "b").problems
    assert "no such folder" in problem


def test_what_is_installed_is_locked_without_the_search(tmp_path: Path) -> None:
    names = {line.partition("==")[0] for line in locked_requirements()}
    assert names >= {"promptgraft", "torch", "transformers", "tokenizers", "peft", "safetensors"}
    assert not names & {"ray", "optuna", "matplotlib", "pytest"}
