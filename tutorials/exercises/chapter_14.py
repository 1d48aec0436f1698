"""Exercises of chapter 14, A model that looks. Then: python -m tutorials.exercises 14"""

from __future__ import annotations

from torch import Tensor


def pixels(patch: int) -> list[int]:
    """14.1  The 16 pixels of a patch, row by row, each 0, 1, 2 or 3.

    The number has 32 bits, two for each pixel, the first pixel in the two lowest.
    """
    raise NotImplementedError


def hallucination(there: list[set[str]], named: list[list[str]]) -> tuple[float, float, float]:
    """14.2  (CHAIR of things, CHAIR of captions, recall), each from 0 to 1.

    there: what is in each picture. named: what its caption names, in its order. A thing that is named twice
    and is there once is made up once. CHAIR of things: of all things that all captions name, the share that
    is made up; 0 where nothing is named. CHAIR of captions: the share of captions with a made-up thing.
    Recall: of all things in all pictures, the share that is named.
    """
    raise NotImplementedError


def mdpo_loss(r_w: Tensor, r_l: Tensor, r_o: Tensor, beta: float, anchor: float) -> Tensor:
    """14.3  mDPO's loss of each pair, (B,) in nats, from log-ratios (B,): of the chosen response, of the
    rejected one, and of the chosen one after another picture. anchor: delta of the chapter's formula.
    """
    raise NotImplementedError
