"""What a candidate costs in production: figures that a study can minimise beside its metric.

All are known before a trial trains, since the weights' values change none of them.
"""

import time
from dataclasses import replace
from statistics import median

import torch
from torch import Tensor

from promptgraft.objectives.caching import StageKey
from promptgraft.objectives.data import rows_hash
from promptgraft.objectives.prompting import DemonstrationPool, DemonstrationPools, PromptedModel
from promptgraft.objectives.trial import Objective
from promptgraft.spaces import Candidate, SoftPrompt

# Rows that latency is the median of, and times that each is predicted.
LATENCY_ROWS, LATENCY_PASSES = 16, 3


class CostMeter:
    """Measures what a study's candidates cost, of that which the study minimises.

    Args:
        objective: The study's objective; a cycle that is open on it ends when something is measured.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective

    def measure(self, candidate: Candidate) -> dict[str, float]:
        """Return the figures of `spec.minimize`, by name.

        `prompt_tokens` and `trainable_parameters` are those of the trial's `Result`. `latency_ms` is how long a bundle
        takes to predict one row; it is measured once for all candidates that differ in training alone.

        Raises:
            InvalidInputError: If the backbone can't do what the candidate asks.
        """
        if not self.objective.spec.minimize:
            return {}
        self.objective.use_backbone(candidate.backbone)
        candidate = candidate.canonical(self.objective.spec.space.facts)
        (model,) = self.objective.untrained([candidate])
        found: dict[str, float] = {}
        for name in self.objective.spec.minimize:
            if name == "prompt_tokens":
                found[name] = self._prompt_tokens(model)
            elif name == "trainable_parameters":
                found[name] = model.trainable_parameters
            else:
                found[name] = self._latency_ms(model)
        return found

    def _prompt_tokens(self, model: PromptedModel) -> int:
        rows = self.objective.target.validation if model.candidate.demonstrations.count else ()
        return model.prompt_tokens(model.encode(rows, self._pool(model.candidate)))

    def _latency_ms(self, model: PromptedModel) -> float:
        """Return the latency of a model's shape, from the store if it was measured before."""
        target = self.objective.target
        key = {
            **self.objective.backbone_key(),
            "stage": "latency",
            "shape": _shape(model.candidate).to_dict(),
            "labels": list(target.labels),
            "rows": [rows_hash(target.train), rows_hash(target.validation)],
            "threads": torch.get_num_threads(),
        }
        found = self.objective.stages.get(StageKey.of(key), lambda: self._measured(model))
        return round(found["latency_ms"].item(), 3)

    def _measured(self, model: PromptedModel) -> dict[str, Tensor]:
        """Predict single rows as a bundle does: each rendered and tokenized anew, nothing reused.

        A row's time is that of its fastest of three passes; the median over 16 rows counts. On a CPU it is the
        processor time of the predicting thread, so that other trials beside this one don't count.
        """
        rows, labels = self.objective.target.validation[:LATENCY_ROWS], self.objective.target.labels
        pool = self._pool(model.candidate)

        clock = time.thread_time if self.objective.backbone.device.type == "cpu" else time.perf_counter

        def predict_s(index: int) -> float:
            started = clock()
            model.score(model.encode([rows[index]], pool), labels, 1)  # Its end is on the CPU, so the device is done.
            return clock() - started

        fastest = [min(predict_s(index) for _ in range(LATENCY_PASSES)) for index in range(len(rows))]
        return {"latency_ms": torch.tensor([median(fastest) * 1e3], dtype=torch.float64)}

    def _pool(self, candidate: Candidate) -> DemonstrationPool | None:
        spec = self.objective.spec
        return DemonstrationPools(self.objective.target, {}, spec.space).get(candidate, "validation", spec.split_seed)


def _shape(candidate: Candidate) -> Candidate:
    """Keep what decides how long a prediction takes."""
    adapter = candidate.adapter
    return Candidate(
        candidate.template,
        candidate.verbalizer,
        head=candidate.head,
        demonstrations=candidate.demonstrations,
        soft_prompt=replace(candidate.soft_prompt, init=SoftPrompt().init),
        frozen_layers=0 if adapter.method == "none" else candidate.frozen_layers,
        adapter=adapter,
        decoding=candidate.decoding,
    )
