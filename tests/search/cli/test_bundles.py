"""Verify, compare, promote: what a pipeline runs between two bundles, as it types it."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from promptgraft.bundles import Predictor, compare_bundles, labelled_rows, read_examples, read_manifest
from promptgraft.bundles.manifest import DELTA_FILE
from promptgraft.bundles.predictor import Input
from promptgraft.bundles.registry.folder import FolderRegistry
from promptgraft.objectives.spec import ObjectiveSpec
from promptgraft.spaces import InvalidInputError
from tests.support.bundles import export_small
from tests.support.commands import promptgraft, typed
from tests.support.outputs import printed

Bundles = tuple[Path, Path]


class Told:
    """Says what it was told to."""

    labels = ("a", "b")

    def __init__(self, answers: Sequence[str]) -> None:
        self.answers = list(answers)

    def predict(self, rows: Sequence[Input]) -> list[str]:
        return self.answers[: len(rows)]


def rows_of(count: int) -> list[Mapping[str, str]]:
    return [{"text": str(number)} for number in range(count)]


@pytest.mark.parametrize(
    ("won", "lost", "outcome"),
    [(0, 0, "no difference shown"), (5, 0, "no difference shown"), (6, 0, "better"), (0, 6, "worse"), (20, 9, None)],
)
def test_only_rows_on_which_one_is_right_count(won: int, lost: int, outcome: str | None) -> None:
    labels = ["a"] * 100
    old, new = ["b"] * won + ["a"] * (100 - won), ["a"] * (100 - lost) + ["b"] * lost
    found = compare_bundles(Told(old), Told(new), rows_of(100), labels, 0.05)
    assert (found.won, found.lost) == (won, lost)
    assert found.challenger - found.champion == pytest.approx((won - lost) / 100)
    assert found.low < (won - lost) / 100 < found.high or won == lost == 0
    assert found.outcome == (outcome or "no difference shown")  # 20 to 9: p is 0.06.
    assert found.by_label == {"a": {"rows": 100, "won": won, "lost": lost}}
    assert [entry.row for entry in found.disagreements] == [*range(won), *range(100 - lost, 100)]


def test_equal_models_seldom_differ_and_intervals_hold_the_difference() -> None:
    """400 pairs of models of which the second is right more often, or not at all."""
    random = np.random.default_rng(0)
    for gain in (0.0, 0.08):
        outcomes, held = [], 0
        for _ in range(400):
            both = random.random(200)
            old = np.where(both < 0.7, "a", "b")
            new = np.where((both < 0.6) | (random.random(200) < (0.1 + gain) / 0.4) & (both >= 0.6), "a", "b")
            found = compare_bundles(Told(old.tolist()), Told(new.tolist()), rows_of(200), ["a"] * 200, 0.05)
            outcomes.append(found.outcome)
            held += found.low <= gain <= found.high
        assert held / 400 >= 0.93
        if not gain:
            assert 1 - outcomes.count("no difference shown") / 400 <= 0.05
        else:
            assert outcomes.count("worse") == 0
            assert outcomes.count("better") > 200


def test_labels_that_neither_knows_are_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="the labels 'c' are known to neither bundle; they know 'a', 'b'"):
        compare_bundles(Told("ab"), Told("ab"), rows_of(2), ["a", "c"], 0.05)
    table = tmp_path / "x.csv"
    table.write_text("text,label\ngood,a\n ,b\nbad,\n")
    with pytest.raises(InvalidInputError, match="2 rows lack a text or a label, such as 1, 2; drop them"):
        labelled_rows(str(table), {"text": "text"}, "label")


@pytest.fixture(scope="module")
def bundles(
    tmp_path_factory: pytest.TempPathFactory, make_spec: Callable[..., ObjectiveSpec], tiny_models: dict[str, str]
) -> Bundles:
    folder = tmp_path_factory.mktemp("bundles")
    spec = make_spec(tiny_models["encoder"], "encoder")
    return export_small(folder / "old", spec, steps=1), export_small(folder / "new", spec, steps=12)


def test_compare_tells_a_pipeline(bundles: Bundles, data: Path, tmp_path: Path) -> None:
    table, listed = tmp_path / "new.csv", tmp_path / "out" / "disagreements.csv"
    frame = pd.read_csv(data / "amazon.csv")[-200:]
    frame.to_csv(table, index=False)
    old, new = (Predictor(bundle).predict(frame.text.tolist()) for bundle in bundles)
    both = (str(bundles[0]), str(bundles[1]), "--data", str(table))
    result = promptgraft("compare", *both, "--json", "--output", str(listed), absent="optuna,ray")
    found = printed("compare", result.stdout)
    assert result.returncode == {"better": 0, "no difference shown": 4, "worse": 5}[found["outcome"]]
    assert found["champion"] == pytest.approx(np.mean(np.array(old) == frame.label))
    differing = [row for row in range(200) if old[row] != new[row]]
    assert differing
    written = pd.read_csv(listed)
    assert written.row.tolist() == differing == [entry["row"] for entry in found["disagreements"]]
    assert written.text.tolist() == frame.text.iloc[differing].str.strip().tolist()
    shown = typed("compare", *both)
    assert shown.exit_code == result.returncode
    assert f"challenger: {found['outcome']} (McNemar's exact test" in shown.stdout
    same = typed("compare", str(bundles[0]), str(bundles[0]), "--data", str(table))
    assert (same.exit_code, "no difference shown" in same.stdout) == (4, True)
    wrong = typed("compare", *both, "--label", "labell")
    assert (wrong.exit_code, "did you mean 'label'?" in wrong.stderr) == (2, True)


def test_compare_warns_of_rows_that_a_bundle_was_trained_on(bundles: Bundles, data: Path, tmp_path: Path) -> None:
    examples = read_examples(bundles[0])
    assert examples is not None
    known, frame = {row["text"] for row in examples.rows}, pd.read_csv(data / "amazon.csv")
    own, table = [row["text"] for row in examples.rows[:5]], tmp_path / "rows.csv"
    new = frame[~frame.text.str.strip().isin(known)][-50:]
    both = (str(bundles[0]), str(bundles[1]), "--data", str(table))
    new.to_csv(table, index=False)
    assert typed("compare", *both).stderr == ""
    pd.concat([new, pd.DataFrame({"text": [f" {text.upper()}" for text in own], "label": new.label[:5]})]).to_csv(
        table, index=False
    )
    (said,) = typed("compare", *both, "--json").stderr.splitlines()
    assert "caution: some of the 55 rows are those that a bundle was trained or chosen by" in said
    assert "(champion: 5, challenger: 5)" in said


def test_a_registry_promotes_and_goes_back(bundles: Bundles, tmp_path: Path) -> None:
    where = str(tmp_path / "registry")
    champion, (old, new) = Path(where) / "champion", bundles
    assert promptgraft("registry", "promote", where, str(old), absent="optuna,ray").returncode == 0
    assert "no earlier champion" in typed("registry", "rollback", where).stderr
    assert typed("registry", "promote", where, str(new)).stdout.endswith("champion: version 2\n")
    assert read_manifest(champion) == read_manifest(new)
    assert Predictor(champion).predict(["good"]) == Predictor(new).predict(["good"])
    assert typed("registry", "promote", where, str(champion)).stdout.endswith("champion: version 2\n")
    assert typed("registry", "rollback", where).stdout.endswith("champion: version 1\n")
    assert read_manifest(champion) == read_manifest(old)
    damaged = Path(shutil.copytree(new, tmp_path / "damaged"))
    (damaged / DELTA_FILE).write_bytes(b"")
    refused = typed("registry", "promote", where, str(damaged))
    assert (refused.exit_code, "delta.safetensors is missing or was changed" in refused.stderr) == (2, True)
    history = printed("history", typed("registry", "history", where, "--json").stdout)["history"]
    assert [(entry["action"], entry["version"]) for entry in history] == [
        ("promote", 1),
        ("promote", 2),
        ("roll back", 1),
    ]
    assert history[-1]["digest"] == read_manifest(old).digest
    shown = promptgraft("registry", "history", where, absent="torch,transformers,sklearn,optuna,ray")
    assert "roll back" in shown.stdout, shown.stderr


def test_mlflow_is_a_registry_too(bundles: Bundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow.pyfunc

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)  # Where MLflow puts what it is given, if nothing else is said.
    where, (old, new) = "models:/reviews", bundles
    assert printed("history", typed("registry", "history", where, "--json").stdout) == {"history": []}
    assert "models:/reviews has no earlier champion" in typed("registry", "rollback", where).stderr
    for bundle, version in ((old, 1), (new, 2), (new, 2)):
        said = typed("registry", "promote", where, str(bundle))
        assert said.stdout.endswith(f"models:/reviews@champion: version {version}\n"), said.output
    rows = pd.DataFrame({"text": ["good", "so slow"]})

    def answers() -> list[str]:
        return mlflow.pyfunc.load_model("models:/reviews@champion").predict(rows)["label"].tolist()

    assert answers() == Predictor(new).predict(["good", "so slow"])
    (stored,) = (path for path in tmp_path.rglob(DELTA_FILE) if path.read_bytes() == (old / DELTA_FILE).read_bytes())
    with stored.open("ab") as stream:
        stream.write(b"0")
    damaged = typed("registry", "rollback", where)
    assert (damaged.exit_code, "can't go back to version 1, and the champion stays" in damaged.stderr) == (2, True)
    assert answers() == Predictor(new).predict(["good", "so slow"])
    shutil.copyfile(old / DELTA_FILE, stored)
    assert typed("registry", "rollback", where).stdout.endswith("version 1\n")
    assert answers() == Predictor(old).predict(["good", "so slow"])
    history = printed("history", typed("registry", "history", where, "--json").stdout)["history"]
    assert [(entry["action"], entry["version"]) for entry in history] == [
        ("promote", 1),
        ("promote", 2),
        ("roll back", 1),
    ]
    assert [entry["digest"] for entry in history] == [read_manifest(own).digest for own in (old, new, old)]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    refused = typed("registry", "promote", where, str(old))
    assert (refused.exit_code, "can't be asked" in refused.stderr) == (2, True)


def test_a_promotion_that_was_cut_short_is_done_again(
    bundles: Bundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = FolderRegistry(tmp_path / "registry")
    registry.promote(bundles[0])
    with monkeypatch.context() as patch:
        patch.setattr(Path, "symlink_to", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            registry.promote(bundles[1])
    assert read_manifest(registry.champion) == read_manifest(bundles[0])
    assert registry.promote(bundles[1]) == 2
    assert read_manifest(registry.champion) == read_manifest(bundles[1])
    assert registry.roll_back() == 1


def test_verify_exits_with_1_if_anything_was_changed(bundles: Bundles, tmp_path: Path) -> None:
    good = promptgraft("verify", str(bundles[1]), absent="optuna,ray")
    assert (good.returncode, good.stdout.strip().endswith(": verified")) == (0, True)
    assert "16 of 16 example rows get the trial's answer" in good.stdout
    copy = Path(shutil.copytree(bundles[1], tmp_path / "copy"))
    (copy / "README.md").write_text("# another card\n")
    bad = typed("verify", str(copy))
    assert (bad.exit_code, bad.stdout.splitlines()[0]) == (1, "README.md: is missing or was changed after the export")
    told = printed("verify", typed("verify", str(copy), "--json").stdout)
    assert (told["passed"], told["problems"][0][0]) == (False, "README.md")


def test_verify_names_what_the_manifest_does_not_list(bundles: Bundles, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundles[1], tmp_path / "copy"))
    (copy / ".git").mkdir()
    (copy / ".git" / "config").write_text("a checkout's own")
    assert typed("verify", str(copy)).exit_code == 0
    (copy / "backbone").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (copy / "more").symlink_to(tmp_path / "elsewhere")
    for name in ("adapter_model.bin", ".hidden", "backbone/modeling.py"):
        (copy / name).write_text("anything")
    found = typed("verify", str(copy))
    assert found.exit_code == 1
    names = [".hidden", "adapter_model.bin", "more", "backbone/modeling.py"]
    assert found.stdout.splitlines()[:4] == [
        f"{name}: is no file of the bundle, its manifest doesn't list it" for name in names
    ]
    assert "16 of 16 example rows get the trial's answer" in found.stdout
    told = printed("verify", typed("verify", str(copy), "--json").stdout)
    assert (told["passed"], told["problems"], told["unlisted"]) == (False, [], names)
