"""Dates: the whole column has one format, or is refused; nothing is guessed by cell."""

import math
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptgraft.objectives.data import TaskSpec
from promptgraft.objectives.data.times import read_times
from promptgraft.objectives.kinds.text_classification import TextClassification
from promptgraft.spaces import InvalidInputError

DAYS = (
    *("%Y-%m-%d", "%Y/%m/%d", "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y"),
    *("%d/%m/%y", "%d %b %Y", "%B %d, %Y"),
)
FORMATS = [
    f"{day}{clock}"
    for day in DAYS
    for clock in ("", " %H:%M", " %H:%M:%S", " %I:%M:%S %p", " %H:%M:%S.%f", " %H:%M:%S%z")
]  # fmt: skip
ZONES = st.sampled_from([UTC, timezone(timedelta(hours=-5))])
MOMENTS = st.datetimes(datetime(1971, 1, 1), datetime(2068, 1, 1), timezones=ZONES)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["01/02/2024", "13/02/2024"], ["2024-02-01", "2024-02-13"]),
        (["01/13/2024", "02/01/2024"], ["2024-01-13", "2024-02-01"]),
        (["31.12.2024 23:59", "1.1.2024 0:05"], ["2024-12-31T23:59", "2024-01-01T00:05"]),
        (["12/31/2024 11:59 PM", "01/01/2024 12:00 AM"], ["2024-12-31T23:59", "2024-01-01T00:00"]),
        (["2024-01-02T10:00:00+02:00", "2024-01-02T10:00:00Z"], ["2024-01-02T08:00", "2024-01-02T10:00"]),
        (["Mon Jan 01 10:00:00 +0000 2024"], ["2024-01-01T10:00"]),
        (["Mon, 01 Jan 2024 10:00:00 GMT"], ["2024-01-01T10:00"]),
        (["2024-01-02", "2024-01-02T10:00"], ["2024-01-02", "2024-01-02T10:00"]),
        (["0001-01-01", "9999-12-31"], ["0001-01-01", "9999-12-31"]),
    ],
)  # fmt: skip
def test_a_format_that_all_cells_have(cells: list[str], expected: list[str]) -> None:
    moments = [datetime.fromisoformat(moment).replace(tzinfo=UTC) for moment in expected]
    assert read_times(cells) == [(moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() for moment in moments]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["01/02/2024", "05/06/2024"], "it can't be told whether '01/02/2024' begins with day, month or year"),
        (["01/02/24", "13/02/24"], "it can't be told"),
        (["2024-01-02", "13/02/2024"], "'13/02/2024' is no number and no date in the format of the other cells"),
        (["13/02/2024", "02/13/2024"], "in the format of the other cells"),
        (["2024-01-02T10:00:00+02:00", "2024-01-02T10:00:00"], "has a time zone and '2024-01-02T10:00:00' has none"),
        (["2024-01-02 10:00:00 EST"], "is no number and no date"),
        (["2024-02-30"], "is no number and no date"),
        (["2024-01-01 25:00"], "is no number and no date"),
        (["1", "2024-01-01"], "'1' is no number and no date in the format"),
        (["31012024", "01022024"], "looks like a date that begins with its day or month"),
        (["1", "1e400"], "'1e400' is too large a number"),
        (["2024-W05-1"], "'2024-W05-1' is no number and no date"),
        (["1", "2", "now"], "'now' is no number, unlike the other cells"),
        (["1700000000", "1700000000000"], "'1700000000' looks like seconds and '1700000000000' like milliseconds"),
        (["now"], "write dates as 2024-12-31 or"),
    ],
)
def test_others_are_refused(cells: list[str], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        read_times(cells)


def test_numbers_and_missing_times() -> None:
    assert read_times(["1", " 2.5 ", "1e3", "-4"]) == [1.0, 2.5, 1000.0, -4.0]
    assert read_times(["20240131", "20240201"]) == [20240131.0, 20240201.0]
    found = read_times([None, "", "NaT", "2024-01-01", "nan"])
    assert [math.isnan(value) for value in found] == [True, True, True, False, True]
    assert all(map(math.isnan, read_times([None, ""])))


@settings(max_examples=60, deadline=None)
@given(st.lists(MOMENTS, min_size=1, max_size=8), st.sampled_from(FORMATS))
def test_what_is_read_is_what_was_written_or_the_column_is_refused(moments: list[datetime], form: str) -> None:
    texts = [moment.strftime(form) for moment in moments]
    try:
        found = read_times(texts)
    except InvalidInputError as error:
        refused = str(error)
    else:
        refused = ""
    if refused:
        assert "it can't be told" in refused
        assert form.startswith(("%d/%m", "%m/%d", "%d.%m", "%d-%m"))  # Others have but one meaning.
        return
    expected = [datetime.strptime(text, form) for text in texts]
    expected = [moment if moment.tzinfo else moment.replace(tzinfo=UTC) for moment in expected]
    assert found == pytest.approx([moment.timestamp() for moment in expected], abs=1e-5)


def test_test_rows_are_the_newest_whatever_the_format(tmp_path: Path) -> None:
    start = datetime(2024, 1, 1)
    days = [(start + timedelta(i)).strftime("%d/%m/%Y") for i in range(160)]
    texts = [f"own words {i} here {i * 7} now {i * 3}" for i in range(160)]
    rows = [{"text": text, "label": "yn"[i % 2], "when": days[i]} for i, text in enumerate(texts)]
    path = tmp_path / "t.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    spec = TaskSpec(str(path), {"text": "text"}, "label", train_rows=16, validation_rows=16, test_rows=16, time="when")
    task = TextClassification.load_target(spec, 0)
    assert {row.fields["text"] for row in task.test} == {row["text"] for row in rows[-16:]}
    pd.DataFrame(rows[:12] + rows[31:43]).to_csv(path, index=False)
    with pytest.raises(InvalidInputError, match="column 'when' must hold dates or numbers: it can't be told whether"):
        TextClassification.load_target(spec, 0)
