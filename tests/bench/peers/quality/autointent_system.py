"""AutoIntent's preset `classic-medium`, with the benchmark's backbone as its embedder.

Its search over embeddings (nearest neighbours, logistic regression, random forest) fits a few rows in far less than the
budget. Its decision node is left at argmax: no test row is out of scope.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax

from peers.quality.job import Job

PRESET = "classic-medium"


def write_encoder(job: Job, folder: str) -> None:
    """Write the backbone as a folder that any version of sentence-transformers loads."""
    from sentence_transformers import SentenceTransformer, models

    reader = models.Transformer(job.backbone, max_seq_length=job.max_tokens)
    pooling = models.Pooling(reader.get_word_embedding_dimension(), "mean")
    SentenceTransformer(modules=[reader, pooling, models.Normalize()], device="cpu").save(folder)


def tuned(job: Job) -> tuple[np.ndarray, dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder  # Embeddings are kept within a run, but not for the next one.
        from autointent import Dataset, Pipeline
        from autointent.configs import LoggingConfig, SentenceTransformerEmbeddingConfig
        from autointent.utils import load_preset

        encoder = str(Path(folder) / "encoder")
        write_encoder(job, encoder)
        scoring = load_preset(PRESET)["search_space"][0]
        for module in scoring["search_space"]:
            if "n_jobs" in module:
                module["n_jobs"] = [1]
        decision = {
            "node_type": "decision",
            "target_metric": "decision_accuracy",
            "search_space": [{"module_name": "argmax"}],
        }
        pipeline = Pipeline.from_search_space([scoring, decision], seed=job.seed)
        pipeline.set_config(SentenceTransformerEmbeddingConfig(model_name=encoder, device="cpu"))
        pipeline.set_config(LoggingConfig(project_dir=folder, dump_modules=False))
        pipeline.set_config(pipeline.hpo_config.model_copy(update=load_preset(PRESET)["hpo_config"]))
        rows = [
            {"utterance": text, "label": label} for text, label in zip(job.train.joined, job.train.labels, strict=True)
        ]
        context = pipeline.fit(Dataset.from_dict({"train": rows}), refit_after=True)
        found = [own.score for own in pipeline.predict_with_metadata(job.test.joined).utterances]
        scores = np.array(found)
        if scores.min() < 0 or not np.allclose(scores.sum(axis=1), 1):  # Of a support vector machine, for one.
            scores = softmax(scores, axis=1)
        chosen = context.optimization_info.get_inference_nodes_config()
        return scores, {"chosen": [node.module_name for node in chosen]}
