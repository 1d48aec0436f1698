"""Running the commands inside the test process, as a user would type them."""

import json
import sys

from mini_dpo.cli import run_command
from mini_dpo.files import read_json, write_json

SHAPE = "--n-layer 1 --n-head 2 --n-embd 16 --context 40 --tokenizer toy".split()
SMALL = [*SHAPE, "--batch-size", "4", "--save-every", "3"]
SHORT = "--sft-steps 5 --steps 5".split()


def run(monkeypatch, capsys, module, *args) -> tuple[int, str, str]:
    """(exit status, standard output, standard error) of `python -m MODULE ARGS`."""
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, args)])
    capsys.readouterr()
    try:
        run_command(module.main)
        status = 0
    except SystemExit as stop:
        status = stop.code or 0
    return (status, *capsys.readouterr())


def preference_file(path, n=12, **change):
    """A small preference file of the user's own."""
    rows = [
        {"prompt": f"say {i}", "chosen": "yes " * (1 + i % 3), "rejected": "no " * (1 + i % 4)}
        for i in range(n)
    ]
    path.write_text("".join(json.dumps({**row, **change}) + "\n" for row in rows), encoding="utf-8")
    return path


def sft_file(path, n=12):
    """A small SFT file of the user's own."""
    rows = [{"prompt": f"tell {i}", "response": "well " * (1 + i % 3)} for i in range(n)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def change_json(path, **changes):
    """Change entries of a JSON file of a run, and its checksum with them."""
    write_json(path, {**read_json(path), **changes})


def change_settings(folder, **settings):
    """Change what a run's config.json says that it was begun with."""
    path = folder / "config.json"
    change_json(path, settings={**read_json(path)["settings"], **settings})
