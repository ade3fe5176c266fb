"""Texts as rows of numbers are read back as they were, whatever they say."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from promptgraft.objectives.kinds.packing import MOST_BYTES, WIDTH, pack, unpack, without_losses


@given(st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=60), min_size=1, max_size=5))
@settings(deadline=None)
def test_texts_come_back(texts: list[str | None]) -> None:
    outputs = pack(texts)
    assert outputs.shape == (len(texts), WIDTH)
    assert unpack(outputs) == texts
    assert unpack(outputs.astype(np.float64)) == texts


def test_a_long_text_is_cut_at_a_character() -> None:
    (found,) = unpack(pack(["ä" * MOST_BYTES]))
    assert found == "ä" * (MOST_BYTES // 2)
    assert unpack(pack(["€" * MOST_BYTES])) == ["€" * (MOST_BYTES // 3)]


def test_losses_are_left_out() -> None:
    outputs = pack(["a", None], np.array([1.5, 2.5]), np.array([2, 3]))
    assert outputs[:, :2].tolist() == [[1.5, 2.0], [2.5, 3.0]]
    bare = without_losses(outputs)
    assert bare[:, :2].tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert unpack(bare) == ["a", None]
