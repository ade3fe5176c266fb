"""Token classification: spans become tags of words and back, are scored as seqeval does, and are found in prompts."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from seqeval.metrics import f1_score, precision_score, recall_score
from transformers import AutoTokenizer

from promptgraft.objectives.backbones import PromptTokens
from promptgraft.objectives.backbones.text_tokens import SpecialNames
from promptgraft.objectives.data import Row, Span, TaskSpec, joined
from promptgraft.objectives.kinds.spans import word_places
from promptgraft.objectives.kinds.token_classification import TokenClassification
from promptgraft.objectives.prompting.word_places import WordPlaces
from promptgraft.spaces import InvalidInputError, Template
from tests.support.models import REAL, real_model

NAMES = ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
TEXT = "  Ann Lee met Bo in New York."
SPANS = [[2, 9, "PER"], [14, 16, "PER"], [20, 28, "LOC"]]


def write(path: Path, records: Sequence[tuple[str, Any]]) -> TaskSpec:
    """Write a JSONL file of texts and spans, and describe its task."""
    path.write_text("".join(json.dumps({"text": text, "spans": spans}) + "\n" for text, spans in records))
    return TaskSpec(str(path), {"text": "text"}, "spans", kind="token_classification")


@pytest.mark.parametrize("seed", range(20))
def test_spans_are_scored_as_seqeval_does(seed: int) -> None:
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 7, 5)
    rows = [Row({"text": " ".join("w" * n)}, tuple(random.integers(0, 5, n).tolist())) for n in lengths]
    outputs = random.normal(size=(5, lengths.max(), 5)).astype(np.float32)
    task = TokenClassification(NAMES, ())
    true = [[NAMES[tag] for tag in row.answer] for row in rows]  # type: ignore[union-attr]
    said = [[NAMES[tag] for tag in own.argmax(1)[:n]] for own, n in zip(outputs, lengths, strict=True)]
    found = task.measure(outputs, rows)
    for average in ("micro", "macro"):
        assert found[f"f1_{average}"] == pytest.approx(f1_score(true, said, average=average, zero_division=0))
    assert found["precision_micro"] == pytest.approx(precision_score(true, said, zero_division=0))
    assert found["recall_micro"] == pytest.approx(recall_score(true, said, zero_division=0))
    for own in task.by_label(task.expected(outputs), rows):
        alone = [[tag if tag.endswith(own.label) else "O" for tag in tags] for tags in true]
        predicted = [[tag if tag.endswith(own.label) else "O" for tag in tags] for tags in said]
        assert own.f1 == pytest.approx(f1_score(alone, predicted, zero_division=0))


def test_spans_become_tags_and_tags_become_spans(tmp_path: Path) -> None:
    objects = [{"start": start, "end": end, "label": label} for start, end, label in SPANS]
    spec = write(tmp_path / "rows.jsonl", [(TEXT, SPANS), (TEXT + " Really?", objects), ("Nobody was there", [])])
    rows, names, report = TokenClassification.clean(spec.train, spec, None)
    assert names == NAMES
    assert report.read == len(rows) == 3
    assert rows[0].answer == (3, 4, 0, 3, 0, 1, 2, 0)
    assert rows[2].answer == (0, 0, 0)
    task = TokenClassification(names, tuple(rows))
    certain = np.eye(5)[list(rows[0].answer)][None]  # type: ignore[arg-type]
    assert task.predict(certain, [{"text": TEXT}]) == [tuple(Span(*own) for own in SPANS)]
    assert [own["text"] for own in json.loads(task.show(rows[1]))] == ["Ann Lee", "Bo", "New York"]
    assert task.show(rows[2]) == "[]"


@pytest.mark.parametrize(
    ("text", "spans", "reason"),
    [
        ("Ann", [[0, 4, "PER"]], "invalid_label"),
        ("Ann", [[-1, 2, "PER"]], "invalid_label"),
        ("Ann", [[2, 2, "PER"]], "invalid_label"),
        ("Ann Lee", [[0, 7, "PER"], [4, 7, "PER"]], "invalid_label"),
        ("Anna", [[0, 2, "PER"], [2, 4, "LOC"]], "invalid_label"),  # Two in one word.
        ("Ann  Lee", [[3, 5, "PER"]], "invalid_label"),  # White space alone.
        ("Ann", [[0, 3]], "invalid_label"),
        ("Ann", [[0, 3, " "]], "invalid_label"),
        ("Ann", [{"start": 0, "end": 3}], "invalid_label"),
        ("Oh Ann", [{"start": 4, "end": 7, "label": "PER", "text": "Ann"}], "invalid_label"),  # Another place.
        ("Ann", "PER", "invalid_label"),
        ("Ann", 3, "invalid_label"),
        ("Ann", None, "missing_label"),
        (" ", [], "missing_text"),
    ],
)
def test_rows_that_make_no_sense_are_counted(text: str, spans: Any, reason: str, tmp_path: Path) -> None:
    spec = write(tmp_path / "rows.jsonl", [(TEXT, SPANS), (text, spans)])
    rows, _, report = TokenClassification.clean(spec.train, spec, None)
    assert len(rows) == 1
    assert getattr(report, reason) == 1


def test_numbers_may_be_labels_and_the_form_of_spans_is_said(tmp_path: Path) -> None:
    spec = write(tmp_path / "rows.jsonl", [("Ann", [[0, 3, 1]]), ("Bob", [{"start": 0, "end": 3, "label": 2}])])
    assert TokenClassification.clean(spec.train, spec, None)[1] == ("O", "B-1", "I-1", "B-2", "I-2")
    spec = write(tmp_path / "odd.jsonl", [("Ann", [{"start": 0, "end": 3, "entity": "PER"}])])
    with pytest.raises(InvalidInputError, match=r'as in \[\{"start": 0, "end": 5, "label": "name"\}\], found none'):
        TokenClassification.clean(spec.train, spec, None)


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("[{'start': 0, 'end': 3, 'label': 'PER'}]", "it is no JSON, in which texts stand in double quotation marks"),
        ('[{"start": 0, "end": 3, "entity": "PER"}]', '"entity": "PER"} has no \'label\''),
        ('[[0.0, 3.0, "PER"]]', "start and end are 0.0 and 3.0, not whole numbers"),
        ('["B-PER", "O"]', '"B-PER" is no span; tags of words are read from .conll files'),
        ("[1, 0]", "1 is no span; tags of words are read from .conll files"),
        ("[[0, 3]]", "[0, 3] is no span"),
        ("[[0, 3, null]]", "the label null is no text and no whole number"),
        ('[{"start": 0, "end": 3, "label": "PER", "text": "\\ud800"}]', 'the text is "Ann", not "\\ud800"'),
        ('[[0, 9, "PER"]]', "a span is outside the text of 3 characters, holds no word, or overlaps another"),
        ('{"start": 0}', "it is no list"),
    ],
)
def test_the_reason_is_said_where_no_cell_can_be_read(cell: str, reason: str, tmp_path: Path) -> None:
    spec = write(tmp_path / "rows.jsonl", [("Ann", cell)])
    with pytest.raises(InvalidInputError) as caught:
        TokenClassification.clean(spec.train, spec, None)
    assert f"{reason})" in str(caught.value)


def test_labels_that_are_whole_numbers_are_texts(tmp_path: Path) -> None:
    spec = write(tmp_path / "rows.jsonl", [("Ann Lee", [{"start": 0, "end": 3, "label": 1}, [4, 7, 2]])])
    rows, names, _ = TokenClassification.clean(spec.train, spec, None)
    assert names == ("O", "B-1", "I-1", "B-2", "I-2")
    assert rows[0].answer == (1, 3)
    spec = write(tmp_path / "rows.jsonl", [("Ann Lee", [[0, 3, True]]), ("Ann Lee", [[0, 3, "PER"]])])
    assert TokenClassification.clean(spec.train, spec, None)[2].invalid_label == 1


def test_spans_of_other_labels_do_not_count(tmp_path: Path) -> None:
    spec = write(tmp_path / "rows.jsonl", [(TEXT, SPANS)])
    (row,), names, _ = TokenClassification.clean(spec.train, spec, ("LOC",))
    assert (names, row.answer) == (NAMES[:3], (0, 0, 0, 0, 0, 1, 2, 0))
    with pytest.raises(InvalidInputError, match="labels names 'ORG', but no row has that label"):
        TokenClassification.clean(spec.train, spec, ("ORG",), choosing=True)
    with pytest.raises(InvalidInputError, match="`text` names 2 columns"):
        TokenClassification.clean(spec.train, TaskSpec(spec.train, {"a": "text", "b": "text"}, "spans"), None)


def test_files_of_words_are_read(tmp_path: Path) -> None:
    file = tmp_path / "words.conll"
    lines = ["-DOCSTART- -X- O", "", "Ann NNP B-PER", "Lee NNP I-PER", "met VB O", "Bo NNP I-PER", "in IN O"]
    lines += ["New NNP B-LOC", "York NNP E-LOC", ". . O", "", "# a comment", "No\u2028body\tNN\tO", "#\tSYM\tO"]
    file.write_bytes(("\r\n".join(lines) + "\n").encode())  # A separator of lines in a word ends none.
    spec = TaskSpec(str(file), {"text": "text"}, "spans", kind="token_classification")
    rows, names, _ = TokenClassification.clean(str(file), spec, None)
    assert names == NAMES
    assert [row.fields["text"] for row in rows] == ["Ann Lee met Bo in New York .", "No\u2028body #"]
    assert [row.answer for row in rows] == [(3, 4, 0, 3, 0, 1, 2, 0), (0, 0, 0)]
    file.write_text("Ann B-PER\nmet VERB\n")
    with pytest.raises(
        InvalidInputError, match=r"line 2 is 'met VERB'; expected a word, and in the last column its tag"
    ):
        TokenClassification.clean(str(file), spec, None)


def test_outputs_of_rows_with_more_and_fewer_words_are_joined() -> None:
    task = TokenClassification(NAMES, ())
    rows = [Row({"text": "Ann met Bo"}, (3, 0, 3)), Row({"text": "Bo"}, (3,)), Row({"text": "in York"}, (0, 1))]
    outputs = np.random.default_rng(0).normal(size=(3, 3, 5)).astype(np.float32)
    together = joined([outputs[:1], outputs[1:, :2]])
    assert together.shape == outputs.shape
    assert task.measure(together, rows) == task.measure(outputs, rows)


def test_words_count_by_their_most_frequent_tag() -> None:
    train = [Row({"text": "Ann met Bo"}, (3, 0, 3)), Row({"text": "ann Lee"}, (3, 4)), Row({"text": "Bo went"}, (0, 0))]
    rows = [Row({"text": "ANN met nobody"}, (0, 0, 0)), Row({"text": "Lee"}, (0,))]
    task = TokenClassification(NAMES, tuple(train))
    outputs = task.fit_by_words(train, rows)
    assert outputs.argmax(2)[0].tolist() == [3, 0, 0]
    assert outputs.argmax(2)[1, 0] == 4
    assert np.exp(task.constant(rows)[1, 2]) == pytest.approx([3 / 7, 0, 0, 3 / 7, 1 / 7], abs=1e-6)


@pytest.mark.parametrize(
    ("text", "is_fine"),
    [
        ("Tags: {{ text }} {{ label }}", True),
        ("{{ text|upper }} {{ label }}", False),
        ("{{ text }} or {{ text }} {{ label }}", False),
        ("{% if text %}{{ text }}{% endif %} {{ label }}", False),
    ],
)
def test_templates_must_hold_the_text_as_it_is(text: str, *, is_fine: bool) -> None:
    reason = TokenClassification.refuses_template(Template("own", text))
    assert (reason is None) == is_fine
    assert is_fine or "each of its words is read" in str(reason)


@pytest.mark.parametrize("family", sorted(REAL))
@pytest.mark.parametrize("text", ["Ann's naïveté costs 20€ – unbelievably!", "a [SEP] b <|im_end|> c", "😀 x 漢字 y"])
def test_words_are_found_among_the_tokens_of_a_prompt(family: str, text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(real_model(family))
    template = Template("own", "Text says: {{ text }} End. {{ label }}")
    tokens = PromptTokens(SpecialNames(tokenizer), template)
    prompt = template.render({"text": text})
    places = WordPlaces(word_places, template, tokens).of({"text": text}, {"text": text}, prompt)
    whole = prompt.without_label()
    encoding = tokenizer(whole, add_special_tokens=False, split_special_tokens=True)
    starts = [whole.index(text) + first for first, _ in word_places(text)]
    assert list(places) == [encoding.char_to_token(start) + len(tokens.begin) for start in starts]
    assert len(tokens.offsets(whole)) == len(tokens(whole))
    cut = WordPlaces(word_places, template, tokens).of(
        {"text": text}, {"text": text[:3]}, template.render({"text": text[:3]})
    )
    read = len(word_places(text[:3]))
    assert cut[:read] == places[:read]
    assert set(cut[read:]) == {-1}


def test_a_template_that_names_special_tokens_keeps_the_places_of_words() -> None:
    tokenizer = AutoTokenizer.from_pretrained(real_model("encoder"))
    names = SpecialNames(tokenizer)
    template = names.guard(Template("own", "Text [SEP] {{ text }} {{ label }}"), None)
    tokens, text = PromptTokens(names, template), {"text": "one [SEP] two"}  # The row's is text, and gets a space.
    prompt = template.render(text)
    places = WordPlaces(word_places, template, tokens).of(text, text, prompt)
    ids = tokens(prompt.without_label())
    assert tokenizer.convert_ids_to_tokens([ids[place] for place in places]) == ["one", "[", "sep", "]", "two"]
