"""The worlds: what each is about, and two pairs of responses with the judge's marks.

python -m mini_dpo.worlds            # all of them
python -m mini_dpo.worlds shop       # one: more examples, and how noisy its labels are
python -m mini_dpo.worlds mine.py:NAME
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from mini_dpo.cli import option, parser_for, run_command
from mini_dpo.worlds.finding import WORLDS, find_world
from mini_dpo.worlds.world import World, label_accuracy, reward, rows_of


@dataclass(frozen=True)
class WorldsSettings:
    """What to show of each world."""

    examples: int = option(int, "pairs to show of each", 2)


def main() -> None:
    parser = parser_for(
        WorldsSettings,
        "worlds",
        "Show the worlds: what is preferred in each, and pairs with the judge's marks.",
        arguments="[NAME] ",
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help="one world, or file.py:NAME (default: all)")
    given = vars(parser.parse_args())
    name = given.pop("name", None)
    settings = WorldsSettings(**given)
    for world in [find_world(name)] if name else WORLDS.values():
        print(describe(world, settings.examples))


def describe(world: World, n: int) -> str:
    """A world in a few lines: what is preferred, how noisy its labels are, and n preferences."""
    _, pairs = rows_of(world)["train"]
    lines = [
        f"{world.name}: {world.about}",
        f"  marks: {', '.join(world.marks.values())}",
        f"  {label_accuracy(world.judge, pairs):.3f} of {len(pairs):,} labels agree with the judge",
    ]
    for row in pairs[:n]:
        lines += ["", *wrapped(f"> {row['prompt']}", "  ")]
        for side in ("chosen", "rejected"):
            marks = world.judge(row["prompt"], row[side])
            shown = ", ".join(f"{mark} {value + 0:g}" for mark, value in marks.items())
            lines += wrapped(f"{side}: {row[side]} ({reward(marks):g}: {shown})", "    ")
    return "\n".join([*lines, ""])


def wrapped(text: str, margin: str) -> list[str]:
    """A text in lines of at most 100 characters; its own line breaks stay."""
    return [
        line
        for part in text.split("\n")
        for line in textwrap.wrap(part, 100, initial_indent=margin, subsequent_indent=margin + "  ") or [""]
    ]


if __name__ == "__main__":
    run_command(main)
