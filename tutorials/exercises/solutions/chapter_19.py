"""Solutions of chapter 19."""

from __future__ import annotations

import math


def floor_and_price(n: int, first: float, m: int, second: float) -> tuple[float, float]:
    price = (first - second) / (1 / n - 1 / m)
    return first - price / n, price


def labels_for(floor: float, price: float, wanted: float) -> float:
    return price / (wanted - floor) if wanted > floor else math.inf
