"""The probe is scikit-learn's logistic regression on one task, and the two-task loss at its optimum on both."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from torch.nn import functional

from promptgraft.objectives.trial.probe import EmbeddedRows, fit_probe


def rows(n: int, labels: int, seed: int, places: list[int] | None = None) -> EmbeddedRows:
    generator = torch.Generator().manual_seed(seed)
    embeddings = functional.normalize(torch.randn(n, 12, generator=generator), dim=-1)
    drawn = torch.randint(labels, (n,), generator=generator)
    drawn[:labels] = torch.arange(labels)
    return EmbeddedRows(embeddings, drawn, places or list(range(labels)))


@pytest.mark.parametrize("labels", [2, 4])
@pytest.mark.parametrize("c", [0.1, 1.0, 30.0])
def test_on_the_target_alone_it_is_scikit_learn_s(labels: int, c: float) -> None:
    own = rows(40, labels, 0)
    weight, bias = fit_probe(own, None, labels, 0.0, c)
    # Of two labels scikit-learn has one row of weights, which doubles the penalty of ours.
    theirs = LogisticRegression(C=2 * c if labels == 2 else c, tol=1e-8, max_iter=10_000)
    theirs.fit(own.embeddings.numpy(), own.targets.numpy())
    found = torch.softmax(own.embeddings @ weight.T + bias, dim=1).numpy()
    assert np.abs(found - theirs.predict_proba(own.embeddings.numpy())).max() < 1e-3


def test_alpha_weighs_the_source_against_the_target() -> None:
    target, source = rows(20, 2, 1), rows(200, 2, 2)
    alone, _ = fit_probe(target, None, 2, 0.0, 10.0)
    assert torch.equal(alone, fit_probe(target, source, 2, 0.0, 10.0)[0]), "a task with weight 0 takes no part"
    losses = {}
    for alpha in (0.0, 0.5, 1.0):
        weight, bias = fit_probe(target, source, 2, alpha, 10.0)
        losses[alpha] = [
            float(functional.cross_entropy(entry.embeddings @ weight.T + bias, entry.targets))
            for entry in (source, target)
        ]
    assert losses[0.0][1] < losses[0.5][1] < losses[1.0][1]
    assert losses[0.0][0] > losses[0.5][0] > losses[1.0][0]


def test_tasks_may_have_other_labels() -> None:
    target, source = rows(20, 2, 1, places=[0, 1]), rows(60, 3, 2, places=[0, 2, 3])
    weight, bias = fit_probe(target, source, 4, 0.3, 1.0)
    assert weight.shape == (4, 12)
    assert bias.shape == (4,)
    loss = 0.3 * functional.cross_entropy((source.embeddings @ weight.T + bias)[:, [0, 2, 3]], source.targets)
    loss += 0.7 * functional.cross_entropy((target.embeddings @ weight.T + bias)[:, [0, 1]], target.targets)
    loss += weight.square().sum() / (2 * 80)
    for seed in range(5):
        other = weight + 0.01 * torch.randn(4, 12, generator=torch.Generator().manual_seed(seed))
        worse = 0.3 * functional.cross_entropy((source.embeddings @ other.T + bias)[:, [0, 2, 3]], source.targets)
        worse += 0.7 * functional.cross_entropy((target.embeddings @ other.T + bias)[:, [0, 1]], target.targets)
        worse += other.square().sum() / (2 * 80)
        assert worse > loss


@pytest.mark.parametrize("c", [0.1, 1.0, 30.0])
def test_of_several_labels_it_is_scikit_learn_s_regression_for_each(c: float) -> None:
    own = rows(40, 2, 0)
    several = (torch.rand(40, 3, generator=torch.Generator().manual_seed(1)) < 0.4).float()
    weight, bias = fit_probe(replace(own, targets=several, places=[0, 1, 2]), None, 3, 0.0, c, "binary_cross_entropy")
    found = torch.sigmoid(own.embeddings @ weight.T + bias).numpy()
    for label in range(3):
        theirs = LogisticRegression(C=c, tol=1e-8, max_iter=10_000)
        theirs.fit(own.embeddings.numpy(), several[:, label].numpy())
        assert np.abs(found[:, label] - theirs.predict_proba(own.embeddings.numpy())[:, 1]).max() < 1e-3


@pytest.mark.parametrize("c", [0.1, 1.0, 30.0])
def test_of_numbers_it_is_scikit_learn_s_ridge_regression(c: float) -> None:
    own = rows(40, 2, 0)
    numbers = torch.randn(40, 1, generator=torch.Generator().manual_seed(1))
    weight, bias = fit_probe(replace(own, targets=numbers, places=[0]), None, 1, 0.0, c, "squared_error")
    found = (own.embeddings @ weight.T + bias).numpy()[:, 0]
    theirs = Ridge(alpha=1 / c).fit(own.embeddings.numpy(), numbers.numpy()[:, 0])
    assert np.abs(found - theirs.predict(own.embeddings.numpy())).max() < 1e-3
