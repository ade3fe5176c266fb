"""A round of growth: new templates from several sources, raced untrained, the best of them kept; and label words."""

import logging
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from promptgraft.objectives.backbones import FAMILIES
from promptgraft.objectives.data import Row, by_turns
from promptgraft.objectives.growth.plan import Growth, GrowthPlan
from promptgraft.objectives.growth.template_sources import NEEDS_WRITER, Request, drafts
from promptgraft.objectives.growth.verbalizer_sources import WordsRequest, word_drafts
from promptgraft.objectives.growth.writers import Writer
from promptgraft.objectives.measures import UntrainedScore, race_untrained_prompts
from promptgraft.objectives.trial import Objective
from promptgraft.spaces import LABEL_FIELD, InvalidInputError, Template, Verbalizer

T = TypeVar("T")

logger = logging.getLogger(__name__)

# Drafts that are raced for each one that is kept, and drafts asked for at most for each of those.
RACED_PER_KEPT, TRIES_PER_RACED = 4, 8
# Rows of the target's training data on which a round is decided at most.
RACE_ROWS = 32


def grow(objective: Objective, parents: Sequence[Template], plan: GrowthPlan, round_: int, seed: int) -> Growth:
    """Draft templates, race them untrained on the target's training rows, and keep the best.

    Args:
        objective: The study's objective; its space is left as it was.
        parents: The pool, the best first.
        plan: How to grow it.
        round_: Number of the round; names the templates.
        seed: Seed of the study.

    Returns:
        The round's outcome. The same arguments give the same one.
    """
    rows = by_turns(objective.target.train)[:RACE_ROWS]
    chance = random.Random(f"{seed}/{round_}")
    spec = objective.spec
    found = _new_words(objective, parents[0], rows, plan, round_, seed)
    first_words = next(iter(spec.space.verbalizers)).words
    words = [first_words[label][0] for label in objective.target.labels]
    objective.backbone.restore()
    request = Request(tuple(parents), chance, rows, words, _writer(objective, plan))
    new, drafted = _drafted(objective, request, plan, round_)
    scores = _raced(objective, rows, (*parents, *new), (*spec.space.verbalizers, *found))
    ranks: dict[str, int] = {}
    for rank, entry in enumerate(scores):
        ranks.setdefault(entry.template, rank)
    kept = _varied(sorted(new, key=lambda template: ranks[template.id]), parents)[: plan.size]
    ids = {template.id for template in (*parents, *kept)}
    return Growth(
        kept,
        found,
        tuple(entry for entry in scores if entry.template in ids),
        drafted,
    )


def _raced(
    objective: Objective, rows: Sequence[Row], templates: Sequence[Template], verbalizers: Sequence[Verbalizer]
) -> list[UntrainedScore]:
    """Race templates and verbalizers that needn't be in the study's space; see `race`."""
    space = replace(objective.spec.space, templates=tuple(templates), verbalizers=tuple(verbalizers))
    with objective.searching(space):
        return race_untrained_prompts(objective, rows)


def _new_words(
    objective: Objective, template: Template, rows: Sequence[Row], plan: GrowthPlan, round_: int, seed: int
) -> tuple[Verbalizer, ...]:
    """Draft label words for a template, race them, and keep the best of each source by turns; none that the space has.

    Words that were searched on the rows of the race would always win it against those of other sources.
    """
    if not plan.verbalizers:
        return ()
    objective.untrained([])  # Puts the pretrained weights back.
    known = [verbalizer.words for verbalizer in objective.spec.space.verbalizers]
    chance = random.Random(f"{seed}/{round_}/words")
    request = WordsRequest(objective.labels, plan.label_words, known, template, chance, rows, objective)
    wanted = plan.verbalizers * RACED_PER_KEPT
    first = round_ % len(plan.verbalizer_sources)
    sources = (*plan.verbalizer_sources[first:], *plan.verbalizer_sources[:first])
    seen = [dict(words) for words in known]
    waiting = {source: _usable_words(source, request, seen, wanted * TRIES_PER_RACED, round_) for source in sources}
    drafted = _by_turns(waiting, wanted * len(sources))
    if len(drafted) > plan.verbalizers:
        ranks = [look.verbalizer for look in _raced(objective, rows, (template,), [entry for _, entry in drafted])]
        drafted.sort(key=lambda draft: ranks.index(draft[1].id))
    best = {source: iter([entry for origin, entry in drafted if origin == source]) for source in sources}
    return tuple(entry for _, entry in _by_turns(best, plan.verbalizers))


def _usable_words(
    source: str, request: WordsRequest, known: list[dict[str, tuple[str, ...]]], tries: int, round_: int
) -> Iterator[Verbalizer]:
    """Hand out a source's verbalizers; label words that can't be used are no draft."""
    try:
        for number, draft in enumerate(word_drafts(source, request, tries)):
            given = {**request.known[0], **draft}
            words = {label: (w,) if isinstance(w := given[label], str) else tuple(w) for label in request.labels}
            if words in known:
                continue
            known.append(words)
            try:
                verbalizer = Verbalizer(f"{source}-{round_}-{number}", words)
                request.objective.backbone.check_label_words(request.template, verbalizer, request.labels)
            except InvalidInputError:
                continue
            yield verbalizer
    except InvalidInputError as error:
        logger.warning("no more label words from %s in round %d: %s", source, round_, error)


def _by_turns(waiting: Mapping[str, Iterator[T]], wanted: int) -> list[tuple[str, T]]:
    """Ask sources in turn until there are enough drafts or none is left; each comes with its source's name."""
    left = dict(waiting)
    drafted: list[tuple[str, T]] = []
    while left and len(drafted) < wanted:
        for source in list(left):
            draft = next(left[source], None)
            if draft is None:
                del left[source]
            else:
                drafted.append((source, draft))
    return drafted[:wanted]


def _varied(ranked: Sequence[Template], parents: Sequence[Template]) -> tuple[Template, ...]:
    """Put templates behind the others whose words stand in the pool, or before them, in the same order.

    Without it a round is the best parent with four kinds of white space.
    """
    seen = {_wording(template) for template in parents}
    new: list[Template] = []
    again: list[Template] = []
    for template in ranked:
        (again if _wording(template) in seen else new).append(template)
        seen.add(_wording(template))
    return (*new, *again)


def _wording(template: Template) -> tuple[str, ...]:
    """Return a template's words and the names of its fields, in order, without case and punctuation."""
    prompt = template.render({name: f" {name} " for name in template.fields})
    return tuple(re.findall(r"\w+", prompt.with_label(f" {LABEL_FIELD} ").lower()))


def _writer(objective: Objective, plan: GrowthPlan) -> Writer | None:
    if not any(source in NEEDS_WRITER for source in plan.sources):
        return None
    if plan.writer is not None:
        return Writer.load(plan.writer, objective.backbone.device)
    backbone = objective.backbone
    return Writer(backbone.model, backbone.tokenizer, backbone.family)


def _drafted(
    objective: Objective, request: Request, plan: GrowthPlan, round_: int
) -> tuple[list[Template], dict[str, int]]:
    """Ask the sources in turn until there are enough drafts; return these, and how many each source gave."""
    wanted = plan.size * RACED_PER_KEPT
    known = {template.text for template in request.parents}
    waiting: dict[str, Iterator[Template]] = {
        source: _usable(objective, source, request, known, wanted * TRIES_PER_RACED, round_) for source in plan.sources
    }
    drafted = _by_turns(waiting, wanted)
    counts = Counter(source for source, _ in drafted)
    return [template for _, template in drafted], {source: counts[source] for source in plan.sources}


def _usable(
    objective: Objective, source: str, request: Request, known: set[str], tries: int, round_: int
) -> Iterator[Template]:
    """Hand out a source's templates; one that can't be used is no draft."""
    for number, draft in enumerate(drafts(source, request, tries)):
        if draft.text in known:
            continue
        known.add(draft.text)
        try:
            template = Template(f"{source}-{round_}-{number}", draft.text, source, draft.parents)
            _check(objective, template, request)
        except InvalidInputError:
            continue
        yield template


def _check(objective: Objective, template: Template, request: Request) -> None:
    """Refuse a template that the backbone can't read, that misses the label or all of the text, or is too long."""
    alone = FAMILIES[objective.backbone.family].texts_of_labels
    template.check_fields(() if alone else request.rows[0].fields)
    if alone:
        for verbalizer in objective.spec.space.verbalizers:  # Refuses texts that are too long.
            objective.backbone.reader("label_words", template, verbalizer, objective.labels, seed=0)
    if objective.backbone.causal:
        template.check_label_last()
    if not objective.backbone.has_head:
        for verbalizer in objective.spec.space.verbalizers:
            objective.backbone.check_label_words(template, verbalizer, objective.labels)
    if len(_tokens(objective, template)) > objective.spec.backbone.max_tokens // 2:
        raise InvalidInputError(f"template {template.name!r} leaves too little room for the text")


def _tokens(objective: Objective, template: Template) -> list[int]:
    ids: list[int] = objective.backbone.tokenizer.encode(template.words, add_special_tokens=False)
    return ids
