"""Language models that write parts of prompts: a study's own backbone, or another model that it names."""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from promptgraft.objectives.backbones import BACKBONES
from promptgraft.objectives.growth.plan import WriterSpec
from promptgraft.objectives.spec import BackboneSpec
from promptgraft.spaces import InvalidInputError

# Pairs that show a causal LM what is wanted: the same meaning in other words.
EXAMPLES = (
    ("Text:", "Passage:"),
    ("Is this good or bad?", "Would you call this good or bad?"),
    ("In short, the writer thinks it is", "To sum up, the author finds it"),
    ("Label:", "Category:"),
)
MAX_NEW_TOKENS, TEMPERATURE, TOP_P = 16, 0.9, 0.95
# Continuations that are followed at a time, and tokens of each.
BEAMS, MAX_CONTINUATION = 4, 6


class Writer:
    """Writes with a pretrained language model; nothing is trained.

    Args:
        model: The model, in evaluation mode.
        tokenizer: Its tokenizer.
        family: `causal_lm` or `masked_lm`.
    """

    def __init__(self, model: Any, tokenizer: Any, family: str) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.family = family

    @classmethod
    def load(cls, spec: WriterSpec, device: torch.device) -> "Writer":
        """Load a model from safetensors.

        Raises:
            InvalidInputError: If it can't be loaded.
        """
        try:
            loaded = BACKBONES[spec.family](BackboneSpec(spec.path, spec.family, max_tokens=1), device)
        except InvalidInputError as error:
            raise InvalidInputError(f"grow.writer {spec.path!r} can't be loaded as {spec.family}: {error}") from error
        return cls(loaded.model.eval(), loaded.tokenizer, spec.family)

    def paraphrases(self, words: str, n: int, seed: int) -> list[str]:
        """Ask a causal LM to say some words in other words, with examples of what is wanted.

        Args:
            words: What to say.
            n: How many answers to sample.
            seed: Seed of the sample; torch's global generator is left as it was.

        Returns:
            The answers that are not empty and not the words themselves, each once.
        """
        shots = [f"Phrase: {a}\nSame meaning, other words: {b}\n" for a, b in EXAMPLES]
        text = "\n".join([*shots, f"Phrase: {words}\nSame meaning, other words:"])
        encoded = self.tokenizer(text, return_tensors="pt").to(self.model.device)
        options: dict[str, Any] = {"do_sample": True, "temperature": TEMPERATURE, "top_p": TOP_P}
        with torch.random.fork_rng(devices=_generators(self.model.device)), torch.inference_mode():
            torch.manual_seed(seed)
            found = self.model.generate(
                **encoded,
                **options,
                num_return_sequences=n,
                max_new_tokens=MAX_NEW_TOKENS,
                pad_token_id=self.tokenizer.eos_token_id,
            )
        behind = found[:, encoded["input_ids"].shape[1] :]
        answers = [self._first_line(self.tokenizer.decode(ids, skip_special_tokens=True)) for ids in behind]
        return [answer for answer in dict.fromkeys(answers) if answer and answer != words]

    def continuations(self, texts: Sequence[str], n: int) -> list[str]:
        """Find words that follow all of some texts, with a causal LM.

        The sum of their log-probabilities over the texts is searched with beams, as LM-BFF does for what a
        sequence-to-sequence model fills in (Gao et al. 2021, arXiv:2012.15723, section 5.2).

        Args:
            texts: Beginnings.
            n: How many to return at most.

        Returns:
            The likeliest of each length, the shortest first, each once.
        """
        prompts: list[list[int]] = [self.tokenizer(text)["input_ids"] for text in texts]
        beams: list[tuple[float, list[int]]] = [(0.0, [])]
        found: list[str] = []
        for _ in range(MAX_CONTINUATION):
            scores = self._next_scores([prompt + ids for _, ids in beams for prompt in prompts])
            summed = scores.view(len(beams), len(prompts), -1).sum(1)
            best = (summed + torch.tensor([[score] for score, _ in beams])).flatten().topk(BEAMS)
            rows, tokens = best.indices // summed.shape[1], best.indices % summed.shape[1]
            beams = [
                (score, [*beams[row][1], token])
                for score, row, token in zip(best.values.tolist(), rows.tolist(), tokens.tolist(), strict=True)
            ]
            found += [self._first_line(self.tokenizer.decode(ids, skip_special_tokens=True)) for _, ids in beams]
        return [words for words in dict.fromkeys(found) if words][:n]

    def fillings(self, texts: Sequence[tuple[str, str]], masks: int, n: int) -> list[str]:
        """Find words that fit between two texts, with a masked LM.

        Args:
            texts: What stands before and behind the words, in each row.
            masks: Tokens to fill in; all are predicted in one pass.
            n: How many to return at most.

        Returns:
            The i-th likeliest token at each mask together, for i = 1, 2, ..., by the log-probabilities' sum over rows.
        """
        mask, special = self.tokenizer.mask_token, self.tokenizer.all_special_ids
        encoded = self.tokenizer(
            [before + " ".join([mask] * masks) + after for before, after in texts], padding=True, return_tensors="pt"
        ).to(self.model.device)
        with torch.inference_mode():
            scores = self.model(**encoded).logits.float().log_softmax(-1).cpu()
        is_mask = encoded["input_ids"].cpu() == self.tokenizer.mask_token_id
        kept = is_mask.sum(1) == masks  # A text may hold the mask's own name.
        at_masks = scores[kept][is_mask[kept]].view(int(kept.sum()), masks, -1).sum(0)
        at_masks[:, special] = -torch.inf
        best = at_masks.topk(n, dim=1).indices.T
        return list(dict.fromkeys(self._first_line(self.tokenizer.decode(ids)) for ids in best))

    def _next_scores(self, sequences: Sequence[list[int]]) -> Tensor:
        """Return the log-probabilities of the next token, shape (sequences, vocabulary)."""
        lengths = torch.tensor([len(ids) for ids in sequences])
        padded = torch.zeros(len(sequences), int(lengths.max()), dtype=torch.long)
        for index, ids in enumerate(sequences):
            padded[index, : len(ids)] = torch.tensor(ids)
        seen = torch.arange(padded.shape[1]) < lengths[:, None]
        device = self.model.device
        with torch.inference_mode():
            hidden = self.model.base_model(
                input_ids=padded.to(device), attention_mask=seen.long().to(device)
            ).last_hidden_state
            last = hidden[torch.arange(len(sequences)), (lengths - 1).to(device)]
            scores: Tensor = self.model.get_output_embeddings()(last).float().log_softmax(-1).cpu()
        return scores

    @staticmethod
    def _first_line(text: str) -> str:
        return re.sub(r"\s+", " ", text.strip().split("\n")[0]).strip().strip('"')


def _generators(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []
