"""The captions that chapter 14 shows, of the first test pictures: those of the models of seed 0 that
`python -m tutorials.measure sight` has trained.

python -m tutorials.sight
"""

from __future__ import annotations

from mini_dpo.cli import run_command
from mini_dpo.plot.pictures import captions_of
from tutorials.kept import keep
from tutorials.measure import RUNS, SIGHT, sight_run

SHOWN = ("default", "added", "swapped", "added, mDPO")


def main() -> None:
    models = {"SFT": RUNS / "sight-0" / "sft" / "sft.pt"}
    models |= {name: sight_run("sight", name, seed=0) / "dpo.pt" for name in SIGHT if name in SHOWN}
    prompts, captions = captions_of(models, seed=0)
    keep("captions", {"prompts": prompts, "captions": captions})


if __name__ == "__main__":
    run_command(main)
