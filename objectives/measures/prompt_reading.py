"""What a trained soft prompt is near to, and whether that means anything.

The nearest tokens of trained vectors are often read as what a prompt says (Lester et al. 2021, arXiv:2104.08691),
though any text may be near to a prompt that does its task well (Khashabi et al. 2022, arXiv:2112.08348). So the tokens
are put in its place, and scored.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from promptgraft.objectives.backbones import FAMILIES
from promptgraft.objectives.kinds import scores
from promptgraft.objectives.measures.records import PromptAsTokens
from promptgraft.objectives.prompting import SOFT_PROMPT
from promptgraft.objectives.trial import Objective
from promptgraft.spaces import Candidate, SoftPrompt

# Prompts of random tokens whose mean score the nearest tokens are compared with.
RANDOM_PROMPTS = 5


def is_readable(soft_prompt: SoftPrompt) -> bool:
    """Whether a soft prompt stands among the embedded tokens: it has vectors, and enters below the first layer."""
    return soft_prompt.tokens > 0 and not soft_prompt.deep and not soft_prompt.layer


def prompt_as_tokens(
    objective: Objective, candidate: Candidate, delta: Mapping[str, Tensor], seed: int
) -> PromptAsTokens | None:
    """Read a trained soft prompt as tokens, and score it with these in its place.

    Args:
        objective: The study's objective; a cycle that is open on it is over.
        candidate: The candidate.
        delta: What its trial kept; see `Result.delta`.
        seed: Seed of the trial.

    Returns:
        None where no tokens can be compared with it; see `is_readable`.
    """
    soft = candidate.soft_prompt
    objective.use_backbone(candidate.backbone)
    if not (is_readable(soft) and FAMILIES[objective.spec.backbone.family].has_words):
        return None
    (model,) = objective.untrained([candidate])
    model.load(delta)
    task, embeddings = objective.target, objective.backbone.embeddings.detach().float()
    with torch.inference_mode():
        vectors = model.stack.vectors().float()
        cosines = functional.normalize(vectors, dim=-1) @ functional.normalize(embeddings, dim=-1).T
    similarities, nearest = cosines.max(dim=-1)
    direct = replace(candidate, soft_prompt=replace(soft, parametrization="direct"))
    others = {name: value for name, value in delta.items() if not name.startswith(SOFT_PROMPT)}

    def score(prompt: Tensor) -> float:
        logits = objective.score(direct, {**others, f"{SOFT_PROMPT}weight": prompt}, task.validation, seed)
        return scores(task, logits, task.validation)[objective.spec.metric]

    random = torch.Generator().manual_seed(seed)
    draws = [torch.randint(len(embeddings), (soft.length,), generator=random) for _ in range(RANDOM_PROMPTS)]
    return PromptAsTokens(
        tokens=tuple(objective.backbone.tokenizer.decode([token]) for token in nearest.tolist()),
        similarities=tuple(round(value, 4) for value in similarities.tolist()),
        value=score(vectors),
        as_tokens=score(embeddings[nearest]),
        as_random=sum(score(embeddings[draw.to(embeddings.device)]) for draw in draws) / len(draws),
        rows=len(task.validation),
    )
