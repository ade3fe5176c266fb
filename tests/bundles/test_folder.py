"""A bundle is replaced as a whole or not at all."""

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from promptgraft.bundles import Manifest, Predictor, read_examples, read_manifest, write_bundle
from promptgraft.bundles.manifest import BACKBONE_FOLDER, CARD_FILE, DELTA_FILE, EXAMPLES_FILE
from promptgraft.objectives.spec import ObjectiveSpec
from tests.support.bundles import export_small


@pytest.fixture
def bundle(tmp_path: Path, make_spec: Callable[..., ObjectiveSpec], tiny_models: dict[str, str]) -> Path:
    return export_small(tmp_path / "bundle", make_spec(tiny_models["encoder"], "encoder", rows=8), steps=2)


def replace(bundle: Path, *, backbone: Path | None = None) -> Manifest:
    """Write another bundle in place of this one, without examples."""
    manifest = read_manifest(bundle).model_copy(update={"trial": 7})
    return write_bundle(bundle, manifest, [load_file(bundle / DELTA_FILE)], "# another\n", backbone=backbone)


def test_an_earlier_bundle_stays_if_its_successor_cannot_be_completed(bundle: Path, tmp_path: Path) -> None:
    before, names = read_manifest(bundle), sorted(path.name for path in bundle.iterdir())
    with pytest.raises(FileNotFoundError):  # All but the backbone was written then.
        replace(bundle, backbone=tmp_path / "no such model")
    assert read_manifest(bundle) == before
    assert sorted(path.name for path in bundle.iterdir()) == names
    Predictor(bundle)


def test_what_the_successor_lacks_is_removed_and_files_of_others_stay(
    bundle: Path, tiny_models: dict[str, str]
) -> None:
    (bundle / "notes.txt").write_text("mine")
    assert replace(bundle, backbone=Path(tiny_models["encoder"])) == read_manifest(bundle)
    assert read_examples(bundle) is None
    assert (bundle / CARD_FILE).read_text() == "# another\n"
    # Its own backbone is that of the bundle that it replaces.
    assert replace(bundle, backbone=bundle / BACKBONE_FOLDER).backbone.bundled
    Predictor(bundle)
    assert not replace(bundle).backbone.bundled
    names = {path.name for path in bundle.iterdir()}
    assert "notes.txt" in names
    assert not names & {BACKBONE_FOLDER, EXAMPLES_FILE}
    assert not [name for name in names if "partial" in name]
