"""Passwords in URLs: none is left in a text, wherever the URL has it and whatever signs it is made of."""

import logging
import string
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptgraft.spaces import mask_logs, masked, masked_url

SECRET = "hunter2"
URLS = (
    f"postgresql://graft:{SECRET}@db/x",
    f"postgresql+psycopg://graft:{SECRET}@db:5432/x?sslmode=require",
    f"postgresql://db/x?user=graft&password={SECRET}",
    f"postgresql://db/x?sslmode=require&sslpassword={SECRET}&connect_timeout=3",
    f"postgresql://db/x?options=-c%20x%3D{SECRET}",
    f"s3://KEY:{SECRET}@bucket/study",
    f"s3://bucket/study?aws_secret_access_key={SECRET}",
    f"https://{SECRET}@host/x",
    f"https://host/x?sig={SECRET}&se=2026",
    f"simplecache::ftp://u:{SECRET}@host/x",
    f"memory://x?token={SECRET}",
    f"sqlite:////x/y.db?timeout=60&key={SECRET}",
)


@pytest.mark.parametrize("url", URLS)
def test_no_secret_is_left(url: str) -> None:
    for text in (masked_url(url), masked(url), masked(f"can't open {url}: it is away"), masked(f"'{url}', \"{url}\"")):
        assert SECRET not in text
        assert "***" in text


def test_errors_that_show_a_query_without_its_url_are_masked_too() -> None:
    assert SECRET not in masked(f"[Errno 2] No such file: '/x?password={SECRET}/artifacts/trial-0'")
    assert SECRET not in masked(f"connection failed: host=db password={SECRET} user=graft")


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:////x/y.db?timeout=60",
        "postgresql://graft@db:5432/x?sslmode=require",
        "s3://bucket/a@b/study",
        "the label 'token' has 3 rows: a = b",
        "http://127.0.0.1:8080/dashboard",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert masked(text) == text


@given(st.text(string.ascii_letters + string.digits + "@:/?#&=%+!$*().,;~-_", min_size=4, max_size=20))
def test_a_password_may_be_made_of_anything(middle: str) -> None:
    password = f"Zx9{middle}9xZ"
    for url in (f"postgresql://graft:{password}@db/x", f"postgresql://graft:{quote(password, safe='')}@db/x?timeout=3"):
        shown = masked_url(url)
        assert "Zx9" not in shown
        assert "9xZ" not in shown


def test_logs_are_masked(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    mask_logs()
    try:
        raise ConnectionError(URLS[0])
    except ConnectionError:
        logging.getLogger("promptgraft.test").exception("no answer from %s", URLS[1])
        logging.getLogger("other").warning("of its own")
    shown = capsys.readouterr().err
    assert shown.startswith("error: no answer")
    assert "warning other: of its own" in shown
    assert "no answer from postgresql+psycopg://graft:***@db" in shown
    assert "ConnectionError" in shown
    assert SECRET not in shown
