"""Models of images and texts: logits are those of transformers, context is learnt, and texts are computed once."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoModelForZeroShotImageClassification, AutoTokenizer, CLIPProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from promptgraft.objectives.backbones import BACKBONES, FAMILIES, count_layers, guess_family
from promptgraft.objectives.growth import GrowthPlan, grow
from promptgraft.objectives.prompting import PromptedModel
from promptgraft.objectives.spec import BackboneSpec, SourceTraining
from promptgraft.spaces import Candidate, InvalidInputError, SoftPrompt, Template, Verbalizer
from tests.support.image_objectives import BARE, COLOURS, PHOTO, objective_over_images
from tests.support.images import LABELS, draw, spec_of_images, write_images
from tests.support.models import CLIP_POSITIONS, TINY_LAYERS, TinyModels, write_tiny_clip
from tests.support.tokenizers import write_clip_tokenizer

CPU = torch.device("cpu")
WORDS = Candidate(PHOTO.id, COLOURS.id, steps=4, batch_size=8, learning_rate=1e-3)
NAMES = Verbalizer("names", {label: (label,) for label in LABELS})
MODEL_TYPES = [
    pytest.param(own, marks=() if own in ("clip", "siglip") else pytest.mark.slow)
    for own in FAMILIES["clip"].model_types
]


class Reference:
    """The same model as transformers has it, over three drawn images."""

    def __init__(self, path: str, folder: Path) -> None:
        self.model: Any = AutoModelForZeroShotImageClassification.from_pretrained(path).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        images = [Image.fromarray(draw(number)) for number in range(3)]
        self.pixels = AutoImageProcessor.from_pretrained(path, backend="pil")(images, return_tensors="pt")
        self.fields = [{"image": str(folder / f"{number}.png")} for number in range(3)]
        for image, fields in zip(images, self.fields, strict=True):
            image.save(fields["image"])

    def logits(self, rows: list[list[int]]) -> Tensor:
        """Score images by texts' token ids, shape (images, texts)."""
        width = CLIP_POSITIONS if self.model.config.model_type == "siglip" else max(map(len, rows))
        ids = torch.full((len(rows), width), self.tokenizer.pad_token_id)
        mask = torch.zeros(len(rows), width, dtype=torch.long)
        for place, row in enumerate(rows):
            ids[place, : len(row)], mask[place, : len(row)] = torch.tensor(row), 1
        masked = {} if self.model.config.model_type == "siglip" else {"attention_mask": mask}
        with torch.no_grad():
            found: Tensor = self.model(input_ids=ids, **masked, **self.pixels).logits_per_image
        return found


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_logits_are_those_of_transformers(model_type: str, tmp_path: Path) -> None:
    """Without context, and with vectors that transformers reads as the embeddings of new words."""
    path = write_tiny_clip(tmp_path / "model", model_type)
    backbone, reference = BACKBONES["clip"](BackboneSpec(path, "clip"), CPU), Reference(path, tmp_path)
    assert guess_family(path) == "clip"
    assert count_layers(path, "clip") == backbone.n_layers == len(backbone.layers) == TINY_LAYERS
    texts = [f"a photo of a {label} stripe" for label in LABELS]
    rows = [reference.tokenizer(text)["input_ids"] for text in texts]
    model = PromptedModel(backbone, replace(WORDS, verbalizer=NAMES.id), PHOTO, NAMES, LABELS, seed=0)
    backbone.model.eval()
    found = model.score(model.encode_fields(reference.fields), LABELS, 2)
    torch.testing.assert_close(found, reference.logits(rows), atol=1e-5, rtol=1e-5)
    assert found.std() > 1e-2

    table = reference.model.text_model.get_input_embeddings()
    known = len(table.weight)
    for place in ("prefix", "suffix"):
        backbone.restore()
        candidate = replace(WORDS, verbalizer=NAMES.id, soft_prompt=SoftPrompt(2, place=place), frozen_layers=3)
        model = PromptedModel(backbone, candidate, PHOTO, NAMES, LABELS, seed=5)
        vectors = model.stack.vectors().detach()
        assert all(any(torch.equal(row, own) for own in table.weight[:known]) for row in vectors)
        table.weight = torch.nn.Parameter(torch.cat([table.weight[:known].detach(), vectors]))
        first = [1 if place == "prefix" else len(row) - 1 for row in rows]
        longer = [[*row[:at], known, known + 1, *row[at:]] for row, at in zip(rows, first, strict=True)]
        if model_type in ("clip", "metaclip_2"):  # Their texts are read at the token that is named here.
            assert reference.model.config.text_config.eos_token_id == rows[0][-1]
        found = model.score(model.encode_fields(reference.fields), LABELS, 2)
        torch.testing.assert_close(found, reference.logits(longer), atol=1e-5, rtol=1e-5)


def test_a_label_is_the_mean_of_its_words(tmp_path: Path, tiny_models: TinyModels) -> None:
    path = tiny_models["clip"]
    backbone, reference = BACKBONES["clip"](BackboneSpec(path, "clip"), CPU), Reference(path, tmp_path)
    model = PromptedModel(backbone, WORDS, PHOTO, COLOURS, LABELS, seed=0)
    backbone.model.eval()
    found = model.score(model.encode_fields(reference.fields), LABELS, 8)
    rows = [reference.tokenizer(text)["input_ids"] for text in backbone.texts_of(PHOTO, COLOURS, "red")]  # type: ignore[attr-defined]
    assert len(rows) == 2
    with torch.no_grad():
        own = [reference.model.get_text_features(torch.tensor([row])).pooler_output[0] for row in rows]
        images = reference.model.get_image_features(**reference.pixels).pooler_output
    mean = torch.nn.functional.normalize(torch.stack([one / one.norm() for one in own]).mean(0), dim=0)
    expected = torch.nn.functional.normalize(images, dim=-1) @ mean * reference.model.logit_scale.exp()
    torch.testing.assert_close(found[:, LABELS.index("red")], expected.detach(), atol=1e-5, rtol=1e-5)


def test_any_part_of_the_way_computes_the_same_and_frozen_features_are_small(
    tmp_path: Path, tiny_models: TinyModels
) -> None:
    backbone: Any = BACKBONES["clip"](BackboneSpec(tiny_models["clip"], "clip"), CPU)
    Image.fromarray(draw(0)).save(tmp_path / "image.png")
    ids = torch.tensor([backbone.image_ids(str(tmp_path / "image.png"))])
    with torch.no_grad():
        whole = backbone.layers.run(input_ids=ids)
        assert whole.shape == (1, 1, backbone.hidden_size) == (1, 1, 16)
        for depth in range(1, backbone.n_layers):
            below = backbone.layers.run(0, depth, input_ids=ids)
            assert torch.equal(backbone.layers.run(depth, None, below), whole)
    trained = []
    for depth in range(backbone.n_layers + 1):
        backbone.freeze(depth)
        trained.append({name for name, own in backbone.pretrained.items() if own.requires_grad})
    assert [len(names) for names in trained] == sorted({len(names) for names in trained}, reverse=True)
    assert not trained[-1]
    assert all(name.startswith(("vision_model.", "visual_projection.")) for name in trained[0])
    shapes = BACKBONES["clip"](BackboneSpec(tiny_models["clip"], "clip"), torch.device("meta"))
    assert shapes.hidden_size == backbone.hidden_size


def test_only_context_is_trained_and_it_helps(tmp_path: Path, tiny_models: TinyModels) -> None:
    """Both towers stay as they were, bit for bit; texts are embedded again only where the vectors have changed."""
    target = spec_of_images(write_images(tmp_path), folds=2)
    objective = objective_over_images(tiny_models["clip"], "clip", target, evaluate_every=20)
    backbone: Any = objective.backbone
    before = {name: own.clone() for name, own in backbone.model.state_dict().items()}
    context = replace(
        WORDS, template=BARE.id, soft_prompt=SoftPrompt(4), frozen_layers=3, steps=60, prompt_learning_rate=2e-2
    )
    untrained = objective.evaluate(replace(context, steps=0), seed=0)
    calls, embed = [], backbone.embed_texts
    backbone.embed_texts = lambda encoded, vectors: calls.append(len(encoded)) or embed(encoded, vectors)
    result = objective.evaluate(context, seed=0)
    del backbone.embed_texts
    assert len(calls) == 60 + 4  # One for each update, and one for each evaluation.
    assert all(torch.equal(before[name], own) for name, own in backbone.model.state_dict().items())
    assert set(result.delta) == {"soft_prompt.weight"}
    assert result.trainable_parameters == 4 * 48
    assert result.metrics["loss"] < untrained.metrics["loss"] - 0.05
    assert np.array_equal(objective.score(context, result.delta, objective.target.validation, 0), result.logits)


def test_rows_of_a_source_stay_behind_where_context_takes_their_place(tmp_path: Path, tiny_models: TinyModels) -> None:
    target, source = (
        spec_of_images(write_images(tmp_path / name, seed=seed), folds=2) for seed, name in enumerate("ab")
    )
    source = replace(source, folds=None, test_rows=None)
    objective = objective_over_images(tiny_models["clip"], "clip", target, source, evaluate_every=2)
    own = replace(WORDS, source_steps=2, steps=2)
    report = objective.evaluate(own, seed=0).load_report
    assert "reader.weight" in report.loaded
    assert report.left == ()
    report = objective.evaluate(replace(own, soft_prompt=SoftPrompt(2)), seed=0).load_report
    assert report.left == ("reader.weight",)
    assert "1 left behind (reader.weight)" in report.summary()
    assert "soft_prompt.weight" in report.fresh


def test_what_a_source_teaches_the_vision_tower_shows_in_texts_of_other_images(
    tmp_path: Path, tiny_models: TinyModels
) -> None:
    """After 20 updates on other images, texts tell the target's labels apart untrained."""
    target, source = (
        spec_of_images(write_images(tmp_path / name, seed=seed), folds=2) for seed, name in enumerate("ab")
    )
    source = replace(source, folds=None, test_rows=None)
    training = SourceTraining(learning_rate=1e-3, head_learning_rate=1e-3)
    objective = objective_over_images(tiny_models["clip"], "clip", target, source, source_training=training)
    before, after = (objective.evaluate(replace(WORDS, source_steps=steps, steps=0), 0).metrics for steps in (0, 20))
    assert after["loss"] < before["loss"] - 0.1
    assert after["accuracy"] > 0.8


def test_heads_that_read_no_texts_have_no_use_for_them(tmp_path: Path, tiny_models: TinyModels) -> None:
    target = spec_of_images(write_images(tmp_path), folds=2)
    space = objective_over_images(tiny_models["clip"], "clip", target).spec.space
    one = Candidate(PHOTO.id, COLOURS.id, "linear", soft_prompt=SoftPrompt(4, "label_words"))
    assert one.canonical(space.facts) == Candidate(PHOTO.id, "", "linear").canonical(space.facts)
    read = replace(one, head="label_words", contrastive_steps=4)
    assert read.canonical(space.facts).soft_prompt.length == 4
    assert read.canonical(space.facts).contrastive_steps == 4
    assert replace(read, frozen_layers=3).canonical(space.facts).contrastive_steps == 0  # Images move nothing then.


def test_templates_grow_without_fields_and_share_the_images(tmp_path: Path, tiny_models: TinyModels) -> None:
    target = spec_of_images(write_images(tmp_path), folds=2)
    objective = objective_over_images(tiny_models["clip"], "clip", target)
    backbone: Any = objective.backbone
    runs, run = [], backbone.layers.run
    backbone.layers.run = lambda *args, **inputs: runs.append(inputs) or run(*args, **inputs)
    longer = Template("longer", "this is a picture of one {{ label }} stripe")
    growth = grow(objective, (PHOTO, longer), GrowthPlan(("mutation", "crossover"), size=3), 0, 0)
    del backbone.layers.run
    assert len(growth.templates) == 3
    assert all(template.fields == () for template in growth.templates)
    assert growth == grow(objective, (PHOTO, longer), GrowthPlan(("mutation", "crossover"), size=3), 0, 0)
    assert len(runs) == 2  # Of 32 rows in two rounds, whatever the number of templates.


def test_texts_that_are_too_long_and_files_that_lack_a_part_are_refused(tmp_path: Path) -> None:
    path = Path(write_tiny_clip(tmp_path / "model"))
    backbone = BACKBONES["clip"](BackboneSpec(str(path), "clip"), torch.device("meta"))
    long = Template("long", "zzzzzzzzzzzzzzzzzzzz {{ label }}")
    with pytest.raises(
        InvalidInputError, match=r"'zzz.*' of a label has 2\d tokens.* has 24 positions; shorten the temp"
    ):
        PromptedModel(backbone, replace(WORDS, template=long.id), long, COLOURS, LABELS, seed=0)
    with pytest.raises(InvalidInputError, match=r"and 20 context vectors \(soft_prompt.length\).*or the soft prompt"):
        PromptedModel(backbone, replace(WORDS, soft_prompt=SoftPrompt(20)), PHOTO, COLOURS, LABELS, seed=0)
    for name, reason in (
        ("tokenizer.json", "holds no tokenizer"),
        ("preprocessor_config.json", "holds no preprocessor"),
    ):
        content = (path / name).read_bytes()
        (path / name).unlink()
        with pytest.raises(InvalidInputError, match=reason):
            BACKBONES["clip"](BackboneSpec(str(path), "clip"), CPU)
        (path / name).write_bytes(content)
    both = CLIPProcessor(CLIPImageProcessorPil.from_pretrained(path), AutoTokenizer.from_pretrained(path))
    both.save_pretrained(tmp_path / "both")
    shutil.copyfile(path / "config.json", tmp_path / "both" / "config.json")
    shutil.copyfile(path / "model.safetensors", tmp_path / "both" / "model.safetensors")
    assert not (tmp_path / "both" / "preprocessor_config.json").exists()
    assert BACKBONES["clip"](BackboneSpec(str(tmp_path / "both"), "clip"), CPU).pixels.shape == (3, 32, 32)  # type: ignore[attr-defined]
    processor = path / "preprocessor_config.json"
    processor.write_text(processor.read_text().replace("32", "40"))
    with pytest.raises(InvalidInputError, match=r"of 40 x 40 pixels, but the model in config\.json reads 32 x 32"):
        BACKBONES["clip"](BackboneSpec(str(path), "clip"), CPU)
    processor.write_text(processor.read_text().replace("40", "32"))
    write_clip_tokenizer(path, ["a photo of a red, green or blue stripe", "the colour is red"], ended=False)
    with pytest.raises(InvalidInputError, match=r"reads a text at the end token .* belong to different models"):
        BACKBONES["clip"](BackboneSpec(str(path), "clip"), CPU)
    with pytest.raises(InvalidInputError, match="write family: clip"):
        BACKBONES["vit"](BackboneSpec(str(path), "vit"), CPU)
