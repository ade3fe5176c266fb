"""CPU-seconds of trials on a model of CLIP's size (ViT-B/32, random weights) whose vision tower is frozen.

    python studies/prepare.py --images
    OMP_NUM_THREADS=1 python -m tests.bench.image_texts

Each form of a trial is run three times: without a store, with an empty one, and once more with what is in it then.
There are 100 images of Fashion-MNIST in two folds, one of which is trained on, the other scored before and after.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from tests.support.models import save_enlarged
from tests.support.paths import STUDIES
from tests.support.tokenizers import write_clip_tokenizer

DATA = STUDIES / "data" / "fashion_mnist.csv"
LABELS = ("ankle boot", "bag", "coat", "dress", "pullover", "sandal", "shirt", "sneaker", "t-shirt", "trousers")


def write_clip(folder: Path) -> str:
    """Write a random CLIP of transformers' default sizes, those of ViT-B/32, with a small vocabulary."""
    import torch
    from transformers import CLIPConfig, CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    vocabulary = write_clip_tokenizer(folder, [f"a photo of a {label}" for label in LABELS])
    ids = {"vocab_size": vocabulary, "bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1}
    torch.manual_seed(0)
    save_enlarged(CLIPModel(CLIPConfig(text_config={**ids, "pad_token_id": vocabulary - 1})), folder)
    CLIPImageProcessorPil().save_pretrained(folder)
    return str(folder)


def write_table(file: Path, rows: int) -> str:
    """Write a table of the first rows of Fashion-MNIST, and half as many more, which are held out."""
    header, *lines = DATA.read_text().splitlines()[: 1 + rows + rows // 2]
    file.write_text("\n".join([header, *(f"{DATA.parent}/{line}" for line in lines)]) + "\n")
    return str(file)


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100, help="Labelled images.")
    parser.add_argument("--steps", type=int, default=32, help="Updates of a trial.")
    arguments = parser.parse_args()

    import torch

    from promptgraft.objectives.backbones import count_layers
    from promptgraft.objectives.data import Split, TaskSpec
    from promptgraft.objectives.runtime import quiet_transformers
    from promptgraft.objectives.spec import BackboneSpec, ObjectiveSpec
    from promptgraft.objectives.trial import Objective
    from promptgraft.spaces import Candidate, Categorical, SearchSpace, SoftPrompt, StudyFacts, Template, Verbalizer

    quiet_transformers()
    torch.set_num_threads(1)
    template = Template("photo", "a photo of a {{ label }}")
    words = Verbalizer("names", {label: (label,) for label in LABELS})
    with tempfile.TemporaryDirectory() as folder:
        model, table = write_clip(Path(folder, "model")), write_table(Path(folder, "table.csv"), arguments.rows)
        options = {"kind": "image_classification", "test_rows": arguments.rows // 2, "folds": 2, "labels": LABELS}
        target = TaskSpec(table, {"image": "image"}, "label", **options)
        facts = StudyFacts(count_layers(model, "clip"), has_head=True, has_source=False, texts_of_labels=True)
        space = SearchSpace((template,), (words,), (Categorical("head", ("label_words", "probe")),), facts)
        spec = ObjectiveSpec(BackboneSpec(model, "clip"), target, None, space, evaluate_every=arguments.steps)
        base = Candidate(template.id, words.id, steps=arguments.steps, frozen_layers=facts.n_layers)
        forms = {
            "zero-shot": replace(base, steps=0),
            "probe": replace(base, head="probe", verbalizer="", steps=0),
            "rows of labels": base,
            "context of 4 vectors": replace(base, soft_prompt=SoftPrompt(4)),
        }
        for number, (name, candidate) in enumerate(forms.items()):
            seconds = []
            stored = replace(spec, files=str(Path(folder, f"files-{number}")))
            for own in (spec, stored, stored):
                objective = Objective(own, torch.device("cpu"))
                objective.use_split(Split(0, 0))
                started = time.process_time()
                objective.evaluate(candidate, seed=0)
                seconds.append(time.process_time() - started)
            print(f"{name}: " + ", ".join(f"{value:.1f} s" for value in seconds), flush=True)


if __name__ == "__main__":
    main()
