"""The main command: SFT, then preference training from it, then both measured on held-out prompts.

python -m mini_dpo.train                        the toy shop, from nothing
python -m mini_dpo.train --data mine.jsonl      your own preferences
python -m mini_dpo.train --help
"""

from mini_dpo.cli import run_command
from mini_dpo.processes import join_processes, together
from mini_dpo.train.parsing import parse
from mini_dpo.train.running import start


def main() -> None:
    join_processes()
    start(together(parse))


if __name__ == "__main__":
    run_command(main)
