"""Answers to held-out prompts, before and after, side by side."""

from __future__ import annotations

from mini_dpo.evaluation.table import heading
from mini_dpo.report.markup import Markup, element, section, told_prompt
from mini_dpo.report.reading import Run

SHOWN = 6  # samples, the first ones; and half as many of those whose reward fell


def answers(run: Run) -> list[Markup]:
    """Answers to held-out prompts before and after, with the judge's marks if there are any."""
    if not run.samples:
        return []
    first = run.samples[:SHOWN]
    fell = sorted((s for s in run.samples[SHOWN:] if gain(s) < 0), key=gain)[: SHOWN // 2]
    look = (
        "Look for what changed between the columns, and for what should not have."
        if "dpo" in first[0]
        else "Look for answers that are about their prompts."
    )
    note = f"The first {len(first)} of {len(run.samples)} held-out prompts, not picked by hand. {look}"
    parts = [element("p", note, class_="note"), *(answer(s, run) for s in first)]
    if fell:
        worse = sum(gain(s) < 0 for s in run.samples)
        parts.append(
            element(
                "details",
                element(
                    "summary", f"The {len(fell)} whose true reward fell most; it fell for {worse} in all"
                ),
                *(answer(s, run) for s in fell),
            )
        )
    return [section("Answers, side by side", *parts)]


def gain(sample: dict) -> float:
    """What an answer's true reward gained; 0 where nobody knows it."""
    marks = sample.get("marks", {})
    return marks["dpo"]["reward"] - marks["sft"]["reward"] if {"sft", "dpo"} <= marks.keys() else 0.0


def answer(sample: dict, run: Run) -> Markup:
    """A prompt and its answers."""
    names = {"sft": run.summary.get("start", "SFT"), "dpo": heading(run.loss or "")}
    sides = []
    for name in (name for name in names if name in sample):
        marks = [
            element("span", f"{mark.replace('_', ' ')} {value:g}".replace("-", "\N{MINUS SIGN}"))
            for mark, value in sample.get("marks", {}).get(name, {}).items()
        ]
        text = element("p", sample[name] or "(empty)", class_="answer", dir="auto")
        sides.append(
            element(
                "div",
                element("h4", names[name]),
                text,
                *([element("p", *marks, class_="marks")] * bool(marks)),
            )
        )
    return element("article", told_prompt(sample["prompt"]), element("div", *sides, class_="two"))
