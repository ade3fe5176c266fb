"""A pool that grows in the study: seen by every driver, drawn from at once, and nothing learnt is lost."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from promptgraft.objectives.growth import Growth, GrowthPlan
from promptgraft.objectives.measures import UntrainedScore
from promptgraft.search.sampling import ranked_templates
from promptgraft.search.side_jobs import GrowthJobs
from promptgraft.search.storage import StudyRecord
from promptgraft.search.study import GrowSection, load_study
from promptgraft.search.study.yaml_lines import StudyFileError
from promptgraft.search.trials import Failed, SideJobDone
from promptgraft.spaces import SearchSpace, Template, Verbalizer
from tests.support.specs import TEMPLATES, VERBALIZERS
from tests.support.studies import SMALL_SPACE, open_ledger

NEW = [
    Template(f"mutation-0-{i}", f"{{{{ text }}}} In short {i}: {{{{ label }}}}", "mutation", (TEMPLATES[0].id,))
    for i in (1, 2)
]


def growth_of(space: SearchSpace, new: list[Template], scores: dict[str, float] | None = None) -> Growth:
    scored = tuple(
        UntrainedScore(template.id, verbalizer.id, (scores or {}).get(template.id, -0.5), 0.5, 16)
        for template in (*space.templates, *new)
        for verbalizer in space.verbalizers
    )
    return Growth(tuple(new), (), scored, {})


def test_templates_that_join_are_drawn_and_all_that_was_learnt_stays(tmp_path: Path) -> None:
    book = open_ledger(tmp_path)
    for _ in range(6):
        asked = book.ask()
        assert asked is not None
        book.report(asked.number, 2, 0.4, compared=True)
        book.complete(asked.number, 0.5 + 0.01 * asked.number)
    running = book.ask()
    assert running is not None
    book.report(running.number, 2, 0.45, compared=True)
    other = open_ledger(tmp_path)  # Another driver, that looks at the study later.
    book.record_growth(0, growth_of(SMALL_SPACE, NEW))
    assert [template.id for template in book.space.templates] == [t.id for t in (*TEMPLATES, *NEW)]
    copy = book._proposals._copy.get_trials()
    assert Counter(trial.state for trial in copy) == {TrialState.COMPLETE: 6, TrialState.RUNNING: 1}
    assert copy[-1].intermediate_values == {2: 0.45}
    assert copy[-1].params["template"] == running.candidate.template
    book.complete(running.number, 0.9)
    drawn: Counter[str] = Counter()
    for ledger in (book, other):
        for _ in range(12):
            asked = ledger.ask()
            assert asked is not None
            drawn[asked.candidate.template] += 1
            ledger.complete(asked.number, 0.6)
    assert all(drawn[template.id] for template in NEW), drawn
    keys = [trial.user_attrs["candidate_key"] for trial in book.study.get_trials()]
    assert len(set(keys)) == len(keys) == 31
    again = open_ledger(tmp_path)  # The next run reads the pool from the study.
    assert again.pool == book.pool == StudyRecord.of(book.study).pool
    assert again.pool.templates[0].parents == (TEMPLATES[0].id,)


def test_label_words_join_too(tmp_path: Path) -> None:
    book = open_ledger(tmp_path)
    words = Verbalizer("searched-0-0", {"negative": ("poor", "weak"), "positive": ("fine", "strong")})
    again = Verbalizer("searched-0-1", VERBALIZERS[0].words)  # By now the file has them under another name.
    book.record_growth(0, replace(growth_of(SMALL_SPACE, NEW[:1]), verbalizers=(words, again)))
    assert [entry.id for entry in book.space.verbalizers] == [v.id for v in (*VERBALIZERS, words)]
    assert book.space.verbalizer(again.id) == VERBALIZERS[0], "old trials are found by their content"
    drawn = set()
    for _ in range(16):
        asked = book.ask()
        assert asked is not None
        drawn.add(asked.candidate.verbalizer)
        book.complete(asked.number, 0.5)
    assert words.id in drawn


def test_a_round_is_written_once(tmp_path: Path) -> None:
    first, second = open_ledger(tmp_path), open_ledger(tmp_path)
    first.record_growth(0, growth_of(SMALL_SPACE, NEW[:1]))
    pool = second.record_growth(0, growth_of(SMALL_SPACE, NEW[1:]))
    assert [template.id for template in pool.templates] == [NEW[0].id]
    assert pool.rounds == 1


def test_rounds_are_due_at_the_start_and_after_so_many_trials(tmp_path: Path) -> None:
    book = open_ledger(tmp_path)
    told: list[str] = []
    plan = GrowthPlan(("mutation",), size=2)
    jobs = GrowthJobs(book, plan, GrowSection(every=2, limit=4), last=10, seed=0, on_growth=told.append)
    job = jobs.next_job()
    assert job is not None
    assert (job.round, job.plan.size, len(job.parents)) == (0, 2, 2)
    assert jobs.next_job() is None, "one at a time"
    jobs.on_worker_lost(job, "the worker died")
    assert jobs.next_job() == job, "a lost round is run again"
    jobs.on_result(job, Failed("no draft could be used"))
    assert jobs.next_job() is None, "the next one is due after two trials"
    assert not told
    for _ in range(2):
        asked = book.ask()
        assert asked is not None
        book.complete(asked.number, 0.5)
    job = jobs.next_job()
    assert job is not None
    assert job.round == 1
    jobs.on_result(job, SideJobDone(growth_of(SMALL_SPACE, NEW)))
    assert NEW[0].id in told[0]
    assert NEW[1].id in told[0]
    for _ in range(4):
        asked = book.ask()
        assert asked is not None
        book.complete(asked.number, 0.5)
    assert jobs.next_job() is None, "the limit is reached"


def test_parents_are_ranked_by_results_and_before_that_by_untrained_scores(tmp_path: Path) -> None:
    book = open_ledger(tmp_path)
    looks = growth_of(SMALL_SPACE, []).scores[::-1]
    assert ranked_templates(SMALL_SPACE, [], looks, maximize=True) == TEMPLATES[::-1]
    for _ in range(8):
        asked = book.ask()
        assert asked is not None
        book.complete(asked.number, 0.9 if asked.candidate.template == TEMPLATES[0].id else 0.5)
    book.refresh()
    assert ranked_templates(SMALL_SPACE, book.trials, looks, maximize=True) == TEMPLATES
    assert ranked_templates(SMALL_SPACE, book.trials, looks, maximize=False) == TEMPLATES[::-1]


def test_what_the_file_gets_later_is_not_there_twice(tmp_path: Path) -> None:
    book = open_ledger(tmp_path)
    book.record_growth(0, growth_of(SMALL_SPACE, NEW))
    by_hand = Template("mine", NEW[0].text)
    space = SearchSpace((*TEMPLATES, by_hand), VERBALIZERS, SMALL_SPACE.parameters, SMALL_SPACE.facts)
    again = open_ledger(tmp_path, space)
    assert [template.id for template in again.space.templates] == [t.id for t in (*TEMPLATES, by_hand, NEW[1])]


PROMPTSOURCE = """
dataset: reviews
templates:
  0c: !Template
    answer_choices: bad ||| good
    id: 0c
    jinja: "How is this review? {{text}} ||| {{answer_choices[label]}}"
    metadata: !TemplateMetadata {choices_in_prompt: false, languages: [en], metrics: [Accuracy], original_task: true}
    name: how
    reference: ''
  1c: !Template
    answer_choices: negative ||| positive
    id: 1c
    jinja: "{{text}}\\nIs it {{answer_choices[0]}} or {{ answer_choices | last }}? ||| {{ answer_choices[ label ] }}"
    metadata: !TemplateMetadata {}
    name: choice
    reference: ''
  2c: !Template
    answer_choices: null
    id: 2c
    jinja: "Write a review that is {{['bad', 'good'][label]}}: ||| {{text}}"
    metadata: !TemplateMetadata {}
    name: generate
    reference: ''
  3c: !Template
    answer_choices: a ||| b
    id: 3c
    jinja: "{{title}} {{text}} ||| {{answer_choices[label]}}"
    metadata: !TemplateMetadata {}
    name: title
    reference: ''
"""


def test_templates_of_promptsource_join_with_their_words(
    write_study: Callable[..., Path], data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "reviews.yaml").write_text(PROMPTSOURCE)
    rows = {"train": str(data / "amazon.csv"), "text": "text", "label": "label", "train_rows": 16, "test_rows": 40}
    target = {**rows, "labels": ["negative", "positive"]}
    study = load_study(write_study(target=target, space={"promptsource": ["reviews.yaml"], "steps": 4}))
    texts = {t.name: t.render({"text": "Fine."}).with_label("X") for t in study.objective.space.templates}
    assert texts == {"how": "How is this review? Fine. X", "choice": "Fine.\nIs it negative or positive? X"}
    words = {v.name: dict(v.words) for v in study.objective.space.verbalizers}
    assert words == {
        "how": {"negative": ("bad",), "positive": ("good",)},
        "choice": {"negative": ("negative",), "positive": ("positive",)},
    }
    assert "'generate' is left out: its target must be" in caplog.text
    assert "'title' is left out: template 'title' uses the unknown field 'title'" in caplog.text
    study = load_study(write_study(space={"promptsource": ["reviews.yaml"], "steps": 4}))
    assert [v.name for v in study.objective.space.verbalizers] == ["choice"]  # Whose words are the labels' names.
    assert "answer choices are left out: it isn't known which of the 2 answer choices of template 'how'" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [", "is not YAML"),
        ("templates: [1, 2]", "not in PromptSource's format"),
        ("templates: {a: !!python/object/apply:os.system ['true']}", "is not YAML"),
        (PROMPTSOURCE.replace("answer_choices[", "answers["), "no template that can be used here:\n  how: its target"),
        (None, "there is no file"),
    ],
)
def test_a_file_that_is_not_promptsource_s_is_refused(
    write_study: Callable[..., Path], tmp_path: Path, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "reviews.yaml").write_text(content)
    with pytest.raises(StudyFileError) as caught:
        load_study(write_study(space={"promptsource": "reviews.yaml", "steps": 4}))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("grow", "message"),
    [
        ({"sources": "mutatoin"}, "unknown template source 'mutatoin'; did you mean 'mutation'?"),
        ({"sources": ["fill"]}, "'fill' needs a masked_lm that writes, and encoder is none"),
        ({"sources": ["paraphrase"], "writer": {"path": "x", "family": "masked_lm"}}, "'paraphrase' needs a causal_lm"),
        ({"every": 0}, "greater than or equal to 1"),
    ],
)
def test_growth_that_can_not_be_is_refused(
    write_study: Callable[..., Path], grow: dict[str, Any], message: str
) -> None:
    space = {
        "templates": {template.name: template.text for template in TEMPLATES},
        "verbalizers": {v.name: {k: list(w) for k, w in v.words.items()} for v in VERBALIZERS},
    }
    with pytest.raises(StudyFileError) as caught:
        load_study(write_study(space={**space, "grow": grow}))
    assert message in str(caught.value)


def test_scores_of_earlier_rounds_stay(tmp_path: Path) -> None:
    book = open_ledger(tmp_path)
    book.record_growth(0, growth_of(SMALL_SPACE, NEW[:1]))
    wider = SearchSpace((*TEMPLATES, NEW[0]), VERBALIZERS, (), SMALL_SPACE.facts)
    book.record_growth(1, growth_of(wider, NEW[1:], {NEW[1].id: -0.1}))
    looks = StudyRecord.of(book.study).untrained
    assert {look.template for look in looks} == {t.id for t in (*TEMPLATES, *NEW)}
    assert looks[0].template == NEW[1].id
