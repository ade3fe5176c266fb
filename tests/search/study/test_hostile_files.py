"""Study files from hostile hands: whatever stands in one, it is checked or refused, and nothing is executed."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from promptgraft.search.study import LinedYaml, load_study
from promptgraft.search.study.yaml_lines import StudyFileError
from promptgraft.spaces import InvalidInputError
from tests.support.hostile import EVIL, VALUES, places
from tests.support.paths import STUDIES

FUZZED = int(os.environ.get("PROMPTGRAFT_FUZZED", "15"))
HASTY = settings(max_examples=FUZZED, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def contents(data: Path, tiny_models: dict[str, str]) -> list[dict[str, Any]]:
    """What stands in the studies that we ship, over small data and a small model."""
    found = []
    for name in ("demo", "smollm2"):
        content = LinedYaml(STUDIES / f"{name}.yaml").plain()
        content["backbone"]["path"] = tiny_models["encoder" if name == "demo" else "causal_lm"]
        prompts = {"length": [0, 4], "place": ["prefix", "layer 1"]}
        content["space"] = content.get("space", {}) | {"frozen_layers": [0, 2], "soft_prompt": prompts}
        content["source"] |= {"train": str(data / "movie.csv"), "train_rows": 40, "training": {"batch_size": 4}}
        rows = {"train_rows": 8, "validation_rows": 8, "test_rows": 8, "folds": None}
        content["target"] |= {"train": str(data / "amazon.csv")} | rows
        found.append(content)
    return found


def load(path: Path, text: str) -> bool:
    """Load a study file; whether it was taken."""
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        load_study(path)
    except InvalidInputError:
        return False
    return True


def test_what_is_broken_here_is_valid_when_whole(contents: list[dict[str, Any]], tmp_path: Path) -> None:
    assert all(load(tmp_path / "study.yaml", json.dumps(content)) for content in contents)


@HASTY
@given(st.data())
def test_whatever_stands_in_a_study_file_is_checked_or_refused(
    contents: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = json.loads(json.dumps(data.draw(st.sampled_from(contents))))
    path = data.draw(st.sampled_from(places(content)[1:]))
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = data.draw(VALUES | st.sampled_from(EVIL))
    folder = tmp_path_factory.mktemp("hostile")
    load(folder / "study.yaml", json.dumps(content))
    assert [own.name for own in folder.iterdir()] == ["study.yaml"]
    shutil.rmtree(folder)


@HASTY
@given(st.text(max_size=60) | st.lists(st.sampled_from("{}[]:,-!&*#|>%@`'\"\n\t a1"), max_size=40).map("".join))
def test_any_text_is_refused_with_a_reason(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    assert not load(tmp_path_factory.getbasetemp() / "text.yaml", text)


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system", "!!python/name:os.system", "!!python/module:os"])
def test_tags_execute_nothing(write_study: Callable[..., Path], tmp_path: Path, tag: str) -> None:
    path, seen = write_study(), tmp_path / "seen"
    path.write_text(path.read_text().replace("study: tiny", f"study: {tag} ['touch {seen}']"))
    with pytest.raises(StudyFileError):
        load_study(path)
    assert not seen.exists()


def test_a_bomb_of_aliases_is_refused_at_once(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    start = time.perf_counter()
    assert not load(tmp_path / "bomb.yaml", "\n".join(lines))
    assert time.perf_counter() - start < 20
    assert not load(tmp_path / "ring.yaml", "a: &a [*a]")
