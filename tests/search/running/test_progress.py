"""The live table of a run in a notebook: one, drawn again in its place."""

import pytest
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from rich.console import Console

from promptgraft.search.running.progress import Progress


def test_a_notebook_has_one_table_that_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    shell, cell = InteractiveShell.instance(), CapturingDisplayPublisher()
    monkeypatch.setattr(shell, "display_pub", cell)
    progress = Progress("intents", "accuracy", 3, console=Console(force_jupyter=True))
    with progress.shown():
        progress.update({"COMPLETE": 1, "RUNNING": 1}, 1)
        progress.best = (0, 0.75)
    with progress.shown():  # As where the winner is judged later: in the same place.
        progress.update({"COMPLETE": 3}, 3)
    first, *others = cell.outputs
    assert not first.get("update")
    assert all(own["update"] for own in others)
    assert len({own["transient"]["display_id"] for own in cell.outputs}) == 1
    assert "starting the workers" in first["data"]["text/html"]
    pages = [own["data"]["text/html"] for own in others]
    assert any("1/3" in page and "0.7500 (trial 0)" in page for page in pages)
    assert "3/3" in pages[-1]
    assert "<pre" in pages[-1]
