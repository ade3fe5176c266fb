"""Batches of similar length: how rows are split so that little time goes into padding."""

from collections.abc import Sequence

# What one more batch costs, in tokens of one row: calls and small matrices on a CPU, where one token costs much; on
# an accelerator a batch is launched in about the same time however small it is. Measured on two CPU models (MiniLM
# 27, SmolLM2 15); only the speed depends on it, and the last bits of a result.
OVERHEAD_TOKENS = {"cpu": 24}
ACCELERATOR_OVERHEAD_TOKENS = 4096


def split_by_length(lengths: Sequence[int], max_rows: int, device: str) -> list[list[int]]:
    """Split rows into batches of similar length, at the least cost: padded tokens and a constant for each batch.

    Args:
        lengths: Tokens of each row that are run.
        max_rows: Largest number of rows in a batch.
        device: Type of the device.

    Returns:
        Indices of the rows of each batch, by rising length; rows of one length stay in their order.
    """
    overhead = OVERHEAD_TOKENS.get(device, ACCELERATOR_OVERHEAD_TOKENS)
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    # cheapest[end]: what the first rows up to `end` cost, and where their last batch begins.
    cheapest: list[tuple[float, int]] = [(0.0, 0)]
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        cheapest.append(
            min(
                (cheapest[start][0] + overhead + (end - start) * longest, start)
                for start in range(max(0, end - max_rows), end)
            )
        )
    batches: list[list[int]] = []
    end = len(order)
    while end:
        start = cheapest[end][1]
        batches.append(order[start:end])
        end = start
    return batches[::-1]
