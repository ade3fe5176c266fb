"""A checkpoint that lacks what is read from it is refused with the file's name, before anything is computed."""

import json
import math
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ByT5Tokenizer

from promptgraft.objectives.trial import Objective
from promptgraft.search.study import load_study
from promptgraft.spaces import InvalidInputError
from tests.support.checkpoints import DAMAGES, LAYERS, MORE_DAMAGES, WEIGHTS, shard, write_checkpoint
from tests.support.models import TEXT_FAMILIES
from tests.support.studies import prompts, write_study_file
from tests.support.tokenizers import STYLES

TRIED_STYLES = STYLES[:3]
CORPUS = list(product(TEXT_FAMILIES, TRIED_STYLES, DAMAGES))
# A few of them on every run: each damage, each family and each style.
SAMPLE = CORPUS[:: len(DAMAGES) + 1]


def study_over(folder: Path, family: str, file: Path, max_tokens: int = 48, **space: object) -> Path:
    backbone = {"path": str(folder), "family": family, "max_tokens": max_tokens}
    content = {**prompts(), "frozen_layers": [0, LAYERS], "steps": [1], "batch_size": 4, **space}
    return write_study_file(file, backbone, space=content, source=None)


def loss_of(study: Path) -> float:
    """Load the study as `run` does, and return the validation loss of its largest candidate."""
    loaded = load_study(study, rehearsed=True)
    space = loaded.objective.space
    from promptgraft.search.study.backbone_checks import _extreme

    _, candidate = next(_extreme(space))
    return Objective(loaded.objective, torch.device("cpu")).evaluate(candidate, seed=0).metrics["loss"]


@pytest.mark.parametrize(
    ("family", "style", "damage"),
    [case if case in SAMPLE else pytest.param(*case, marks=pytest.mark.slow) for case in CORPUS],
)
def test_a_damaged_checkpoint_is_refused_by_name(family: str, style: str, damage: str, tmp_path: Path) -> None:
    folder = write_checkpoint(family, style, tmp_path / "model")
    harm, message = DAMAGES[damage]
    harm(folder)
    with pytest.raises(InvalidInputError, match=message) as caught:
        load_study(study_over(folder, family, tmp_path / "study.yaml"), rehearsed=True)
    assert str(folder) in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["whole", "sharded", "headless"])
@pytest.mark.parametrize(("family", "style"), product(TEXT_FAMILIES, TRIED_STYLES))
def test_whole_checkpoints_train(family: str, style: str, form: str, tmp_path: Path) -> None:
    """One without its head does where nothing is read from it, or where it is tied, as in T5; else it is refused."""
    folder = write_checkpoint(family, style, tmp_path / "model", headless=form == "headless")
    if form == "sharded":
        shard(folder)
    study = study_over(folder, family, tmp_path / "study.yaml")
    if form == "headless" and family in ("causal_lm", "masked_lm"):
        with pytest.raises(InvalidInputError, match=r"would be random \(.*head.*\); use the checkpoint with its head"):
            load_study(study, rehearsed=True)
        return
    assert math.isfinite(loss_of(study))


@pytest.mark.parametrize("damage", MORE_DAMAGES)
def test_other_damage_is_refused_by_name(damage: str, tmp_path: Path) -> None:
    folder = write_checkpoint("encoder", "word pieces", tmp_path / "model")
    harm, message = MORE_DAMAGES[damage]
    harm(folder)
    with pytest.raises(InvalidInputError, match=message):
        load_study(study_over(folder, "encoder", tmp_path / "study.yaml"), rehearsed=True)


@pytest.mark.parametrize(
    ("model", "family", "message"),
    [
        ("masked_lm", "causal_lm", "reads in both directions"),
        ("causal_lm", "masked_lm", "can't be a masked_lm"),
        ("encoder", "seq2seq", "states no number of layers|can't be a seq2seq"),
        ("seq2seq", "encoder", "an encoder and a decoder, not of the family 'encoder'"),
        ("seq2seq", "causal_lm", "an encoder and a decoder, not of the family 'causal_lm'"),
        ("encoder", "masked_lm", "not in the checkpoint and would be random"),
        ("recurrent", "encoder", "of no other"),
    ],
)
def test_a_model_is_of_one_family(model: str, family: str, message: str, tmp_path: Path) -> None:
    folder = write_checkpoint(model, "word pieces", tmp_path / "model")
    with pytest.raises(InvalidInputError, match=message):
        load_study(study_over(folder, family, tmp_path / "study.yaml"), rehearsed=True)


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_head_is_not_missing(tied: bool, tmp_path: Path) -> None:
    folder = write_checkpoint("causal_lm", "byte pairs", tmp_path / "model", headless=True, tie_word_embeddings=tied)
    study = study_over(folder, "causal_lm", tmp_path / "study.yaml")
    if tied:
        assert math.isfinite(loss_of(study))
    else:
        with pytest.raises(InvalidInputError, match=r"\(lm_head.weight\)"):
            load_study(study, rehearsed=True)


def test_a_pooler_is_not_read(tmp_path: Path) -> None:
    """An encoder may come from a checkpoint with another head and no pooler."""
    folder = write_checkpoint("masked_lm", "word pieces", tmp_path / "model")
    assert math.isfinite(loss_of(study_over(folder, "encoder", tmp_path / "study.yaml")))


def test_shapes_are_those_of_the_config(tmp_path: Path) -> None:
    folder = write_checkpoint("encoder", "word pieces", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 96}))
    with pytest.raises(InvalidInputError, match=r"tensors in its weights have other shapes than its config.json says"):
        load_study(study_over(folder, "encoder", tmp_path / "study.yaml"), rehearsed=True)


@pytest.mark.parametrize("family", ["encoder", "masked_lm", "causal_lm", "seq2seq"])
def test_layers_are_those_of_the_config(family: str, tmp_path: Path) -> None:
    """With fewer in the config, the model would end below its top without a word."""
    folder = write_checkpoint(family, "word pieces", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    depth = next(name for name in ("num_layers", "num_hidden_layers") if name in config)
    config |= {depth: LAYERS - 1} | ({"layer_types": config["layer_types"][:1]} if config.get("layer_types") else {})
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidInputError, match=r"layers that its config.json doesn't know of"):
        load_study(study_over(folder, family, tmp_path / "study.yaml", frozen_layers=[0]), rehearsed=True)


def test_weights_that_are_no_numbers_end_a_trial_by_name(tmp_path: Path) -> None:
    """Headers don't tell; the trial does."""
    folder = write_checkpoint("encoder", "word pieces", tmp_path / "model")
    weights = load_file(folder / WEIGHTS)
    name = sorted(weights)[3]
    save_file(weights | {name: weights[name] * float("nan")}, folder / WEIGHTS, {"format": "pt"})
    with pytest.raises(InvalidInputError, match="holds values that are not finite"):
        loss_of(study_over(folder, "encoder", tmp_path / "study.yaml"))


def test_a_tokenizer_of_bytes_has_no_file(tmp_path: Path) -> None:
    """Nor does it say where in a text its tokens end, by which long texts are cut."""
    folder = write_checkpoint("seq2seq", "byte pairs", tmp_path / "model", vocab_size=384)
    (folder / "tokenizer.json").unlink()
    ByT5Tokenizer().save_pretrained(folder)
    assert math.isfinite(loss_of(study_over(folder, "seq2seq", tmp_path / "study.yaml", max_tokens=64)))
