"""What `validate` passes, trials can run: it refuses what none could."""

import math
import random
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

from promptgraft.objectives.trial import Objective
from promptgraft.search.study import load_study
from promptgraft.spaces import InvalidInputError
from tests.support.checkpoints import LAYERS, write_checkpoint
from tests.support.models import TEXT_FAMILIES
from tests.support.studies import prompts, write_study_file
from tests.support.tokenizers import STYLES

POSITIONS = 72
TEMPLATES = [
    "{{ text }} {{ label }}",
    "Review: {{ text }}\nSentiment: {{ label }}",
    "{{ text }} {{ text }} All in all, it was {{ label }}",
    "{% if text | length > 40 %}It is long: {{ text | upper }}{% else %}{{ text }}{% endif %} {{ label }}",
    "the film was " * 4 + "{{ text }} {{ label }}",
    "the film was " * 12 + "{{ text }} {{ label }}",
    "{{ text }} </s> [SEP] It was {{ label }}",
]
SECTIONS: dict[str, list[Any]] = {
    "soft_prompt": [
        {"length": [0, 4], "place": ["prefix", "suffix"]},
        {"length": [0, 24], "place": ["prefix", "layer 1"], "init": ["vocabulary", "label_words", "template"]},
        {"length": 2, "place": "deep"},
        {"length": [2, 3], "place": "suffix", "parametrization": ["direct", "mlp"]},
    ],
    "adapter": [{"method": ["none", "lora"], "rank": 2}, {"method": "ia3"}],
    "demonstrations": [{"count": [0, 2]}, {"count": 15}],
    "head": [["label_words", "linear"], "probe"],
    "pooling": [["mean", "first", "last"]],
    "calibration": [["none", "contextual", "batch"]],
}


def draw_study(family: str, chance: random.Random, folder: Path) -> Path:
    """Write a study that may be sound or not, over a model with few positions."""
    style = chance.choice(STYLES[:3])
    positions = {} if family in ("recurrent", "seq2seq") else {"max_position_embeddings": POSITIONS}
    model = folder / f"{family} {style}"
    if not model.exists():
        write_checkpoint(family, style, model, **positions)
    space: dict[str, Any] = {**prompts(), "frozen_layers": [0, LAYERS], "steps": [1], "batch_size": 4}
    space["templates"] = {f"t{place}": text for place, text in enumerate(chance.sample(TEMPLATES, 2))}
    for name in chance.sample(sorted(SECTIONS), 2):
        space[name] = chance.choice(SECTIONS[name])
    backbone = {"path": str(model), "family": family, "max_tokens": chance.choice([12, 32, 48, 68, 70, 72, 80])}
    return write_study_file(folder / "study.yaml", backbone, space=space, source=None)


def run_what_is_valid(family: str, folder: Path, wanted: int, each: int) -> tuple[list[float], int]:
    """Draw studies until enough candidates of valid ones ran; return their losses, and how many were refused."""
    chance = random.Random(family)
    losses: list[float] = []
    refused = 0
    while len(losses) < wanted:
        study_file = draw_study(family, chance, folder)
        try:
            study = load_study(study_file, rehearsed=True)
        except InvalidInputError:
            refused += 1
            continue
        objective = Objective(study.objective, torch.device("cpu"))
        drawn = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=len(losses)))
        for _ in range(each):
            candidate = study.objective.space.suggest(drawn.ask())
            losses.append(objective.evaluate(candidate, seed=0).metrics["loss"])
    return losses, refused


@pytest.mark.parametrize("family", ["encoder", "causal_lm"])
def test_some_candidates_of_valid_studies_run(family: str, tmp_path: Path) -> None:
    losses, _ = run_what_is_valid(family, tmp_path, wanted=8, each=2)
    assert len(losses) >= 8
    assert all(map(math.isfinite, losses))


@pytest.mark.slow
@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_hundreds_of_candidates_of_valid_studies_run(family: str, tmp_path: Path) -> None:
    losses, refused = run_what_is_valid(family, tmp_path, wanted=300, each=5)
    assert len(losses) >= 300
    assert all(map(math.isfinite, losses))
    assert refused, "no drawn study was invalid, so nothing shows that invalid ones are refused"


def refusal(tmp_path: Path, family: str = "encoder", style: str = "word pieces", **changes: Any) -> str:
    """Return what `validate` says of a study."""
    positions = {} if family in ("recurrent", "seq2seq") else {"max_position_embeddings": 66}
    model = write_checkpoint(family, style, tmp_path / "model", **positions)
    backbone = {"path": str(model), "family": family, "max_tokens": changes.pop("max_tokens", 48)}
    content = {**prompts(), "frozen_layers": [1], "steps": [1], "batch_size": 4, **changes}
    with pytest.raises(InvalidInputError) as caught:
        load_study(write_study_file(tmp_path / "study.yaml", backbone, space=content, source=None), rehearsed=True)
    return " ".join(str(caught.value).split())


def test_more_tokens_than_positions(tmp_path: Path) -> None:
    assert "max_tokens is 256, but" in refusal(tmp_path, max_tokens=256)


def test_positions_that_are_reserved(tmp_path: Path) -> None:
    """A RoBERTa of 66 positions reads 64 tokens."""
    assert "reads at most 64 tokens" in refusal(tmp_path, "masked_lm", max_tokens=65)


def test_a_template_without_room_for_a_text(tmp_path: Path) -> None:
    templates = {"long": "word " * 60 + "{{ text }} {{ label }}", "brief": "{{ text }} {{ label }}"}
    said = refusal(tmp_path, templates=templates)
    assert "space.templates.long: template 'long' leaves no room for 'text' in max_tokens = 48" in said
    assert "'brief'" not in said


@pytest.mark.parametrize("place", ["prefix", "suffix", "layer 1", "deep"])
def test_a_soft_prompt_without_positions(tmp_path: Path, place: str) -> None:
    said = refusal(tmp_path, soft_prompt={"length": [2, 20], "place": place})
    assert "soft_prompt.length 20 and backbone.max_tokens 48 make 68 positions, but the backbone has 66" in said


def test_demonstrations_that_a_fold_has_too_few_rows_for(tmp_path: Path) -> None:
    said = refusal(tmp_path, "causal_lm", demonstrations={"count": [0, 16]})
    assert "demonstrations.count" in said


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_label_words_that_tokenize_alike(tmp_path: Path, family: str) -> None:
    """As strings they differ."""
    said = refusal(tmp_path, family, verbalizers={"v": {"negative": "Good", "positive": "good"}})
    assert (
        "space.verbalizers.v: verbalizer 'v': to the tokenizer, the word 'good' of label 'positive' is the same" in said
    )


@pytest.mark.parametrize("words", ["\U0001f600", "\u4e2d\u6587"])
def test_label_words_that_the_tokenizer_does_not_know(tmp_path: Path, words: str) -> None:
    said = refusal(tmp_path, "masked_lm", verbalizers={"v": {"negative": "bad", "positive": words}})
    assert "of label 'positive' is unknown" in said


def test_one_of_several_words_alike_is_enough(tmp_path: Path) -> None:
    words = {"negative": ["bad", "awful"], "positive": ["great", "AWFUL"]}
    said = refusal(tmp_path, "masked_lm", verbalizers={"v": words})
    assert "'AWFUL' of label 'positive' is the same as 'awful' of label 'negative'" in said


def test_a_head_that_reads_no_words_minds_none(tmp_path: Path) -> None:
    model = write_checkpoint("encoder", "word pieces", tmp_path / "model")
    content = {**prompts(), "verbalizers": {"v": {"negative": "Bad", "positive": "bad"}}, "head": "linear"}
    content |= {"frozen_layers": [1], "steps": [1], "batch_size": 4}
    backbone = {"path": str(model), "family": "encoder", "max_tokens": 48}
    file = write_study_file(tmp_path / "study.yaml", backbone, space=content, source=None)
    study = load_study(file, rehearsed=True)
    candidate = study.objective.space.suggest(optuna.create_study().ask())
    assert math.isfinite(Objective(study.objective, torch.device("cpu")).evaluate(candidate, seed=0).metrics["loss"])


@pytest.mark.parametrize("family", ["encoder", "causal_lm", "masked_lm"])
def test_a_tokenizer_without_padding_serves(tmp_path: Path, family: str) -> None:
    from tests.support.tokenizers import write_tokenizer

    model = write_checkpoint(family, "byte pairs", tmp_path / "model")
    write_tokenizer("byte pairs", model, pad_token=None)
    content = {**prompts(), "frozen_layers": [1], "steps": [1], "batch_size": 4}
    backbone = {"path": str(model), "family": family, "max_tokens": 48}
    path = write_study_file(tmp_path / "study.yaml", backbone, space=content, source=None)
    study = load_study(path, rehearsed=True)
    candidate = study.objective.space.suggest(optuna.create_study().ask())
    assert Objective(study.objective, torch.device("cpu")).evaluate(candidate, seed=0).logits.std() > 0
