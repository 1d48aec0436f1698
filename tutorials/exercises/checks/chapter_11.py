"""Checks of chapter 11."""

from __future__ import annotations

import itertools
import random

from tutorials.exercises.checking import Properties, called, close, expect, registrar, shown

PROPERTIES: Properties = {}
prop = registrar(PROPERTIES)

ROW = [-1, 0, 1, 2, 1, 4, 5]  # two tokens of prompt, two of the first response, three of the second
TWO = [*ROW, -1, 7, 8, 7]  # and a second prompt of one token with responses of two and of one


@prop("sees", says="a token sees itself", usually="the walk begins at the parent")
def itself(answer):
    for place in range(len(TWO)):
        expect(answer(TWO, place, place), f"{called(answer, TWO, place, place)} is not True")


@prop(
    "sees",
    says="a token sees what stands before it in its own text, down to the first token",
    usually="the walk ends too early, or place 0 is taken for no place",
)
def own_text(answer):
    for query, key in ((3, 0), (3, 1), (3, 2), (5, 4), (6, 0), (9, 7), (10, 7)):
        expect(
            answer(TWO, query, key),
            f"{called(answer, TWO, query, key)} is not True, and token {key} stands before "
            f"token {query} in its text",
        )


@prop(
    "sees",
    says="it does not see the other response to its prompt",
    usually="`key <= query` alone: everything that stands before it in the row",
)
def other_response(answer):
    unseen(answer, ((4, 2), (4, 3), (6, 3), (10, 8), (10, 9)), "belongs to another response")


@prop(
    "sees",
    says="it sees nothing of another prompt's text",
    usually="only the branches are compared, or -1 is taken for the last place of the list",
)
def other_text(answer):
    unseen(answer, ((7, 0), (7, 6), (9, 1), (10, 6)), "belongs to another prompt's text")


@prop(
    "sees",
    says="nothing sees what comes after it",
    usually="the walk goes from the key, or in both directions",
)
def future(answer):
    unseen(answer, ((0, 1), (1, 3), (4, 6), (7, 10)), "comes later")


def unseen(answer, places, why):
    """No query of these places sees its key."""
    for query, key in places:
        expect(
            not answer(TWO, query, key),
            f"{called(answer, TWO, query, key)} is not False, and token {key} {why}",
        )


@prop(
    "step_flops",
    says="one token of prompt and one of response, body 10, head 5, no reference: 6 (2 times 10 + 5)",
    usually="the output matrix was counted for the prompt as well, or a backward pass as 2 instead of 4",
)
def smallest(answer):
    found = answer(10, 5, 1, [1], False)
    expect(close(found, 150), f"{called(answer, 10, 5, 1, [1], False)} is {shown(found)}")


@prop(
    "step_flops",
    says="a second response costs its own tokens, and its prompt nothing",
    usually="the prompt was multiplied by the number of responses",
)
def prompt_once(answer):
    one, two = answer(10, 5, 100, [7], False), answer(10, 5, 100, [7, 3], False)
    expect(
        close(two - one, 6 * 15 * 3),
        f"three tokens more in a second response make {shown(one)} into {shown(two)}",
    )


@prop(
    "step_flops",
    says="a live reference adds a third",
    usually="it was given a backward pass, or no output matrix",
)
def reference(answer):
    for responses in ([4], [4, 9]):
        without, live = answer(10, 5, 20, responses, False), answer(10, 5, 20, responses, True)
        expect(
            close(live, without * 4 / 3),
            f"with prompt 20 and responses {responses}: {shown(without)} without, "
            f"{shown(live)} with a live reference",
        )


def draws():
    draw = random.Random(0)
    for n in (1, 2, 5, 12):
        yield [draw.randint(1, 9) for _ in range(n)], draw.randint(9, 20)


@prop(
    "cut",
    says="every example is in one batch, in order",
    usually="the last batch was never added, or the example that did not fit was dropped",
)
def all_there(answer):
    for sizes, room in [([3], 5), ([3, 3], 5), *draws()]:
        batches = answer([*sizes], room)
        expect(
            [i for batch in batches for i in batch] == list(range(len(sizes))),
            f"{called(answer, sizes, room)} is {shown(batches)}",
        )


@prop(
    "cut",
    says="no batch is empty",
    usually="a first batch is opened before the first example comes, and another when it comes",
)
def none_empty(answer):
    for sizes, room in [([5], 5), ([5, 5], 5), *draws()]:
        batches = answer([*sizes], room)
        expect(all(len(batch) for batch in batches), f"{called(answer, sizes, room)} is {shown(batches)}")


@prop(
    "cut",
    says="no batch has more tokens than there is room",
    usually="the comparison comes after the example was added",
)
def enough_room(answer):
    for sizes, room in [([4, 4], 7), *draws()]:
        for batch in answer([*sizes], room):
            expect(
                sum(sizes[i] for i in batch) <= room,
                f"{called(answer, sizes, room)} has the batch {shown(batch)} of "
                f"{sum(sizes[i] for i in batch)} tokens",
            )


@prop(
    "cut",
    says="a batch is not closed while the next example fits",
    usually="`<` where `<=` is meant, or the room was not given back for a new batch",
)
def full(answer):
    for sizes, room in [([3, 3], 6), ([2, 2, 2], 6), ([5, 3, 3], 6), *draws()]:
        batches = answer([*sizes], room)
        for batch, following in itertools.pairwise(batches):
            used = sum(sizes[i] for i in batch)
            expect(
                used + sizes[following[0]] > room,
                f"{called(answer, sizes, room)} closes the batch {shown(batch)} at {used} "
                f"tokens, and example {following[0]} of {sizes[following[0]]} would have fitted",
            )
