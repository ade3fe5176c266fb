"""Rows are split into batches at the least cost."""

from itertools import combinations, pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from promptgraft.objectives.layers import split_by_length
from promptgraft.objectives.layers.batching import ACCELERATOR_OVERHEAD_TOKENS, OVERHEAD_TOKENS


def cost(batches: list[list[int]], lengths: list[int], overhead: int) -> int:
    return sum(overhead + len(batch) * max(lengths[i] for i in batch) for batch in batches)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=8), st.integers(1, 8))
def test_no_split_of_the_sorted_rows_is_cheaper(lengths: list[int], max_rows: int) -> None:
    found = split_by_length(lengths, max_rows, "cpu")
    assert sorted(index for batch in found for index in batch) == list(range(len(lengths)))
    assert max(map(len, found)) <= max_rows
    order, overhead = [index for batch in found for index in batch], OVERHEAD_TOKENS["cpu"]
    assert [lengths[i] for i in order] == sorted(lengths)
    for count in range(len(order)):
        for cuts in combinations(range(1, len(order)), count):
            edges = (0, *cuts, len(order))
            other = [order[a:b] for a, b in pairwise(edges)]
            if max(map(len, other)) <= max_rows:
                assert cost(found, lengths, overhead) <= cost(other, lengths, overhead)


def test_an_accelerator_gets_whole_batches() -> None:
    lengths = torch.randint(5, 100, (32,), generator=torch.Generator().manual_seed(0)).tolist()
    assert sum(lengths) < ACCELERATOR_OVERHEAD_TOKENS
    assert len(split_by_length(lengths, 32, "cuda")) == 1
    assert len(split_by_length(lengths, 32, "cpu")) > 1
