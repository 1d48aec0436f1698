"""Judge a loss: every property in words, held or broken, with the smallest counterexample.

python -m mini_dpo.check dpo
python -m mini_dpo.check mine.py:my_loss
"""

from __future__ import annotations

import sys
import textwrap
import time

import torch

from mini_dpo.check import EXAMPLES, PROPERTIES, Property, Verdict, examine
from mini_dpo.cli import Parser, run_command
from mini_dpo.errors import UserError
from mini_dpo.losses import find_loss
from mini_dpo.losses.finding import set_apart
from mini_dpo.theory.probe import try_loss

WIDTH = 110


def main() -> None:
    parser = Parser(
        prog="python -m mini_dpo.check",
        description="Hold a loss to every property, and show the smallest counterexample.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "loss",
        metavar="LOSS",
        help="a name that `python -m mini_dpo.train --list-losses` shows, or file.py:function",
    )
    parser.add_argument(
        "--examples",
        type=int,
        default=EXAMPLES,
        metavar="N",
        help=f"examples drawn of each property (default: {EXAMPLES})",
    )
    arguments = parser.parse_args()
    loss = find_loss(arguments.loss)
    if arguments.examples < 1:
        raise UserError(f"--examples must be at least 1, not {arguments.examples}")
    file = (
        arguments.loss.rsplit(":", 1)[0] if ".py:" in arguments.loss else loss.function.__code__.co_filename
    )
    if problem := try_loss(loss, loss.hyperparameters):  # said once, and not by every property
        raise UserError(problem)
    torch.set_num_threads(1)  # of batches this small, threads only wait for each other
    started, printed = time.perf_counter(), 0
    print(f"{loss.name}: {loss.paper}\n{textwrap.indent(loss.formula, '    ')}\n")
    if not loss.paired:
        print(
            "(Of single responses; where a pair is spoken of, its value is that of the liked "
            "response and of the disliked one together.)\n"
        )
    verdicts = []
    for claim in PROPERTIES.values():
        with set_apart(file) as output:
            verdicts.append(examine(loss, claim, arguments.examples))
        printed += output.getvalue().count("\n")
        print(page_entry(claim, verdicts[-1]), flush=True)
    held, broken, skipped = (
        sum(verdict.held is kind for verdict in verdicts) for kind in (True, False, None)
    )
    print(f"\n{held} held, {broken} broken, {skipped} not asked, in {time.perf_counter() - started:.0f} s")
    if printed:
        print(f"(It also printed {printed:,} lines of its own, which are left out here.)")
    if broken:
        sys.exit(1)


def page_entry(claim: Property, verdict: Verdict) -> str:
    """A property and what became of it, as text: a line where it holds."""
    word = {True: "held", False: "BROKEN", None: "-"}[verdict.held]
    says = f"not asked: {verdict.text}" if verdict.held is None else claim.says
    lines = [f"{word:8}{claim.name:28}" + wrap(says, 36, 36)]
    if verdict.held and verdict.text:
        lines.append(f"{'':36}({wrap(verdict.text, 37, 37)})")
    if verdict.held is False:
        lines += ["", f"{'':12}the smallest counterexample:"]
        lines += [f"{'':14}{line}" for line in verdict.text.splitlines()]
        lines += [f"{'':12}what that usually means:", f"{'':14}" + wrap(claim.usually, 14, 14), ""]
    return "\n".join(lines)


def wrap(text: str, used: int, indent: int) -> str:
    """Break a text whose first line begins after `used` columns."""
    return textwrap.fill(text, WIDTH, initial_indent=" " * used, subsequent_indent=" " * indent)[used:]


if __name__ == "__main__":
    run_command(main)
