"""What bfloat16 saves and changes: CPU time of an update and of scoring beside float32, on one thread.

python -m tests.bench.precision [--updates 4] [--rows 32]

Ratios say something only where the processor computes in bfloat16 (avx512_bf16, AMX): it is printed whether it does.
"""

import argparse
import time
from dataclasses import replace
from statistics import median

import numpy as np
import torch
from scipy.special import softmax

from promptgraft.objectives.runtime import quiet_transformers
from promptgraft.objectives.trial import Objective
from promptgraft.search.study import load_study
from promptgraft.spaces import Candidate, SoftPrompt
from tests.support.paths import STUDIES


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--updates", type=int, default=4)
    parser.add_argument("--rows", type=int, default=32)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    quiet_transformers()
    known = torch.cpu.get_capabilities()
    print({name: known.get(name, False) for name in ("avx512_bf16", "amx_bf16")})
    for name in ("demo", "smollm2"):
        spec = load_study(STUDIES / f"{name}.yaml").objective
        low = replace(spec, backbone=replace(spec.backbone, dtype="bfloat16"))
        workers = {"float32": Objective(spec), "bfloat16": Objective(low)}
        prompt = spec.space.templates[0].id, spec.space.verbalizers[0].id
        for place in ("prefix", "suffix"):
            soft = SoftPrompt(8, "vocabulary", place)
            candidate = Candidate(*prompt, soft_prompt=soft, frozen_layers=spec.space.facts.n_layers, batch_size=8)
            measure(f"{name}, {place}", workers, candidate, arguments.updates, arguments.rows)


def measure(title: str, workers: dict[str, Objective], candidate: Candidate, updates: int, n_rows: int) -> None:
    """Print the ratio of CPU times, and how far logits are apart."""
    step, score, logits = {}, {}, {}
    for name, worker in workers.items():
        (model,) = worker.untrained([candidate])
        rows = worker.target.validation[:n_rows]
        encoded = model.encode(rows)
        optimizer = torch.optim.AdamW(model.trainable().values(), lr=1e-3)
        times = []
        for number in range(updates + 1):
            started = time.process_time()
            optimizer.zero_grad()
            chosen = encoded[8 * (number % (n_rows // 8)) :][:8]
            model.nll(chosen, worker.target.labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            times.append(time.process_time() - started)
        (model,) = worker.untrained([candidate])
        started = time.process_time()
        logits[name] = model.score(encoded, worker.target.labels, 16).numpy()
        step[name], score[name] = median(times[1:]), time.process_time() - started
    first, second = logits["float32"], logits["bfloat16"]
    probabilities = np.abs(softmax(first, 1) - softmax(second, 1)).max()
    flips = (first.argmax(1) != second.argmax(1)).sum()
    gain = step["float32"] / step["bfloat16"]
    print(
        f"{title}: update {step['float32']:.2f} s / {step['bfloat16']:.2f} s = {gain:.2f}x; "
        f"scoring {score['float32'] / score['bfloat16']:.2f}x; logits {np.abs(first - second).max():.3f} apart "
        f"(of {np.abs(first).max():.1f}), probabilities {probabilities:.4f}; {flips} of {len(first)} answers differ",
        flush=True,
    )


if __name__ == "__main__":
    main()
