"""Solutions of chapter 11."""

from __future__ import annotations


def sees(parents: list[int], query: int, key: int) -> bool:
    while query != -1:
        if query == key:
            return True
        query = parents[query]
    return False


def step_flops(body: int, head: int, prompt: int, responses: list[int], live_reference: bool) -> int:
    passes = 6 + 2 * live_reference
    return passes * (body * (prompt + sum(responses)) + head * sum(responses))


def cut(sizes: list[int], room: int) -> list[list[int]]:
    batches: list[list[int]] = []
    left = 0
    for i, size in enumerate(sizes):
        if not batches or size > left:
            batches.append([])
            left = room
        batches[-1].append(i)
        left -= size
    return batches
