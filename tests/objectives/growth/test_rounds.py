"""One contract over every source of templates, and what a round of growth makes of their drafts."""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from promptgraft.objectives.growth import (
    NEEDS_WRITER,
    TEMPLATE_SOURCES,
    VERBALIZER_SOURCES,
    GrowthPlan,
    WriterSpec,
    grow,
)
from promptgraft.objectives.growth.rounds import _varied, _wording
from promptgraft.objectives.growth.template_sources import Draft, Request, drafts
from promptgraft.objectives.growth.verbalizer_sources import LabelWords, WordsRequest
from promptgraft.objectives.growth.writers import Writer
from promptgraft.objectives.spec import ObjectiveSpec
from promptgraft.objectives.trial import Objective
from promptgraft.spaces import Candidate, InvalidInputError, Template
from tests.support.models import TEXT_FAMILIES
from tests.support.specs import TEMPLATES, VERBALIZERS

FAMILY = {source: NEEDS_WRITER.get(source, "encoder") for source in TEMPLATE_SOURCES}


@pytest.fixture(scope="module")
def objectives(tiny_models: dict[str, str], make_spec: Callable[..., ObjectiveSpec]) -> dict[str, Objective]:
    return {family: Objective(make_spec(tiny_models[family], family)) for family in TEXT_FAMILIES}


def request_of(objective: Objective, seed: int = 0) -> Request:
    backbone = objective.backbone
    writer = Writer(backbone.model, backbone.tokenizer, backbone.family)
    rows = objective.target.train
    return Request(TEMPLATES, random.Random(seed), rows, ["terrible", "worth every penny"], writer)


@pytest.mark.parametrize("source", TEMPLATE_SOURCES)
def test_drafts_are_templates_and_name_their_parents(source: str, objectives: dict[str, Objective]) -> None:
    objective = objectives[FAMILY[source]]
    objective.backbone.restore()
    found = list(drafts(source, request_of(objective), 12))
    assert len(found) == 12
    known = {template.id for template in TEMPLATES}
    for draft in found:
        assert Template("draft", draft.text).fields == ("text",)
        assert set(draft.parents) <= known
        assert draft.parents
    assert len({draft.text for draft in found}) > 2, "it says the same thing again and again"
    assert found == list(drafts(source, request_of(objective), 12)), "the same request gives the same drafts"
    assert found != list(drafts(source, request_of(objective, seed=1), 12))


def test_a_writer_continues_as_the_plain_model_does(objectives: dict[str, Objective]) -> None:
    """One beam step by hand: the likeliest token after all texts together."""
    import torch

    backbone = objectives["causal_lm"].backbone
    backbone.restore()
    writer = Writer(backbone.model, backbone.tokenizer, "causal_lm")
    texts = ["a fine camera", "it broke after a day and nobody helped"]
    with torch.no_grad():
        scores = [
            backbone.model(**backbone.tokenizer(text, return_tensors="pt")).logits[0, -1].log_softmax(-1)
            for text in texts
        ]
    likeliest = backbone.tokenizer.decode((scores[0] + scores[1]).argmax()).strip().split("\n")[0].strip()
    found = writer.continuations(texts, 100)
    assert likeliest in found or not likeliest


@pytest.mark.parametrize("family", ["encoder", "causal_lm", "masked_lm"])
def test_a_round_keeps_the_best_of_what_was_drafted(family: str, objectives: dict[str, Objective]) -> None:
    objective = objectives[family]
    plan = GrowthPlan(tuple(s for s in TEMPLATE_SOURCES if FAMILY[s] in (family, "encoder")), 3)
    before = objective.spec
    grown = grow(objective, TEMPLATES, plan, 0, 0)
    assert objective.spec is before
    assert len(grown.templates) == 3
    assert sum(grown.drafted.values()) > 3
    assert all(count > 0 for count in grown.drafted.values()), grown.drafted
    pool = {template.id for template in (*TEMPLATES, *grown.templates)}
    assert {look.template for look in grown.scores} == pool
    assert grow(objective, TEMPLATES, plan, 0, 0) == grown
    assert grow(objective, TEMPLATES, plan, 1, 0).templates != grown.templates
    best = [look.template for look in grown.scores if look.template not in {t.id for t in TEMPLATES}]
    ranks = {template: rank for rank, template in enumerate(dict.fromkeys(best))}
    wordings = [_wording(template) for template in (*TEMPLATES, *grown.templates)]
    if len(set(wordings)) == len(wordings):
        assert [ranks[template.id] for template in grown.templates] == [0, 1, 2]


@pytest.mark.parametrize("family", ["encoder", "causal_lm", "masked_lm"])
def test_label_words_join_as_well(family: str, objectives: dict[str, Objective]) -> None:
    objective = objectives[family]
    plan = GrowthPlan(("mutation",), 1, verbalizers=2, label_words=2)
    grown = grow(objective, TEMPLATES, plan, 3, 0)
    assert [entry.name for entry in grown.verbalizers] == ["likelihood-3-0", "likelihood-3-1"]
    assert all(len(words) == 2 for entry in grown.verbalizers for words in entry.words.values())
    assert grow(objective, TEMPLATES, plan, 3, 0) == grown
    pairs = {(look.template, look.verbalizer) for look in grown.scores}
    assert {verbalizer for _, verbalizer in pairs} >= {entry.id for entry in grown.verbalizers}
    with objective.searching(objective.spec.space.with_more([], [grown.verbalizers[0]])):
        again = grow(objective, TEMPLATES, plan, 3, 0)
    assert grown.verbalizers[0].words not in [entry.words for entry in again.verbalizers], "it has these already"


def test_label_words_of_several_sources_are_raced(objectives: dict[str, Objective]) -> None:
    """What can't be used is left out, a label that is left out keeps its words; the best of each join by turns."""
    objective = objectives["encoder"]
    requests: list[WordsRequest] = []

    def by_hand(request: WordsRequest) -> Iterator[LabelWords]:
        requests.append(request)
        yield dict(VERBALIZERS[1].words)  # The study has it.
        yield {"negative": ["same"], "positive": ["same"]}
        yield {"negative": []}
        yield {"positive": ["lovely", "fine"], "unheard of": ["word"]}
        yield {"negative": "poor", "positive": ["rich"]}
        raise InvalidInputError("that was all")

    plan = GrowthPlan(("mutation",), 1, verbalizers=8, verbalizer_sources=("by_hand", "likelihood"))
    with VERBALIZER_SOURCES.temporarily():
        VERBALIZER_SOURCES.register("by_hand")(by_hand)
        grown = grow(objective, TEMPLATES, plan, 2, 0)
        few = grow(objective, TEMPLATES, replace(plan, verbalizers=3), 2, 0)
        next_round = grow(objective, TEMPLATES, replace(plan, verbalizers=1), 3, 0)
        alone = grow(objective, TEMPLATES, replace(plan, verbalizer_sources=("by_hand",)), 2, 0)
    request = requests[0]
    assert (list(request.labels), request.words, request.template) == (["negative", "positive"], 1, TEMPLATES[0])
    assert list(request.known) == [verbalizer.words for verbalizer in VERBALIZERS]
    found = {entry.name: entry.words for entry in alone.verbalizers}
    assert found == {
        "by_hand-2-3": {"negative": ("negative",), "positive": ("lovely", "fine")},
        "by_hand-2-4": {"negative": ("poor",), "positive": ("rich",)},
    }
    assert [entry.name.split("-")[0] for entry in few.verbalizers] == ["by_hand", "likelihood", "by_hand"]
    assert [entry.name.split("-")[0] for entry in next_round.verbalizers] == ["likelihood"]
    for outcome, n in ((grown, 8), (few, 3)):
        assert len(outcome.verbalizers) == n
        scores = {look.verbalizer: look.score for look in outcome.scores if look.template == TEMPLATES[0].id}
        for source in plan.verbalizer_sources:
            own = [entry.id for entry in outcome.verbalizers if entry.name.startswith(source) and entry.id in scores]
            assert own == sorted(own, key=lambda verbalizer: -scores[verbalizer])


def test_growth_leaves_no_trace_in_results(
    tiny_models: dict[str, str], make_spec: Callable[..., ObjectiveSpec]
) -> None:
    """A trial before and after a round, and one of a template that joined, on another worker: equal to the bit."""
    spec = make_spec(tiny_models["causal_lm"], "causal_lm")
    worker, other = Objective(spec), Objective(spec)
    candidate = Candidate(TEMPLATES[0].id, spec.space.verbalizers[1].id, steps=3, batch_size=4, source_steps=2)
    first = worker.evaluate(candidate, 0)
    joined = grow(worker, TEMPLATES, GrowthPlan(("mutation", "paraphrase"), 2), 0, 0).templates[0]
    assert (worker.evaluate(candidate, 0).logits == first.logits).all()
    for objective in (worker, other):
        objective.know([joined])
    new = replace(candidate, template=joined.id)
    assert (worker.evaluate(new, 0).logits == other.evaluate(new, 0).logits).all()


def test_what_can_not_be_used_is_no_draft(objectives: dict[str, Objective]) -> None:
    """A custom source in a few lines; its bad drafts are dropped, and the good one is kept."""

    def by_hand(request: Request) -> Iterator[Draft]:
        for text in (
            "{{ label }}: {{ text }}",  # A causal LM can't read it.
            "no field {{ label }}",
            "{{ text }} {{ author }} {{ label }}",
            "word " * 40 + "{{ text }} {{ label }}",
            TEMPLATES[0].text,
            "Opinion: {{ text }}\nIn a word: {{ label }}",
        ):
            yield Draft(text, ())

    with TEMPLATE_SOURCES.temporarily():
        TEMPLATE_SOURCES.register("by_hand")(by_hand)
        grown = grow(objectives["causal_lm"], TEMPLATES, GrowthPlan(("by_hand",), 4), 0, 0)
    assert [template.text for template in grown.templates] == ["Opinion: {{ text }}\nIn a word: {{ label }}"]
    assert grown.templates[0].source == "by_hand"


def test_other_words_come_before_other_white_space() -> None:
    texts = [
        "review: {{ text }} sentiment: {{ label }}",
        "{{ text }} {{ label }}",
        "{{ text }}\n{{ label }}",
        "A {{ label }}. {{ text }}",
    ]
    ranked = [Template(f"t{index}", text) for index, text in enumerate(texts)]
    assert [template.name for template in _varied(ranked, TEMPLATES)] == ["t1", "t3", "t0", "t2"]


def test_sources_end_where_nothing_can_be_made(objectives: dict[str, Objective]) -> None:
    """Words that are code to jinja2 by themselves, and templates that are more than words and fields."""
    brace = Template("brace", "a }} {{ text }} b }} {{ label }}")
    for source in ("mutation", "crossover"):
        only = replace(request_of(objectives["encoder"]), parents=(brace,))
        assert len(list(drafts(source, only, 5))) == 5
    logic = Template("logic", "{{ text | upper }} {{ label }}")
    with pytest.raises(InvalidInputError, match="no template is words and fields only"):
        grow(objectives["encoder"], (logic,), GrowthPlan(("mutation",), 1), 0, 0)


def test_a_writer_that_is_none_is_named(tiny_models: dict[str, str]) -> None:
    import torch

    with pytest.raises(InvalidInputError, match=r"grow\.writer '/nowhere' can't be loaded"):
        Writer.load(WriterSpec("/nowhere", "causal_lm"), torch.device("cpu"))
    assert Writer.load(WriterSpec(tiny_models["causal_lm"], "causal_lm"), torch.device("cpu")).paraphrases(
        "Text:", 2, 0
    )
