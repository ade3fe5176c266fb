"""What one trial of a peer is made of: tokens, the model of a candidate, the freezing, the optimizer."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from peers.job import Job, read_job
from peers.model import Batch, LabelHead, Prompted, freeze, pool

WARMUP_FRACTION = 0.1

Candidate = dict[str, Any]
Examples = list[dict[str, Any]]


class Inputs:
    """Turns prompts into padded batches.

    Args:
        tokenizer: The backbone's tokenizer.
        max_tokens: Longest prompt.
        tuned: Whether tokens are kept and batches padded to their longest row only.
    """

    def __init__(self, tokenizer: Any, max_tokens: int, tuned: bool) -> None:
        tokenizer.padding_side = "right"
        self.tokenizer, self.max_tokens, self.tuned = tokenizer, max_tokens, tuned
        self._kept: dict[str, list[int]] = {}

    def examples(self, rows: list[tuple[str, int]]) -> Examples:
        """Tokenize rows."""
        texts = [text for text, _ in rows]
        if not self.tuned:
            encoded = self.tokenizer(texts, truncation=True, max_length=self.max_tokens, padding="max_length")
            ids, masks = encoded["input_ids"], encoded["attention_mask"]
            return [
                {"input_ids": i, "attention_mask": m, "labels": row[1]}
                for i, m, row in zip(ids, masks, rows, strict=True)
            ]
        new = [text for text in texts if text not in self._kept]
        if new:
            encoded = self.tokenizer(new, truncation=True, max_length=self.max_tokens)
            self._kept.update(zip(new, encoded["input_ids"], strict=True))
        return [{"input_ids": self._kept[text], "labels": label} for text, label in rows]

    def collate(self, examples: Examples) -> Batch:
        """Make one batch."""
        features = [{k: v for k, v in example.items() if k != "labels"} for example in examples]
        batch = self.tokenizer.pad(features, padding=True, return_tensors="pt")
        return {**batch, "labels": torch.tensor([example["labels"] for example in examples])}


class Parts:
    """Builds what trials need as the documentation's examples do: the model is loaded for each trial.

    Args:
        job: The content of the job file.
        tuned: Whether to keep tokens, pad to the longest of a batch, and freeze the embeddings with the layers.
    """

    def __init__(self, job: Job, tuned: bool = False) -> None:
        self.job, self.tuned = job, tuned
        self.tokenizer = AutoTokenizer.from_pretrained(job["backbone"])
        self.inputs = Inputs(self.tokenizer, job["max_tokens"], tuned)

    def base(self) -> Any:
        """Load the pretrained model."""
        kind = AutoModelForCausalLM if self.job["family"] == "causal_lm" else AutoModel
        base = kind.from_pretrained(self.job["backbone"], dtype=torch.float32)
        if getattr(base, "pooler", None) is not None:
            base.pooler = None
        return base

    def rows(self, candidate: Candidate, name: str) -> Examples:
        """Tokenize the `train`, `validation` or `source` rows as a candidate's template renders them."""
        return self.inputs.examples(self.job["prompts"][candidate["template"]][name])

    def batches(self, rows: Examples, size: int) -> DataLoader[Any]:
        """Shuffle rows into batches of one size."""
        return DataLoader(rows, batch_size=size, shuffle=True, drop_last=True, collate_fn=self.inputs.collate)

    def source_batches(self, candidate: Candidate) -> Iterator[Batch] | None:
        """Draw batches of source rows for ever, if the candidate mixes the losses."""
        if not candidate["alpha"]:
            return None
        return endless(self.batches(self.rows(candidate, "source"), candidate["batch_size"]))

    def model(self, candidate: Candidate) -> tuple[Prompted, Tensor]:
        """Build the model without its soft prompt, and the soft prompt's first values."""
        base = self.base().eval()
        labels, words = self.job["labels"], candidate["words"]
        head, tokens = None, []
        if self.job["family"] == "causal_lm":
            encode = self.tokenizer.encode
            tokens = [[tuple(encode(word, add_special_tokens=False)) for word in words[label]] for label in labels]
        else:
            head = self._head(base, candidate)
        length, table = candidate["soft_prompt.length"], base.get_input_embeddings().weight.detach()
        if candidate["soft_prompt.init"] == "label_words":
            ids = torch.tensor([candidate["word_ids"][i % len(candidate["word_ids"])] for i in range(length)])
        else:
            ids = torch.randint(len(table), (length,), generator=torch.Generator().manual_seed(self.job["seed"]))
        model = Prompted(base, head, tokens)
        model.rows = self.job["source_labels"]
        return model, table[ids.long()].clone()

    def migrate(self, model: Prompted, vectors: Tensor, candidate: Candidate) -> None:
        """Attach the soft prompt, freeze the lower layers, and turn to the target's labels."""
        if len(vectors):
            model.attach(len(vectors), candidate["soft_prompt.place"], vectors)
        freeze(model, candidate["frozen_layers"], embeddings=self.tuned)
        model.rows = self.job["target_labels"]

    def _head(self, base: Any, candidate: Candidate) -> LabelHead:
        labels = self.job["labels"]
        if candidate["head"] == "linear":
            generator = torch.Generator().manual_seed(self.job["seed"])
            weight = torch.randn(len(labels), base.config.hidden_size, generator=generator) * 0.02
            return LabelHead(weight, cosine=False)
        rows = []
        for label in labels:
            encoded = self.tokenizer(candidate["words"][label], padding=True, return_tensors="pt")
            with torch.no_grad():
                hidden = base(**encoded).last_hidden_state
            rows.append(functional.normalize(pool(hidden, encoded["attention_mask"]), dim=-1).mean(0))
        return LabelHead(torch.stack(rows), cosine=True)

    def untrained(self, candidate: Candidate) -> Tensor:
        """Score the validation rows before any training; shape (rows, labels)."""
        model, vectors = self.model(candidate)
        self.migrate(model, vectors, candidate)
        rows = self.rows(candidate, "validation")
        model.eval()
        size = self.job["evaluation_batch_size"]
        with torch.inference_mode():
            parts = [model(**self.inputs.collate(rows[i : i + size]))["logits"] for i in range(0, len(rows), size)]
        return torch.cat(parts)


class KeptParts(Parts):
    """The same tuned by hand: one model and one set of tokens a process; weights are reset from a copy."""

    def __init__(self, path: str) -> None:
        super().__init__(read_job(path), tuned=True)
        self._path = path
        self._base: Any = None
        self._copy: dict[str, Tensor] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as a path: each worker loads once, however many trials it is sent."""
        return kept_parts, (self._path,)

    def base(self) -> Any:
        """Return the pretrained model, reset."""
        if self._base is None:
            self._base = super().base()
            self._copy = {name: value.clone() for name, value in self._base.state_dict().items()}
        self._base.load_state_dict(self._copy)
        self._base.zero_grad(set_to_none=True)
        return self._base


@cache
def kept_parts(path: str) -> KeptParts:
    """Return this process's parts for a job file."""
    return KeptParts(path)


def parts_of(path: str, tuned: bool) -> Parts:
    """Build the parts of a system's default or tuned form."""
    return kept_parts(path) if tuned else Parts(read_job(path))


def optimizer_and_schedule(model: Prompted, rate: float, prompt_rate: float, steps: int) -> tuple[Any, Any]:
    """AdamW with two groups, ten per cent linear warmup, linear decay."""
    attached = [p for p in model.attached() if p.requires_grad]
    known = {id(p) for p in attached}
    carried = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
    groups = [{"params": carried, "lr": rate}, {"params": attached, "lr": prompt_rate}]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], weight_decay=0.0)
    warmup = max(1, round(WARMUP_FRACTION * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: max(0.0, min((step + 1) / warmup, 1.0, (steps - step) / max(1, steps - warmup)))
    )
    return optimizer, schedule


def endless(loader: DataLoader[Any]) -> Iterator[Batch]:
    """Draw batches for ever."""
    while True:
        yield from loader
