"""Exercises of chapter 11, Where the time goes. Then: python -m tutorials.exercises 11"""

from __future__ import annotations


def sees(parents: list[int], query: int, key: int) -> bool:
    """11.1  Whether the token at place `query` of a row may look at the one at place `key`. parents: for each
    place of the row, the place of the token before it in its own text, -1 for the first token of a text.

    Hint: follow the parents.
    """
    raise NotImplementedError


def step_flops(body: int, head: int, prompt: int, responses: list[int], live_reference: bool) -> int:
    """11.2  The multiplications and additions of a step for one prompt and its responses, laid in a row with
    the prompt once. body: weights of the blocks' matrices; head: those of the output matrix, which is only
    used where a response token is predicted. A weight costs a token 2 in a forward pass and 4 in a backward
    pass; a live reference has the policy's size and no backward pass.
    """
    raise NotImplementedError


def cut(sizes: list[int], room: int) -> list[list[int]]:
    """11.3  Cut examples into batches, in their order: a batch takes the next example as long as its tokens
    (`sizes`, one number an example) come to no more than `room` together. Returns the numbers of the examples
    in each batch. Every example fits into a batch of its own.
    """
    raise NotImplementedError
