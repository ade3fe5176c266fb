"""SetFit on the target's few labels: no search, so a reference of quality for time rather than a peer."""

import tempfile
from typing import Any

from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from setfit import SetFitModel, Trainer, TrainingArguments
from sklearn.linear_model import LogisticRegression

from peers.job import Job, Stopwatch


def evaluate(job: Job) -> dict[str, Any]:
    """Train on the target's training rows with SetFit's defaults; return accuracies and times."""
    watch = Stopwatch()
    reader = Transformer(job["backbone"], max_seq_length=job["max_tokens"])
    body = SentenceTransformer(
        modules=[reader, Pooling(reader.get_embedding_dimension(), "mean"), Normalize()], device="cpu"
    )
    texts = {name: [text for text, _ in rows] for name, rows in job["plain"].items()}
    labels = {name: [label for _, label in rows] for name, rows in job["plain"].items()}
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=SetFitModel(model_body=body, model_head=LogisticRegression()),
            args=TrainingArguments(
                output_dir=folder, seed=job["seed"], report_to="none", save_strategy="no", show_progress_bar=False
            ),
            train_dataset=Dataset.from_dict({"text": texts["train"], "label": labels["train"]}),
        )
        trainer.train()
    times = watch.times()

    def accuracy(name: str) -> float:
        found = trainer.model.predict(texts[name], as_numpy=True, show_progress_bar=False)
        return float((found == labels[name]).mean())

    return {"value": accuracy("validation"), "test_accuracy": accuracy("test"), **times}
