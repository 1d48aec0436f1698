"""Solutions of chapter 9."""

from __future__ import annotations

from torch import Tensor


def will_rise(features: Tensor, probabilities: Tensor, chosen: int, rejected: int) -> bool:
    mean = probabilities @ features  # (D,)
    return bool((features[chosen] - mean) @ (features[chosen] - features[rejected]) > 0)


def is_determined(n: int, pairs: list[tuple[int, int]]) -> bool:
    reached, todo = {0}, [0]
    while todo:
        here = todo.pop()
        neighbours = {b for a, b in pairs if a == here} | {a for a, b in pairs if b == here}
        todo += neighbours - reached
        reached |= neighbours
    return len(reached) == n


def length_corrected(margin: float, chosen_length: int, rejected_length: int, alpha: float) -> float:
    return margin + alpha * (chosen_length - rejected_length)
