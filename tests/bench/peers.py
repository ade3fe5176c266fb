"""The replay benchmark's peers: transformers' Trainer and PEFT, as a user would write the trials today.

python peers.py JOB OUT --system trainer_default|trainer_tuned|untrained

Imports no promptgraft. `trainer_default` does what the documentation's examples do: the model is loaded for each
trial, texts are tokenized for each trial and padded to the longest allowed, layers are frozen by name.
`trainer_tuned` keeps the model and the tokens, resets the weights from a copy, pads to the longest of a batch
and freezes the embeddings with the lower layers. `untrained` only scores: it shows that both sides read the
candidates alike. Neither writes checkpoints, which favours the peers.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PromptTuningConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

WARMUP_FRACTION = 0.1
COSINE_SCALE = 20.0

Batch = dict[str, Tensor]
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


class LabelHead(nn.Module):
    """One trainable row a label, compared by cosine or by dot product and bias."""

    def __init__(self, weight: Tensor, cosine: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = None if cosine else nn.Parameter(torch.zeros(len(weight)))

    def forward(self, features: Tensor, rows: list[int]) -> Tensor:
        if self.bias is None:
            normal = functional.normalize(self.weight[rows], dim=-1)
            return COSINE_SCALE * functional.normalize(features, dim=-1) @ normal.T
        return features @ self.weight[rows].T + self.bias[rows]


class LatePrompt(nn.Module):
    """Trainable vectors behind the padded text, from the embeddings on or from a layer on."""

    def __init__(self, stack: Any, vectors: Tensor, layer: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(vectors.clone())
        self._stack, self.layer = [stack], layer

    def forward(self, input_ids: Tensor, attention_mask: Tensor, extra: Tensor, causal: bool) -> Tensor:
        """Return the last hidden states of text, padding, prompt and `extra` tokens, in this order."""
        stack = self._stack[0]
        rows, width, length = len(input_ids), input_ids.shape[1], len(self.weight)
        embed = stack.get_input_embeddings()
        vectors = self.weight.expand(rows, -1, -1)
        inside = vectors if self.layer == 0 else torch.zeros_like(vectors)
        embedded = torch.cat([embed(input_ids), inside, embed(extra)], dim=1)
        visible = torch.cat([attention_mask, attention_mask.new_ones(rows, length + extra.shape[1])], dim=1)
        position = (visible.cumsum(1) - 1).clamp(min=0)
        if self.layer == 0:
            return stack(inputs_embeds=embedded, attention_mask=visible, position_ids=position).last_hidden_state
        below = visible.clone()
        below[:, width : width + length] = 0
        with ExitStack() as hooks:
            for index, layer in enumerate(_layers(stack)):
                if index >= self.layer:
                    entering = (width, vectors) if index == self.layer else None
                    hook = _late_hook(_additive(visible, causal, embedded.dtype), entering)
                    hooks.callback(layer.register_forward_pre_hook(hook, with_kwargs=True).remove)
            mask = _additive(below, causal, embedded.dtype)
            return stack(inputs_embeds=embedded, attention_mask=mask, position_ids=position).last_hidden_state


def _late_hook(mask: Tensor, entering: tuple[int, Tensor] | None) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        hidden, *rest = args
        if entering is not None:
            start, vectors = entering
            hidden = torch.cat([hidden[:, :start], vectors, hidden[:, start + vectors.shape[1] :]], dim=1)
        if "attention_mask" in kwargs:
            kwargs = {**kwargs, "attention_mask": mask}
        else:
            rest[0] = mask
        return (hidden, *rest), kwargs

    return hook


def _additive(visible: Tensor, causal: bool, dtype: torch.dtype) -> Tensor:
    """Turn visible keys, shape (rows, keys), into an additive mask, shape (rows, 1, queries, keys)."""
    width = visible.shape[1]
    allowed = visible.bool()[:, None, None, :].expand(-1, 1, width, width)
    if causal:
        allowed = allowed & torch.ones(width, width, dtype=torch.bool).tril()
    return torch.zeros(allowed.shape, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)


class Prompted(nn.Module):
    """A backbone with soft prompt and head, which returns loss and logits as Trainer wants them.

    Args:
        base: The pretrained model.
        head: The label head of an encoder; None for a causal LM.
        words: Of a causal LM: for each label the tokens of its words.
    """

    def __init__(self, base: Any, head: LabelHead | None, words: list[list[tuple[int, ...]]]) -> None:
        super().__init__()
        self.base, self.head, self.words = base, head, words
        self.stack = base.base_model
        self.late: LatePrompt | None = None
        self.peft: list[Any] = []  # In a list: it holds the stack once more.
        self.before: nn.Parameter | None = None
        self.rows: list[int] = []

    def attach(self, length: int, place: str, vectors: Tensor) -> None:
        """Put a soft prompt on the stack."""
        if place != "prefix":
            self.late = LatePrompt(self.stack, vectors, int(place.split()[1]) if place != "suffix" else 0)
            return
        config = PromptTuningConfig(
            task_type="FEATURE_EXTRACTION",
            num_virtual_tokens=length,
            token_dim=vectors.shape[1],
            num_layers=self.stack.config.num_hidden_layers,
            num_attention_heads=self.stack.config.num_attention_heads,
        )
        peft = get_peft_model(self.stack, config)
        self.before = peft.prompt_encoder["default"].embedding.weight
        with torch.no_grad():
            self.before.copy_(vectors)
        self.peft = [peft]

    def attached(self) -> list[nn.Parameter]:
        """Weights that train with the prompt's learning rate."""
        found = [] if self.head is None else list(self.head.parameters())
        found += [] if self.late is None else list(self.late.parameters())
        return found + ([] if self.before is None else [self.before])

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self._encoder(input_ids, attention_mask) if self.head else self._causal(input_ids, attention_mask)
        return {"loss": functional.cross_entropy(logits, labels), "logits": logits}

    def _encoder(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        assert self.head is not None
        width = input_ids.shape[1]
        hidden = self._hidden(input_ids, attention_mask, input_ids[:, :0])
        hidden = hidden[:, -width:] if self.before is not None else hidden[:, :width]
        return self.head(_pool(hidden, attention_mask), self.rows)

    def _hidden(self, input_ids: Tensor, attention_mask: Tensor, extra: Tensor) -> Tensor:
        if self.late is not None:
            return self.late(input_ids, attention_mask, extra, self.head is None)
        model = self.peft[0] if self.peft else self.stack
        return model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    def _causal(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        scores: dict[tuple[int, ...], Tensor] = {}
        words = sorted({word for label in self.words for word in label}, key=len, reverse=True)
        for longest in words:
            if longest in scores:
                continue
            read = self._next_tokens(input_ids, attention_mask, longest[:-1])
            for word in words:
                if word[:-1] == longest[: len(word) - 1]:
                    scores[word] = torch.stack([read[:, i, token] for i, token in enumerate(word)]).sum(0)
        means = []
        for row in self.rows:
            of_label = torch.stack([scores[word] for word in self.words[row]])
            means.append(of_label.logsumexp(0) - float(np.log(len(of_label))))
        return torch.stack(means, dim=1)

    def _next_tokens(self, input_ids: Tensor, attention_mask: Tensor, prefix: tuple[int, ...]) -> Tensor:
        """Log-probabilities behind the prompt and each token of `prefix`; the vocabulary only at these places."""
        count, rows = len(prefix), len(input_ids)
        extra = torch.tensor(prefix, dtype=torch.long).expand(rows, count)
        if self.late is not None:
            hidden = self._hidden(input_ids, attention_mask, extra)[:, -1 - count :]
        else:
            lengths = attention_mask.sum(1, keepdim=True)
            if count:
                place = lengths + torch.arange(count)
                input_ids = functional.pad(input_ids, (0, count)).scatter(1, place, extra)
                attention_mask = functional.pad(attention_mask, (0, count)).scatter(1, place, 1)
            hidden = self._hidden(input_ids, attention_mask, extra)
            first = lengths - 1 + (0 if self.before is None else len(self.before))
            place = first + torch.arange(count + 1)
            hidden = hidden.gather(1, place[..., None].expand(-1, -1, hidden.shape[-1]))
        return self.base.get_output_embeddings()(hidden).log_softmax(-1)


def _pool(hidden: Tensor, mask: Tensor) -> Tensor:
    weights = mask.to(hidden.dtype)[..., None]
    return (hidden * weights).sum(1) / weights.sum(1)


def _layers(stack: Any) -> Sequence[nn.Module]:
    return stack.encoder.layer if hasattr(stack, "encoder") else stack.layers


def freeze(model: Prompted, layers: int, embeddings: bool) -> None:
    """Freeze the lower layers; with all of them frozen, the whole backbone.

    Args:
        model: The model.
        layers: How many.
        embeddings: Whether to freeze the embeddings below them too.
    """
    stack = model.stack
    prefixed = bool(model.peft)  # PEFT has frozen the stack: the upper layers are freed again.
    everything = layers == len(_layers(stack))
    for parameter in model.base.parameters():
        parameter.requires_grad_(not everything)
    if everything:
        return
    for layer in _layers(stack)[:layers]:
        layer.requires_grad_(False)
    if embeddings or prefixed:
        (stack.embeddings if hasattr(stack, "embeddings") else stack.get_input_embeddings()).requires_grad_(layers == 0)


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


class MixedTrainer(Trainer):
    """Trains on alpha * L_s + (1 - alpha) * L_t."""

    source: Iterator[Batch] | None = None
    alpha = 0.0
    rows: tuple[list[int], list[int]]

    def compute_loss(self, model: Any, inputs: Batch, return_outputs: bool = False, **kwargs: Any) -> Any:
        outputs = model(**inputs)
        loss = outputs["loss"]
        if self.source is not None and model.training:
            model.rows = self.rows[0]
            source = model(**next(self.source))["loss"]
            model.rows = self.rows[1]
            loss = self.alpha * source + (1 - self.alpha) * loss
        return (loss, outputs) if return_outputs else loss


def endless(loader: DataLoader[Any]) -> Iterator[Batch]:
    """Draw batches for ever."""
    while True:
        yield from loader


class Peer:
    """Evaluates the candidates of a job."""

    def __init__(self, job: dict[str, Any], tuned: bool) -> None:
        self.job, self.tuned = job, tuned
        self.tokenizer = AutoTokenizer.from_pretrained(job["backbone"])
        self.inputs = Inputs(self.tokenizer, job["max_tokens"], tuned)
        self.kept: Any = None
        self.copy: dict[str, Tensor] = {}
        if tuned:
            self.kept = self._load()
            self.copy = {name: value.clone() for name, value in self.kept.state_dict().items()}

    def _load(self) -> Any:
        kind = AutoModelForCausalLM if self.job["family"] == "causal_lm" else AutoModel
        base = kind.from_pretrained(self.job["backbone"], dtype=torch.float32)
        if getattr(base, "pooler", None) is not None:
            base.pooler = None
        return base

    def base(self) -> Any:
        """Return the pretrained model: loaded anew, or reset."""
        if self.kept is None:
            return self._load()
        self.kept.load_state_dict(self.copy)
        self.kept.zero_grad(set_to_none=True)
        return self.kept

    def model(self, candidate: dict[str, Any]) -> tuple[Prompted, Tensor]:
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
        return Prompted(base, head, tokens), table[ids.long()].clone()

    def _head(self, base: Any, candidate: dict[str, Any]) -> LabelHead:
        labels = self.job["labels"]
        if candidate["head"] == "linear":
            generator = torch.Generator().manual_seed(self.job["seed"])
            return LabelHead(
                torch.randn(len(labels), base.config.hidden_size, generator=generator) * 0.02, cosine=False
            )
        rows = []
        for label in labels:
            encoded = self.tokenizer(candidate["words"][label], padding=True, return_tensors="pt")
            with torch.no_grad():
                hidden = base(**encoded).last_hidden_state
            rows.append(functional.normalize(_pool(hidden, encoded["attention_mask"]), dim=-1).mean(0))
        return LabelHead(torch.stack(rows), cosine=True)

    def untrained(self, candidate: dict[str, Any]) -> Tensor:
        """Score the validation rows before any training."""
        model, vectors = self.model(candidate)
        if len(vectors):
            model.attach(len(vectors), candidate["soft_prompt.place"], vectors)
        model.rows = self.job["target_labels"]
        rows = self.inputs.examples(self.job["prompts"][candidate["template"]]["validation"])
        model.eval()
        size = self.job["evaluation_batch_size"]
        with torch.inference_mode():
            parts = [model(**self.inputs.collate(rows[i : i + size]))["logits"] for i in range(0, len(rows), size)]
        return torch.cat(parts)

    def evaluate(self, candidate: dict[str, Any], folder: str) -> dict[str, Any]:
        """Run one whole trial; return its best validation accuracy and the processor time of its source stage."""
        prompts = self.job["prompts"][candidate["template"]]
        started = time.process_time()
        model, vectors = self.model(candidate)
        if candidate["source_steps"]:
            self._source_stage(model, candidate, self.inputs.examples(prompts["source"]), folder)
        source_s = time.process_time() - started
        if len(vectors):
            model.attach(len(vectors), candidate["soft_prompt.place"], vectors)
        freeze(model, candidate["frozen_layers"], embeddings=self.tuned)
        model.rows = self.job["target_labels"]
        rates = (candidate["learning_rate"], candidate["prompt_learning_rate"])
        train, validation = (self.inputs.examples(prompts[name]) for name in ("train", "validation"))
        trainer = self._trainer(model, train, validation, (candidate["steps"], candidate["batch_size"]), rates, folder)
        if candidate["alpha"] > 0:
            source = self.inputs.examples(prompts["source"])
            loader = DataLoader(
                source, batch_size=candidate["batch_size"], shuffle=True, drop_last=True, collate_fn=self.inputs.collate
            )
            trainer.source, trainer.alpha = endless(loader), candidate["alpha"]
            trainer.rows = (self.job["source_labels"], self.job["target_labels"])
        if candidate["steps"]:
            trainer.train()
        else:
            trainer.evaluate()
        seen = [entry for entry in trainer.state.log_history if "eval_accuracy" in entry]
        best = max(seen or [trainer.evaluate()], key=lambda entry: (entry["eval_accuracy"], -entry["eval_loss"]))
        curve = [entry["eval_accuracy"] for entry in seen]
        return {"value": best["eval_accuracy"], "curve": curve, "source_cpu_s": source_s}

    def _source_stage(self, model: Prompted, candidate: dict[str, Any], rows: Examples, folder: str) -> None:
        settings = self.job["source_training"]
        freeze(model, settings["frozen_layers"], embeddings=self.tuned)
        model.rows = self.job["source_labels"]
        rates = (settings["learning_rate"], settings["head_learning_rate"])
        size = (candidate["source_steps"], settings["batch_size"])
        self._trainer(model, rows, None, size, rates, folder).train()

    def _trainer(
        self,
        model: Prompted,
        train: Examples,
        validation: Examples | None,
        size: tuple[int, int],
        rates: tuple[float, float],
        folder: str,
    ) -> MixedTrainer:
        steps, batch_size = size
        lean: dict[str, Any] = {"disable_tqdm": True, "logging_strategy": "no"} if self.tuned else {}
        evaluations: dict[str, Any] = {} if validation is None else {"eval_strategy": "steps", "eval_on_start": True}
        settings = TrainingArguments(
            output_dir=folder,
            max_steps=max(1, steps),
            per_device_train_batch_size=batch_size,
            per_device_eval_batch_size=self.job["evaluation_batch_size"],
            eval_steps=self.job["evaluate_every"],
            max_grad_norm=1.0,
            seed=self.job["seed"],
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            label_names=["labels"],
            **evaluations,
            **lean,
        )
        trainable = any(p.requires_grad for p in model.parameters())
        trainer = MixedTrainer(
            model=model,
            args=settings,
            train_dataset=train,
            eval_dataset=validation,
            data_collator=self.inputs.collate,
            compute_metrics=_accuracy,
            optimizers=optimizer_and_schedule(model, *rates, steps) if steps and trainable else (None, None),
        )
        if self.tuned:
            for callback in (PrinterCallback, ProgressCallback):
                trainer.remove_callback(callback)
        return trainer


def _accuracy(prediction: Any) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def replay(job: dict[str, Any], system: str) -> dict[str, Any]:
    """Evaluate the job's candidates with one system; return times and scores."""
    peer = Peer(job, tuned=system != "trainer_default")
    startup, outcomes = time.process_time(), []
    for candidate in job["candidates"]:
        cpu, wall = time.process_time(), time.perf_counter()
        outcome: dict[str, Any] = {}
        if system == "untrained":
            logits = peer.untrained(candidate)
            outcome["difference"] = float((logits - torch.tensor(candidate["untrained"])).abs().max())
        else:
            with tempfile.TemporaryDirectory() as folder:
                outcome = peer.evaluate(candidate, folder)
        outcomes.append({**outcome, "cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"startup_cpu_s": startup, "max_rss_bytes": peak, "candidates": outcomes}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("job", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--system", choices=("trainer_default", "trainer_tuned", "untrained"), required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    report = replay(json.loads(arguments.job.read_text()), arguments.system)
    arguments.out.write_text(json.dumps(report))


if __name__ == "__main__":
    main()
