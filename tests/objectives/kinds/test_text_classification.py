import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, log_loss, precision_score, recall_score

from promptgraft.objectives.kinds.text_classification import DIRECTIONS, classification_metrics, confusion
from promptgraft.objectives.trial.losses import mixed_loss


@pytest.mark.parametrize("classes", [2, 5])
def test_figures_equal_scikit_learns(classes: int) -> None:
    random = np.random.default_rng(classes)
    logits = random.normal(size=(60, classes)).astype(np.float32)
    logits[:, 0] -= 9  # A class that is never predicted.
    labels = random.integers(0, classes, 60)
    predicted = logits.argmax(1)
    found = classification_metrics(logits, labels)
    assert set(found) == set(DIRECTIONS)
    assert found["accuracy"] == accuracy_score(labels, predicted)
    for average in ("macro", "micro"):
        options = {"average": average, "labels": range(classes), "zero_division": 0}
        assert found[f"precision_{average}"] == precision_score(labels, predicted, **options)
        assert found[f"recall_{average}"] == recall_score(labels, predicted, **options)
        assert found[f"f1_{average}"] == f1_score(labels, predicted, **options)
    probabilities = torch.softmax(torch.from_numpy(logits).double(), 1).numpy()
    assert found["loss"] == pytest.approx(log_loss(labels, probabilities, labels=range(classes)))
    assert np.sum(confusion(logits, labels)) == 60


def test_the_mission_s_example() -> None:
    assert mixed_loss(0.1, 0.2, 0.5) == pytest.approx(0.15)


@pytest.mark.parametrize("alpha", [-0.1, 1.1])
def test_alpha_outside_its_range_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\] but got"):
        mixed_loss(0.1, 0.2, alpha)
