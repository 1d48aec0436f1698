"""Make the page of a run again from its files: runs/1/report.html.

python -m mini_dpo.report runs/1
"""

from __future__ import annotations

from pathlib import Path

from mini_dpo.cli import Parser, run_command
from mini_dpo.report.outcome import what_is_missing
from mini_dpo.report.page import write_report
from mini_dpo.report.reading import read_run


def main() -> None:
    parser = Parser(
        prog="python -m mini_dpo.report",
        description="Make the page of a run, RUN/report.html, from the run's files alone.",
        allow_abbrev=False,
    )
    parser.add_argument("run", metavar="RUN", help="a run's folder")
    folder = Path(parser.parse_args().run)
    print(write_report(folder))
    if said := what_is_missing(read_run(folder)):
        print(said)


if __name__ == "__main__":
    run_command(main)
