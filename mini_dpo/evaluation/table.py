"""The closing table and the samples of a run, as text."""

from __future__ import annotations

import math
import textwrap


def heading(loss: str) -> str:
    """The name of a preference-trained model in tables: its loss in capitals, at most 11 characters."""
    return loss.rsplit(":", 1)[-1].upper().replace("_", "-")[:11]


def closing_rows(summary: dict) -> list[list[str]]:
    """The summary as rows: the headings, then a label and the number of each model, with its standard error
    in parentheses.
    """
    sft, dpo, start = summary["sft"], summary.get("dpo", {}), summary.get("start", "SFT")
    rows = [row for row in quantities(summary) if row[1] in sft or row[1] in dpo]
    columns = {start: sft, **({heading(summary.get("loss", "dpo")): dpo} if dpo else {})}
    headings = [f"on held-out prompts ({summary['prompts']})", *(f"{name:>12}" for name in columns)]
    cells = [[label, *(cell(column, key, form) for column in columns.values())] for label, key, form in rows]
    return [headings, *cells]


def quantities(summary: dict) -> list[tuple[str, str, str]]:
    """The rows that the table can have: the label, the name of the number in the summary, the format."""
    start = summary.get("start", "SFT")
    return [
        ("true reward", "reward", "{:.2f}"),
        *((f"  {label}", mark, "{:.2f}") for mark, label in summary.get("labels", {}).items()),
        (f"  gain over {start}, prompt by prompt", "reward_gain", "{:.2f}"),
        (f"win rate against {start}, ties count half", "win_rate", "{:.3f}"),
        ("KL(policy || reference), nats per response", "kl", "{:.2f}"),
        ("perplexity on held-out SFT responses", "perplexity", "{:.3f}"),
        ("reward accuracy on held-out pairs", "reward_accuracy", "{:.3f}"),
        ("  with nothing to be seen in the prompt", "blanked_accuracy", "{:.3f}"),
        ("  each response alone, by reward's sign", "reward_sign_accuracy", "{:.3f}"),
        ("log-prob of chosen responses", "logps/chosen", "{:.1f}"),
        ("log-prob of rejected responses", "logps/rejected", "{:.1f}"),
        ("tokens per response", "response_tokens", "{:.1f}"),
        ("responses cut before their end", "unfinished", "{}"),
    ]


def closing_table(summary: dict) -> str:
    """The summary as a table, standard errors in parentheses, with remarks below."""
    return "\n".join([table_of(closing_rows(summary)), "", *closing_remarks(summary)])


def table_of(rows: list[list[str]]) -> str:
    """Rows of cells as text, in columns."""
    labels, *columns = zip(*rows, strict=True)
    lines = [f"{label:42}" for label in labels]
    for column in columns:
        width = max(20, *map(len, column))
        lines = [line + f"{text:{width}}" for line, text in zip(lines, column, strict=True)]
    return "\n".join(line.rstrip() for line in lines)


def cell(column: dict, key: str, form: str) -> str:
    """A number of the table, 12 wide, and its standard error if it has one. form: a format such as
    "{:.2f}".
    """
    if key not in column:
        return ""
    error = column.get(f"{key}_error")
    return f"{number(column[key], form, 11):>12}" + ("" if error is None else f" ({number(error, form, 11)})")


def number(value: float | None, form: str, width: int) -> str:
    """A number in at most `width` characters. "not finite" for None, which JSON has in place of infinity."""
    if value is None or not math.isfinite(value):
        return "not finite"
    text = form.format(value)
    return text if len(text) <= width else f"{value:.{width - 7}g}"


def closing_remarks(summary: dict) -> list[str]:
    """What a newcomer needs to know to read the table."""
    sft, dpo = summary["sft"], summary.get("dpo")
    lines = [
        "In parentheses: the standard error, from how much held-out examples differ (0 where "
        "all agree). What another",
        "--seed would change in the training is not in it.",
    ]
    if dpo is None:
        return lines
    lines.append(
        "KL is estimated from the policy's own answers. Perplexity rises as far as the policy "
        "leaves its reference,"
    )
    lines.append("whether or not any skill is lost.")
    if "label_accuracy" in summary:
        lines.append(
            f"Labels are noisy: the true reward itself agrees with {summary['label_accuracy']:.3f} of them."
        )
    sides = [(sft[name], dpo[name]) for name in ("logps/chosen", "logps/rejected") if name in dpo]
    falls = [] if None in sum(sides, ()) else [before - after for before, after in sides]
    if falls and min(falls) > 0:
        further = "the rejected one further" if falls[1] > falls[0] else "the chosen one further"
        lines.append(f"Both log-probs fell, {further}: probability went to other responses.")
    return lines


def side_by_side(samples: list[dict], before_heading: str, after_heading: str, width: int = 52) -> str:
    """Prompts with their answers before and after preference training, in two columns."""
    blocks = []
    for sample in samples:
        prompt = prompt_as_text(sample["prompt"])
        if len(prompt) > 4 * width:
            lines = [piece for line in prompt.split("\n") for piece in textwrap.wrap(line.strip(), 2 * width)]
            prompt = "\n  ".join(shortened(lines))
        before, after = (
            shortened(textwrap.wrap(sample.get(name, ""), width)) or [""] for name in ("sft", "dpo")
        )
        height = max(len(before), len(after))
        columns = zip(
            [before_heading, *before, *[""] * height],
            [after_heading if "dpo" in sample else "", *after, *[""] * height],
            strict=False,
        )
        lines = [f"  {left:{width}}   {right}".rstrip() for left, right in list(columns)[: height + 1]]
        blocks.append("\n".join([f"> {prompt}", *lines]))
    return "\n\n".join(blocks)


def prompt_as_text(prompt: str | list[dict[str, str]]) -> str:
    """A prompt as samples.jsonl holds it, for people to read."""
    text = prompt if isinstance(prompt, str) else "\n".join(f"{m['role']}: {m['content']}" for m in prompt)
    return text.replace("\n", "\n  ")


def shortened(lines: list[str], most: int = 12) -> list[str]:
    """The lines; if there are more than `most`, the first ones and a line that says how many more
    there are.
    """
    return (
        lines
        if len(lines) <= most
        else [*lines[: most - 1], f"... {len(lines) - most + 1} more lines in samples.jsonl"]
    )
