"""Bundles from hostile hands: whatever stands in a manifest, nothing is executed, and what can't be loaded is told."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from promptgraft.bundles import Manifest, Predictor, read_manifest
from promptgraft.bundles.manifest import MANIFEST_FILE
from promptgraft.objectives.spec import ObjectiveSpec
from promptgraft.spaces import InvalidInputError
from tests.support.bundles import export_small
from tests.support.hostile import EVIL, VALUES, places


@pytest.fixture(scope="module")
def bundle(
    tmp_path_factory: pytest.TempPathFactory, make_spec: Callable[..., ObjectiveSpec], tiny_models: dict[str, str]
) -> Path:
    return export_small(tmp_path_factory.mktemp("bundle"), make_spec(tiny_models["encoder"], "encoder"), steps=1)


def write(folder: Path, content: Any) -> None:
    """Write a manifest as a forger would, with a digest that is right if the rest makes sense."""
    try:
        text = Manifest.model_validate(content).to_json()
    except (ValidationError, ValueError, TypeError):
        text = json.dumps(content)
    (folder / MANIFEST_FILE).write_text(text, encoding="utf-8", errors="surrogatepass")


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_whatever_stands_in_a_manifest_is_loaded_or_refused(
    bundle: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("hostile") / "b"
    shutil.copytree(bundle, folder)
    content = json.loads(read_manifest(bundle).model_dump_json())
    del content["files"]["requirements.txt"]
    path = data.draw(st.sampled_from(places(content)[1:]))
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = data.draw(VALUES)
    write(folder, content)
    try:
        found = Predictor(folder).predict(["good"])
    except InvalidInputError:
        return
    finally:
        shutil.rmtree(folder)
    assert len(found) == 1


@pytest.mark.parametrize("text", EVIL)
def test_a_hostile_template_does_nothing(bundle: Path, tmp_path: Path, text: str) -> None:
    content = json.loads(read_manifest(bundle).model_dump_json())
    content["template"]["text"] = text
    folder = Path(shutil.copytree(bundle, tmp_path / "b"))
    write(folder, content)
    with pytest.raises(InvalidInputError, match="template"):
        Predictor(folder)
