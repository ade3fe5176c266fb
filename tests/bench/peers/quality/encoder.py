"""The backbone as a sentence encoder: mean pooling and normalization, as its authors publish it."""

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

from peers.quality.job import Job


def sentence_encoder(job: Job) -> SentenceTransformer:
    reader = Transformer(job.backbone, max_seq_length=job.max_tokens)
    pooling = Pooling(reader.get_embedding_dimension(), "mean")
    return SentenceTransformer(modules=[reader, pooling, Normalize()], device="cpu")
