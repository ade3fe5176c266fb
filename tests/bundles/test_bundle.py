"""A bundle predicts what its trial saw, in a process that can import neither Optuna nor Ray."""

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file

from promptgraft.bundles import (
    Predictor,
    read_manifest,
)
from promptgraft.bundles.manifest import DELTA_FILE, MANIFEST_FILE
from promptgraft.objectives.spec import ObjectiveSpec
from promptgraft.objectives.trial import Objective
from promptgraft.spaces import Adapter, Candidate, Demonstrations, InvalidInputError, SoftPrompt
from tests.support.bundles import export, export_small
from tests.support.commands import typed
from tests.support.models import REAL, TEXT_FAMILIES, real_model
from tests.support.prompted_models import is_refused
from tests.support.specs import TEMPLATES, VERBALIZERS

PREDICT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("optuna", "ray"):
            raise ImportError(f"{name} is absent here")
sys.meta_path.insert(0, Absent())
import json, numpy as np
from pathlib import Path
from promptgraft.bundles.predictor import Predictor
for folder in map(Path, sys.argv[2:]):
    np.save(folder / "found.npy", Predictor(folder).logits(json.loads(sys.argv[1])))
"""

CASES = [
    ("encoder", Candidate("", "", soft_prompt=SoftPrompt(4, "vocabulary", "prefix"), frozen_layers=5, steps=2)),
    ("encoder", Candidate("", "", head="linear", source_steps=2, frozen_layers=6, steps=2)),
    pytest.param(
        "encoder", Candidate("", "", adapter=Adapter("lora", 2), frozen_layers=4, steps=2), marks=pytest.mark.slow
    ),
    ("causal_lm", Candidate("", "", soft_prompt=SoftPrompt(4, "label_words", "suffix"), frozen_layers=30, steps=1)),
    pytest.param(
        "causal_lm",
        Candidate("", "", soft_prompt=SoftPrompt(4, "label_words", "layer 28"), frozen_layers=29, steps=1),
        marks=pytest.mark.slow,
    ),
    pytest.param(
        "causal_lm",
        Candidate("", "", demonstrations=Demonstrations(2, "nearest", "nearest_last"), frozen_layers=30, steps=0),
        marks=pytest.mark.slow,
    ),
    pytest.param(
        "causal_lm",
        Candidate("", "", demonstrations=Demonstrations(2), frozen_layers=29, steps=1),
        marks=pytest.mark.slow,
    ),
    ("recurrent", Candidate("", "", soft_prompt=SoftPrompt(4, "label_words", "suffix"), frozen_layers=2, steps=2)),
    pytest.param("recurrent", Candidate("", "", head="linear", source_steps=2, steps=2), marks=pytest.mark.slow),
    ("seq2seq", Candidate("", "", soft_prompt=SoftPrompt(4, "label_words", "prefix"), frozen_layers=2, steps=2)),
    ("masked_lm", Candidate("", "", soft_prompt=SoftPrompt(4, "label_words", "suffix"), frozen_layers=2, steps=2)),
]


@pytest.mark.parametrize(("family", "candidate"), CASES, ids=lambda case: getattr(case, "key", case))
def test_predictions_equal_the_trial_s_own_logits(
    family: str,
    candidate: Candidate,
    make_spec: Callable[..., ObjectiveSpec],
    tiny_models: dict[str, str],
    tmp_path: Path,
) -> None:
    from dataclasses import replace

    path = real_model(family) if family in REAL else tiny_models[family]  # Of the others none can be installed.
    spec = make_spec(path, family, rows=8)
    objective = Objective(spec)
    full = replace(candidate, template=TEMPLATES[0].id, verbalizer=VERBALIZERS[0].id, batch_size=4, learning_rate=1e-3)
    expected = export(tmp_path / "bundle", spec, objective, full)
    found = Predictor(tmp_path / "bundle").logits([row.fields for row in objective.target.validation])
    # The trial ran what stands behind the frozen layers, production runs the whole model: other sums, other rounding.
    assert np.abs(found - expected).max() <= 5e-6 * np.abs(expected).max()


def test_a_fresh_process_without_the_engines_predicts_the_same(
    make_spec: Callable[..., ObjectiveSpec], tiny_models: dict[str, str], tmp_path: Path
) -> None:
    rows = ["it broke at once", "good"]
    for family in TEXT_FAMILIES:
        export_small(tmp_path / family, make_spec(tiny_models[family], family), steps=2)
    subprocess.run(
        [sys.executable, "-c", PREDICT, json.dumps(rows), *(str(tmp_path / family) for family in TEXT_FAMILIES)],
        check=True,
        timeout=120,
    )
    for family in TEXT_FAMILIES:
        found = np.load(tmp_path / family / "found.npy")
        np.testing.assert_array_equal(found, Predictor(tmp_path / family).logits(rows), family)


FORMS = [
    SoftPrompt(2, place=place, parametrization=network)
    for place, network in (("prefix", "lstm"), ("suffix", "mlp"), ("deep", "mlp"))
]


def test_soft_prompts_of_every_form_are_loaded_exactly(spec: ObjectiveSpec, tmp_path: Path) -> None:
    """Trained, saved, loaded and predicted: what the whole model makes of the trained weights, to the bit."""
    objective = Objective(spec)
    rows = objective.target.validation
    for number, soft in enumerate(soft for soft in FORMS if not is_refused(spec.backbone.family, soft)):
        words = TEMPLATES[0].id, VERBALIZERS[0].id
        candidate = Candidate(*words, soft_prompt=soft, frozen_layers=2, steps=2, batch_size=4)
        folder = tmp_path / str(number)
        expected = export(folder, spec, objective, candidate)
        found = Predictor(folder).logits([row.fields for row in rows])
        whole = objective.score(candidate, load_file(folder / DELTA_FILE), rows)
        assert np.abs(found - whole).max() == 0.0, soft
        assert np.abs(found - expected).max() <= 5e-6 * np.abs(expected).max(), soft


@pytest.fixture(scope="module")
def bundle(
    tmp_path_factory: pytest.TempPathFactory, make_spec: Callable[..., ObjectiveSpec], tiny_models: dict[str, str]
) -> Path:
    return export_small(tmp_path_factory.mktemp("bundle"), make_spec(tiny_models["encoder"], "encoder"), steps=2)


def test_tables_are_predicted_row_by_row_and_keep_what_else_they_hold(bundle: Path, tmp_path: Path) -> None:
    from promptgraft.bundles import Predictor

    table = tmp_path / "in.jsonl"
    rows = [
        {"id": "007", "text": "good", "label": "mine", "input_label": "mine, too"},
        {"id": "1e5", "text": None},
        {"id": None, "text": "{{ label }} bad", "note": "a\nb"},
        {"id": "3", "text": "\u200b"},
        {"id": "4", "text": "half \ud83d"},
        {"id": "5", "text": ["a", "list"]},
        {"id": "6", "text": " \t"},
    ]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    predictor = Predictor(bundle)
    found = predictor.predict_table(str(table))
    probabilities = ["probability_negative", "probability_positive"]
    assert list(found.columns) == ["id", "text", "input_input_label", "input_label", "note", "label", *probabilities]
    predicted = [0, 2]
    assert found.index[found["label"].notna()].tolist() == predicted
    assert found[probabilities].notna().all(axis=1).tolist() == [row in predicted for row in range(7)]
    alone = predictor.predict_proba(["good", "{{ label }} bad"])
    np.testing.assert_allclose(found.loc[predicted, probabilities].to_numpy(dtype=float), alone, atol=1e-5)
    assert found["id"].tolist() == ["007", "1e5", None, "3", "4", "5", "6"]
    assert (found["input_input_label"][0], found["input_label"][0]) == ("mine", "mine, too")


def test_what_is_not_likely_enough_gets_no_label(bundle: Path, tmp_path: Path) -> None:
    from promptgraft.bundles import Predictor

    table, out = tmp_path / "in.csv", tmp_path / "out" / "out.csv"
    texts = ["good", "bad", "so slow", "broke at once", "worth every penny"]
    pd.DataFrame({"text": [*texts, ""]}).to_csv(table, index=False)
    likeliest = Predictor(bundle).predict_proba(texts).max(axis=1)
    threshold = float(np.sort(likeliest)[2])
    arguments = ("predict", str(bundle), "--input", str(table), "--output", str(out))
    result = typed(*arguments, "--abstain-below", str(threshold))
    assert result.exit_code == 0, result.output
    found = pd.read_csv(out)
    assert found["label"].notna().tolist() == [*(likeliest >= threshold), False]
    assert found["probability_negative"].notna().tolist() == [True] * 5 + [False]
    assert (
        "; 1 rows have no prediction, since a text is missing or is no text; 2 rows have no label, since"
        in result.stdout
    )
    assert typed(*arguments, "--abstain-below", "1.5").exit_code == 2
    table.write_text("text,id\n,1\n")
    assert "1 rows -> " in typed(*arguments).stdout
    assert pd.read_csv(out).shape == (1, 5)


def test_who_may_read_the_folder_may_read_the_bundle(spec: ObjectiveSpec, tmp_path: Path) -> None:
    """A server runs as another user than the one who exported."""
    folder = export_small(tmp_path / "bundle", spec, steps=1)
    assert folder.stat().st_mode & 0o777 == 0o755
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in folder.rglob("*")} == {
        path.name: "0o644" for path in folder.rglob("*")
    }


def test_a_changed_bundle_is_refused(bundle: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    delta = copy / "delta.safetensors"
    content = bytearray(delta.read_bytes())
    content[-1] ^= 1
    delta.write_bytes(content)
    with pytest.raises(InvalidInputError, match=r"delta\.safetensors is missing or was changed"):
        read_manifest(copy)
    with pytest.raises(InvalidInputError, match="is not a bundle"):
        read_manifest(tmp_path)


def test_what_came_later_and_says_nothing_is_left_out(bundle: Path) -> None:
    """A manifest is compared with what its content is written as, so that a new key refuses all older bundles."""
    content = json.loads((bundle / "manifest.json").read_text())
    first = "schema_version study trial seed candidate template verbalizer labels head_labels columns backbone"
    second = "evaluation_batch_size metrics intervals data demonstrations files versions digest"
    assert list(content) == [*first.split(), *second.split()]
    backbone = "path bundled family max_tokens files trust_remote_code dtype attn_implementation"
    assert list(content["backbone"]) == backbone.split()


def test_another_backbone_is_refused(bundle: Path) -> None:
    from promptgraft.bundles import Predictor

    with pytest.raises(InvalidInputError, match="not the file that this bundle was trained with"):
        Predictor(bundle, backbone=real_model("encoder"))


def with_manifest(folder: Path, copy: Path, **changes: object) -> Path:
    """Copy a bundle, and write another manifest, as if it had been exported like that."""
    import shutil

    shutil.copytree(folder, copy)
    (copy / MANIFEST_FILE).write_text(read_manifest(folder).model_copy(update=changes).to_json())
    return copy


@pytest.mark.parametrize("text", ["", "[]", "{", '{"schema_version": 1}', '{"schema_version": 2}', "\xff", "[" * 99999])
def test_what_is_no_manifest_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST_FILE).write_text(text, encoding="latin-1")
    with pytest.raises(InvalidInputError, match=r"manifest\.json"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "rows", [[{"texts": "good"}], [{"text": " "}], [{"text": None}], [{"text": 3}], [3], [{"text": "\ud800"}]]
)
def test_rows_that_can_t_be_predicted_are_told(bundle: Path, rows: list[object]) -> None:
    with pytest.raises(InvalidInputError, match="row 1: expected the field 'text'"):
        Predictor(bundle).logits(["good", *rows])  # type: ignore[list-item]


def test_a_frame_has_its_texts_predicted_and_nothing_else(bundle: Path) -> None:
    """Not the names of its columns, and no missing cell as the word nan; nor is one text a list of its characters."""
    predictor = Predictor(str(bundle))
    frame = pd.DataFrame({"id": [1, 2], "text": ["good", 10]})
    assert predictor.predict(frame) == predictor.predict(["good", "10"]) == predictor.predict(iter(["good", "10"]))
    with pytest.raises(InvalidInputError, match="row 1: expected the field 'text', each a text that isn't empty"):
        predictor.predict(pd.DataFrame({"text": ["good", None]}))
    with pytest.raises(InvalidInputError, match="the frame: no column 'text'; did you mean 'texts'"):
        predictor.predict(pd.DataFrame({"texts": ["good"]}))
    for rows in ("good", {"text": "good"}, None):
        with pytest.raises(InvalidInputError, match="expected a list of rows, or a frame, got"):
            predictor.predict(rows)  # type: ignore[arg-type]


def test_threads_share_a_predictor(bundle: Path) -> None:
    """Each gets what it would get alone; a text is as good as a field of that text."""
    predictor = Predictor(bundle)
    texts = [f"number {number}, which is {'good ' * (number % 7)}" for number in range(40)]
    alone = [predictor.logits([text]) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda text: predictor.logits([{"text": text}]), texts))
    assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))
    assert predictor.predict(texts[:3]) == [predictor.labels[found.argmax()] for found in alone[:3]]
    np.testing.assert_allclose(predictor.predict_proba(texts).sum(1), 1.0)


@pytest.mark.parametrize("settings", [Demonstrations(3), Demonstrations(2, "nearest"), Demonstrations(2, "random")])
def test_a_bundle_shows_what_the_trial_showed_even_to_training_rows(
    settings: Demonstrations,
    make_spec: Callable[..., ObjectiveSpec],
    tiny_models: dict[str, str],
    tmp_path: Path,
) -> None:
    from promptgraft.bundles import Predictor

    spec = make_spec(tiny_models["causal_lm"], "causal_lm")
    objective = Objective(spec)
    candidate = Candidate(TEMPLATES[0].id, VERBALIZERS[1].id, demonstrations=settings, steps=0)
    candidate = candidate.canonical(spec.space.facts)
    export(tmp_path / "bundle", spec, objective, candidate)
    predictor = Predictor(tmp_path / "bundle")
    rows = (*objective.target.train, *objective.target.test)
    expected = objective.score(candidate, {}, rows)
    assert np.array_equal(predictor.logits([row.fields for row in rows]), expected)
    kept = {(row.fields["text"], row.label) for row in predictor.manifest.demonstrations}
    labels = objective.target.labels
    train = {(row.fields["text"], labels[row.label]) for row in objective.target.train}
    assert kept <= train
    assert (kept == train) is (settings.choice == "nearest")
    damaged = with_manifest(tmp_path / "bundle", tmp_path / "damaged", demonstrations=())
    with pytest.raises(InvalidInputError, match="there are 0 training rows"):
        Predictor(damaged)
