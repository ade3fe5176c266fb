"""Cost of one fixed list of image candidates: promptgraft with and without its stores, and transformers' `Trainer`.

    python -m tests.bench.image_replay [--candidates 8] [--runs 5] [--out FILE.json]

The candidates are drawn at random, with a fixed seed, from the space of `replay_images.yaml`. Every system's run is a
fresh process with one thread; start-up is counted apart. `off`, `cold`, `list`, `warm`: see `tests.bench.replay`.

`trainer` trains the same rows, layers, batches and updates, on the source first where the candidate says so, and scores
the same validation rows as often. It gets every tuning that a careful user would give it: images are decoded and
resized once a process and kept as tensors, the model is loaded once and its weights are copied, and nothing is logged
or saved. `trainer_default` decodes images for each batch and loads the model for each candidate, as the tutorials do.
"""

import argparse
import copy
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import AutoImageProcessor, AutoModelForImageClassification, Trainer, TrainingArguments

from promptgraft.objectives.data import Row, open_image
from promptgraft.objectives.runtime import quiet_transformers
from promptgraft.objectives.trial import Objective
from promptgraft.search.study import load_study
from promptgraft.spaces import Candidate
from tests.bench.replay import OURS, Bench, check, measure, run_command
from tests.bench.replay_ours import Clock, draw, read_candidate
from tests.bench.replay_tables import Report, group_ratios, show, summarise

STUDY = Path(__file__).with_name("replay_images.yaml")
PEERS = ("trainer", "trainer_default")


class Images(Dataset[dict[str, Any]]):
    """Rows with one image each, as `Trainer` reads them.

    Args:
        rows: The rows.
        processor: The model's image processor.
        kept: Whether pixels are computed once, in place of anew for each batch.
    """

    def __init__(self, rows: Sequence[Row], processor: Any, kept: bool) -> None:
        self.labels = [int(row.label) for row in rows]
        self.paths = [Path(path) for row in rows for path in row.fields.values()]
        self.processor = processor
        self.known = [self._pixels(path) for path in self.paths] if kept else None

    def _pixels(self, path: Path) -> Tensor:
        return cast("Tensor", self.processor(open_image(path), return_tensors="pt")["pixel_values"][0])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, place: int) -> dict[str, Any]:
        pixels = self.known[place] if self.known is not None else self._pixels(self.paths[place])
        return {"pixel_values": pixels, "labels": self.labels[place]}


class Peer:
    """Evaluates candidates with `Trainer`.

    Args:
        objective: Gives rows and settings.
        tuned: Whether pixels and the loaded model are kept.
        folder: Trainer's output folder; nothing is saved.
    """

    def __init__(self, objective: Objective, tuned: bool, folder: str) -> None:
        self.spec, self.tuned, self.folder = objective.spec, tuned, folder
        self.processor = AutoImageProcessor.from_pretrained(self.spec.backbone.path, backend="pil")
        (source,) = objective.sources.values()
        self.parts = {
            "source": Images(source.train, self.processor, tuned),
            "train": Images(objective.target.train, self.processor, tuned),
            "validation": Images(objective.target.validation, self.processor, tuned),
        }
        self.labels = {"source": len(source.labels), "train": len(objective.target.labels)}
        self.loaded = self._load() if tuned else None

    def _load(self) -> Any:
        return AutoModelForImageClassification.from_pretrained(self.spec.backbone.path)

    def evaluate(self, candidate: Candidate, seed: int) -> dict[str, float]:
        """Train one candidate; return its best accuracy on the validation rows."""
        torch.manual_seed(seed)
        model = copy.deepcopy(self.loaded) if self.loaded is not None else self._load()
        source = self.spec.source_training
        if candidate.source_steps:
            rates = source.learning_rate, source.head_learning_rate
            self._train(model, "source", source.frozen_layers, candidate.source_steps, source.batch_size, rates)
        rates = candidate.learning_rate, candidate.prompt_learning_rate
        trainer = self._train(model, "train", candidate.frozen_layers, candidate.steps, candidate.batch_size, rates)
        scores = [own["eval_accuracy"] for own in trainer.state.log_history if "eval_accuracy" in own]
        return {"value": max(scores), "evaluations": len(scores)}

    def _train(self, model: Any, part: str, frozen: int, steps: int, batch: int, rates: tuple[float, float]) -> Trainer:
        """Train a new head and what isn't frozen; on target rows, score the validation rows as the study does."""
        model.config.num_labels = self.labels[part]
        model.classifier = nn.Linear(model.config.hidden_dim, self.labels[part])
        model.requires_grad_(True)
        blocks = model.efficientnet.encoder.blocks
        stages = stage_ends(model.config)
        for own in (model.efficientnet.embeddings, *blocks[: stages[frozen - 1]]):
            own.requires_grad_(False)
            # Their running statistics stay, too: `Trainer` puts the whole model into training.
            own.eval().train = lambda mode=True, own=own: own
        head = {id(own) for own in model.classifier.parameters()}
        trained = [own for own in model.parameters() if own.requires_grad]
        optimizer = torch.optim.AdamW(
            [
                {"params": [own for own in trained if id(own) not in head], "lr": rates[0]},
                {"params": list(model.classifier.parameters()), "lr": rates[1]},
            ]
        )
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
        target = part != "source"
        arguments = TrainingArguments(
            output_dir=self.folder,
            max_steps=steps,
            per_device_train_batch_size=batch,
            per_device_eval_batch_size=self.spec.evaluation_batch_size,
            eval_strategy="steps" if target else "no",
            eval_steps=self.spec.evaluate_every,
            eval_on_start=target,
            max_grad_norm=1.0,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            label_names=["labels"],
            disable_tqdm=True,
            logging_strategy="no",
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=self.parts[part],
            eval_dataset=self.parts["validation"] if target else None,
            compute_metrics=accuracy,
            optimizers=(optimizer, schedule),
        )
        trainer.train()
        return trainer


def accuracy(prediction: Any) -> dict[str, float]:
    """Compute the share of rows that are right."""
    return {"accuracy": float((np.argmax(prediction.predictions, -1) == prediction.label_ids).mean())}


def stage_ends(config: Any) -> list[int]:
    """Return how many blocks of an EfficientNet come before the end of each of its stages."""
    return list(np.cumsum([int(-(-own * config.depth_coefficient // 1)) for own in config.num_block_repeats]))


def run_peer(job: Mapping[str, Any], tuned: bool) -> Report:
    """Evaluate the job's candidates with `Trainer`, one after another."""
    objective = Objective(replace(load_study(Path(job["study"])).objective, files=None))
    with tempfile.TemporaryDirectory() as folder:
        peer = Peer(objective, tuned, folder)
        clock, outcomes = Clock(), []
        for entry in job["candidates"]:
            with clock.candidate() as times:
                found = peer.evaluate(read_candidate(entry), job["seed"])
            outcomes.append({**found, **times()})
    return clock.report(outcomes)


class ImageBench(Bench):
    """Runs systems in processes of their own."""

    def prepare(self, candidates: int, seed: int) -> Report:
        """Draw the candidates and write the job; return it."""
        drawn = draw(load_study(STUDY).objective, candidates, seed)
        job = {"study": str(STUDY), "seed": seed, "candidates": [own.to_dict() for own in drawn]}
        self.job.write_text(json.dumps(job))
        return job

    def replay(self, system: str, files: Path) -> Report:
        """Run one system on the whole list; see `Bench`."""
        if system not in PEERS:
            return super().replay(system, files)
        out = self.folder / "report.json"
        command = [sys.executable, "-m", "tests.bench.image_replay", "--job", str(self.job), "--out", str(out)]
        default = ["--default"] if system == "trainer_default" else []
        measured = run_command([*command, *default], dict(os.environ))
        report: Report = {**measured, **json.loads(out.read_text())}
        return report


def main() -> None:
    """Run the replay, or in a process of its own the peer."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--default", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    quiet_transformers()
    if chosen.job:
        chosen.out.write_text(json.dumps(run_peer(json.loads(chosen.job.read_text()), not chosen.default)))
        return
    with tempfile.TemporaryDirectory() as folder:
        bench = ImageBench("images", Path(folder), sys.executable)
        job = bench.prepare(chosen.candidates, chosen.seed)
        reports = measure(bench, (*OURS, *PEERS), chosen.runs, default_runs=1)
        checks = check(bench, reports)
    summary, groups = summarise(reports), group_ratios(job["candidates"], reports)
    show("images", len(job["candidates"]), summary, groups, checks)
    if chosen.out:
        content = {"candidates": job["candidates"], "summary": summary, "groups": groups, "checks": checks}
        chosen.out.write_text(json.dumps({**content, "reports": reports}, indent=1))


if __name__ == "__main__":
    main()
