"""Exercises of chapter 19, More of what. Then: python -m tutorials.exercises 19"""

from __future__ import annotations


def floor_and_price(n: int, first: float, m: int, second: float) -> tuple[float, float]:
    """19.1  (floor, price) of a shortfall floor + price / labels, from two measurements: `first` with n
    labels and `second` with m.
    """
    raise NotImplementedError


def labels_for(floor: float, price: float, wanted: float) -> float:
    """19.2  The number of labels at which the shortfall floor + price / labels is `wanted`: a number, not
    rounded; infinity if no number of labels is enough.
    """
    raise NotImplementedError
