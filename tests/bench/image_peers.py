"""What a study of images has to beat, on the same labelled and test rows: two baselines and plain fine-tuning.

    python -m tests.bench.image_peers studies/image_classification.yaml

- raw pixels: grey images of 32 x 32, logistic regression; its C by cross-validation.
- linear probe: the means of the untouched model's last map or tokens, logistic regression; its C by cross-validation.
- fine-tuning: `transformers` as its tutorials do it (all weights, a new head, AdamW, a linear schedule, batches of 16),
  at three learning rates. One has to be chosen without the test rows, so the best one by these is a ceiling.

The peers use promptgraft for the rows alone. None of them knows a source.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegressionCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification

from promptgraft.objectives.data import Row, open_image
from promptgraft.search.study import load_study

BATCH, RAW_SIDE = 16, 32
LEARNING_RATES = (1e-4, 3e-4, 1e-3)


def images_of(rows: Sequence[Row]) -> list[Path]:
    """List the files of rows of one field."""
    return [Path(path) for row in rows for path in row.fields.values()]


def raw_pixels(rows: Sequence[Row]) -> npt.NDArray[np.float64]:
    """Return grey levels from 0 to 1, shape (rows, side * side)."""
    small = [open_image(path).convert("L").resize((RAW_SIDE, RAW_SIDE)) for path in images_of(rows)]
    return np.stack([np.asarray(image, dtype=np.float64).ravel() / 255 for image in small])


def features(model: torch.nn.Module, pixels: Tensor) -> npt.NDArray[np.float32]:
    """Return the means of a model's last map or tokens, shape (images, channels)."""
    found = []
    with torch.no_grad():
        for batch in torch.split(pixels, 2 * BATCH):
            state = model(batch).last_hidden_state
            found.append(state.mean(dim=(2, 3)) if state.ndim == 4 else state.mean(dim=1))
    means: npt.NDArray[np.float32] = torch.cat(found).numpy()
    return means


def logistic(
    train: npt.NDArray[np.generic], labels: Sequence[int], test: npt.NDArray[np.generic]
) -> npt.NDArray[np.int64]:
    """Fit logistic regression on standardised features, and return the predicted labels, shape (rows,)."""
    model = LogisticRegressionCV(Cs=np.logspace(-4, 1, 6), cv=5, max_iter=5000)
    predicted: npt.NDArray[np.int64] = make_pipeline(StandardScaler(), model).fit(train, labels).predict(test)
    return predicted


def fine_tuned(path: str, pixels: Tensor, labels: Tensor, rate: float, epochs: int) -> torch.nn.Module:
    """Train all weights of a model, and return it."""
    torch.manual_seed(0)
    model = AutoModelForImageClassification.from_pretrained(
        path, num_labels=int(labels.max()) + 1, ignore_mismatched_sizes=True
    )
    steps = epochs * -(-len(pixels) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    model.train()
    for _ in range(epochs):
        for batch in torch.split(torch.randperm(len(pixels)), BATCH):
            torch.autograd.backward(cross_entropy(model(pixels[batch]).logits, labels[batch]))
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    trained: torch.nn.Module = model.eval()
    return trained


def main() -> None:
    """Run the peers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="The study file.")
    parser.add_argument("--epochs", type=int, default=6, help="Epochs of fine-tuning; 0: none.")
    arguments = parser.parse_args()
    study = load_study(arguments.study)
    path = study.objective.on(next(iter(study.objective.backbones), "")).backbone.path  # The first of several.
    train, test = study.target.labelled, study.target.test
    labels, truth = [row.label for row in train], np.array([row.label for row in test])
    print(f"{len(train)} labelled rows, {len(test)} test rows, {len(study.target.labels)} labels")

    def report(name: str, predicted: npt.NDArray[np.int64], start: float) -> None:
        print(f"{name:34} {np.mean(predicted == truth):.3f}  {time.perf_counter() - start:.0f} s", flush=True)

    start = time.perf_counter()
    report("constant", np.full(len(truth), np.bincount(labels).argmax()), start)
    report("raw pixels, logistic regression", logistic(raw_pixels(train), labels, raw_pixels(test)), start)
    start = time.perf_counter()
    processor = AutoImageProcessor.from_pretrained(path, backend="pil")
    seen, unseen = (
        processor([open_image(own) for own in images_of(rows)], return_tensors="pt")["pixel_values"]
        for rows in (train, test)
    )
    model = AutoModel.from_pretrained(path).eval()
    report("linear probe", logistic(features(model, seen), labels, features(model, unseen)), start)
    for rate in LEARNING_RATES if arguments.epochs else ():
        start = time.perf_counter()
        tuned = fine_tuned(path, seen, torch.tensor(labels), rate, arguments.epochs)
        with torch.no_grad():
            logits = torch.cat([tuned(batch).logits for batch in torch.split(unseen, 2 * BATCH)])
        report(f"fine-tuning, learning rate {rate:g}", logits.argmax(dim=1).numpy(), start)


if __name__ == "__main__":
    main()
