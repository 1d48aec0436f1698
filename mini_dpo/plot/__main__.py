"""Pictures: what the losses look like, how a run went, and several runs side by side.

    python -m mini_dpo.plot losses                   value and slope of every loss, one panel each
    python -m mini_dpo.plot losses --loss dpo        one loss on a page, with its formula
    python -m mini_dpo.plot run runs/1               the curves of a run
    python -m mini_dpo.plot compare runs/1 runs/2    the preference stages of several runs, by their loss
    python -m mini_dpo.plot pictures runs/1          pictures of --world sight with the models' captions

The numbers need torch only. matplotlib is imported when a picture begins (`new_figure`). All pictures have
the shape of a slide and can be read without colour.
"""

from __future__ import annotations

from mini_dpo.cli import Parser, run_command
from mini_dpo.plot.losses import plot_losses
from mini_dpo.plot.pictures import plot_pictures
from mini_dpo.plot.runs import plot_compare, plot_run


def main() -> None:
    settings = parser().parse_args()
    settings.command(settings)


def parser() -> Parser:
    """The command line: one sub-command a picture."""
    parser = Parser(
        prog="python -m mini_dpo.plot",
        description="Draw losses and runs as PNG pictures.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(required=True, metavar="PICTURE")
    losses = commands.add_parser(
        "losses", help="value and slope of every loss against the margin", allow_abbrev=False
    )
    losses.add_argument(
        "--loss", nargs="+", metavar="NAME", help="only these; also file.py:function (default: all)"
    )
    losses.add_argument(
        "--out", default="losses.png", metavar="PATH", help="the picture (default: %(default)s)"
    )
    losses.set_defaults(command=plot_losses)
    run = commands.add_parser("run", help="the curves of one run", allow_abbrev=False)
    run.add_argument("run", metavar="RUN", help="a run's folder")
    run.add_argument("--out", metavar="PATH", help="the picture (default: RUN/curves.png)")
    run.set_defaults(command=plot_run)
    compare = commands.add_parser("compare", help="the preference stages of several runs", allow_abbrev=False)
    compare.add_argument("runs", nargs="+", metavar="RUN", help="folders of runs")
    compare.add_argument(
        "--out", default="compare.png", metavar="PATH", help="the picture (default: %(default)s)"
    )
    compare.set_defaults(command=plot_compare)
    pictures = commands.add_parser(
        "pictures", help="pictures with the captions of each model", allow_abbrev=False
    )
    pictures.add_argument("runs", nargs="+", metavar="RUN", help="folders of runs of --world sight")
    pictures.add_argument("--seed", type=int, default=0, metavar="N", help="of the captions (default: 0)")
    pictures.add_argument(
        "--out", default="pictures.png", metavar="PATH", help="the picture (default: %(default)s)"
    )
    pictures.set_defaults(command=plot_pictures)
    return parser


if __name__ == "__main__":
    run_command(main)
