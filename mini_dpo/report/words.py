"""Held-out pairs, each word coloured by its part of the response's reward."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mini_dpo.report.markup import Markup, element, joined, section, told_prompt
from mini_dpo.report.reading import Run

LEVELS = 4  # shades on each side of "no difference"
SMALLEST = 1e-30  # what counts as a difference
TYPICAL = 0.95  # the share of words that the scale has room for; the few beyond it take its last shade
THOUSAND = 1000  # from here on a number has no digits after the point


def taught(run: Run) -> list[Markup]:
    """Held-out pairs with the reward of each token."""
    if not run.words:
        return []
    scale, beta = scale_of(run.words), run.summary["token_beta"]
    ratio = f"log(policy / {run.summary['token_against']})"
    if beta is not None:
        unit, what = "units of reward", f"β {ratio}, with β = {beta:g}: its part of the response's reward"
    else:
        unit, what = "nats", f"{ratio} without a factor: this loss's reward is no sum of such numbers"
    note = (
        f"A token's number is {what}. Blue tokens have become likelier than they were, orange ones (dotted "
        "below) less likely. The numbers of a response add up to its sum; what counts is the difference of "
        "the two sums of a pair. Look for the words that carry it, and whether it should be these. "
        "A tooltip has the number."
    )
    pairs = [
        element("article", told_prompt(row["prompt"]), pair_of(row, scale, beta is not None))
        for row in run.words
    ]
    return [
        section(
            "What was taught, token by token", element("p", note, class_="note"), legend(scale, unit), *pairs
        )
    ]


def scale_of(rows: Sequence[dict]) -> float:
    """The value of the darkest shade: a round number that most words stay below."""
    sizes = sorted(abs(value) for row in rows for side in ("chosen", "rejected") for _, value, _ in row[side])
    typical = sizes[int(TYPICAL * (len(sizes) - 1))] if sizes else 0.0
    if typical < SMALLEST:
        return 1.0
    power = 10.0 ** math.floor(math.log10(typical))
    return next(power * n for n in (1, 2, 4, 6, 8, 10) if power * n >= typical)


def level(value: float, scale: float) -> int:
    """The shade of a value, from -LEVELS (less likely than before) to LEVELS (likelier)."""
    return max(-LEVELS, min(LEVELS, round(LEVELS * value / scale)))


def shade(number: int) -> str:
    """The class of a shade in page.css."""
    return f"w {'more' if number > 0 else 'less' if number < 0 else 'same'}{abs(number) or ''}"


def signed(value: float) -> str:
    """A number with its sign, to three digits."""
    return f"{value:+,.{'0f' if abs(value) >= THOUSAND else '3g'}}".replace("-", "\N{MINUS SIGN}")


def legend(scale: float, unit: str) -> Markup:
    """The shades and what they stand for."""
    swatches = []
    for number in range(-LEVELS, LEVELS + 1):
        end = {-LEVELS: " or less", LEVELS: " or more"}.get(number, "")
        value = f"{signed(scale * number / LEVELS)}{end}" if number else "0"
        swatches.append(element("span", value, class_=shade(number)))
    return element("p", "One token, in ", unit, ": ", *swatches, class_="legend")


def response(words: Sequence, scale: float) -> Markup:
    """A response, each word in its shade, its number as a tooltip."""
    spans = []
    for text, value, tokens in words:
        said = signed(value) + (f" ({tokens} tokens)" if tokens > 1 else "")
        word = text.lstrip(" ") or text  # the blank before a word would be a speck at the end of a line
        seen = word.replace("\n", "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}\n")
        spans += [
            text.removesuffix(word),
            element("span", seen, class_=shade(level(value, scale)), title=said),
        ]
    return element("p", *spans, class_="words", dir="auto")


def pair_of(row: dict, scale: float, rewards: bool) -> Markup:
    """The chosen and the rejected response of a pair, each under its sum, and the difference of the sums.
    rewards: whether the sums are the loss's rewards, so that the larger one says which response it prefers.
    """
    sums = [sum(value for _, value, _ in row[side]) for side in ("chosen", "rejected")]
    halves = [
        element("div", element("h4", side, element("b", signed(total))), response(row[side], scale))
        for side, total in zip(("chosen", "rejected"), sums, strict=True)
    ]
    gap = sums[0] - sums[1]
    verdict = "as the label says" if gap > 0 else "against the label" if gap < 0 else "neither way"
    said = element("p", f"difference {signed(gap)}{f', {verdict}' if rewards else ''}", class_="verdict")
    return joined([element("div", *halves, class_="two"), said])
