"""The command line, or the config.json of a run, as complete settings."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any

from mini_dpo.cli import add_flag, checked, parser_for
from mini_dpo.corpus.worlds import files_of
from mini_dpo.devices import NO_DEVICE, pick_device, trouble_with
from mini_dpo.errors import UserError, expecting, flag, flags
from mini_dpo.files import read_json
from mini_dpo.losses import Loss, find_loss
from mini_dpo.losses.finding import list_losses
from mini_dpo.losses.registry import shown
from mini_dpo.model import PRESETS, GPTConfig
from mini_dpo.saving.checkpoint import versions
from mini_dpo.train.problems import loss_problems, loss_readers, problems
from mini_dpo.train.settings import EPOCHS, LR, WIDE, Settings
from mini_dpo.vocabularies import DATA
from mini_dpo.worlds.finding import find_world

DESCRIPTION = """\
Teach a small GPT to talk (SFT), then to be liked (preference training, DPO by default), and measure
what that gained and what it cost. With no flags it does so on the toy shop that comes with the project."""

EPILOG = """\
examples:
  python -m mini_dpo.train                                    the toy shop: SFT, DPO, a table, some samples
  python -m mini_dpo.train --beta 0.5 --seed 1                the same with a shorter leash
  python -m mini_dpo.train --data mine.jsonl                  your {"prompt", "chosen", "rejected"} per line
  python -m mini_dpo.train --stage dpo --init-from runs/1 --loss cdpo     another loss, the same SFT model
  python -m mini_dpo.train --loss mine.py:my_loss             a loss of your own
  python -m mini_dpo.train --resume runs/1                    go on with a run that was stopped
"""

# The defaults of each loss on the toy shop, whose rewards differ by several points, in place of the paper's:
# what `OMP_NUM_THREADS=1 python -m mini_dpo.compare --tune` found best on validation prompts.
TOY_DEFAULTS: dict[str, dict] = {
    "dpo": {"beta": 0.3},
    "cdpo": {"beta": 0.1},
    "rdpo": {"beta": 0.3},
    "dpo_norm": {"beta": 10.0},
    "r_dpo": {"beta": 0.3},
    "f_dpo": {"divergence": "jensen_shannon", "beta": 0.3},
    "ipo": {"beta": 0.03},
    "hinge": {"beta": 0.3},
    "exo": {"beta": 0.3},
    "dpop": {"beta": 0.3, "penalty": 0.01},
    "chipo": {"beta": 0.2},
    "discopop": {"beta": 1.0},
    "nca": {"beta": 0.03},
    "bco": {"beta": 0.03},
    "sppo": {"beta": 0.01},
    "cal_dpo": {"beta": 0.01},
    "apo_zero": {"beta": 0.3},
    "apo_down": {"beta": 3.0},
    "aot": {"beta": 1.0},
    "aot_unpaired": {"beta": 10.0},
    "cpo": {"beta": 0.3, "nll_weight": 0.003},
    "simpo": {"beta": 10.0, "gamma": 1.0},
    "alphapo": {"beta": 10.0},
    "orpo": {"odds_weight": 40.0},
    "mdpo": {"beta": 0.3},
    "kto": {"beta": 0.3},
    "apo_zero_unpaired": {"beta": 0.3},
}


TOY_FILES = {path.name for path in files_of(None, None)}
PATHS = ("data", "sft_data", "held_out", "init_from", "reference")  # the settings that are paths
CODE = ("loss", "world", "judge")  # the settings that may name code in a file, FILE.py:NAME


def parse(argv: Sequence[str] | None = None) -> Settings:
    """The command line as settings, with every default filled in.
    Raises UserError for settings that contradict each other or cannot be used.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    loss_name = named_loss(argv)
    variant = find_loss(loss_name)
    parser = parser_for(Settings, "train", DESCRIPTION, EPILOG)
    parser.add_argument(
        "--list-losses", action="store_true", help="show all losses: name, formula, paper, what they need"
    )
    add_loss_flags(parser, variant)
    given = vars(parser.parse_args(argv))
    if given.pop("list_losses", False):
        print(list_losses())
        sys.exit(0)
    if "resume" in given:
        named = {name for name in CODE if ".py:" in str(given.get(name))}
        others = sorted(given.keys() - {"resume", "checkpoint_activations"} - named)
        if others:
            raise UserError(
                f"--resume goes on with a run as it was begun; leave out {flags(others)}, or start a new run"
            )
        return with_full_names(Settings(**given), variant)
    options = {
        name: given.pop(name) for name in {**loss_readers(), **variant.hyperparameters} if name in given
    }
    settings = Settings(**given, loss_options=options)
    for problem in chain(problems(settings, given.keys() | options.keys()), loss_problems(settings, variant)):
        raise UserError(problem)
    if settings.device != "auto" and (trouble := trouble_with(settings.device)):
        raise UserError(NO_DEVICE.format(settings.device, trouble))
    return resolve(settings, variant)


def config_of(settings: Settings, digests: dict[str, str], folder: Path) -> dict[str, Any]:
    """What config.json keeps of a run in `folder`. Paths are relative to the folder, so that a run can be
    moved together with its data. Files of the package's own data are kept by name.
    """

    def kept(path: str) -> str:
        if Path(path).parent == DATA and Path(path).name in TOY_FILES:
            return Path(path).name
        try:
            return f"./{Path(os.path.relpath(path, folder.resolve())).as_posix()}"
        except ValueError:  # Windows: on another drive
            return path

    said = with_paths(asdict(settings), kept)
    return {"versions": versions(), "settings": said, "sha256": {kept(p): d for p, d in digests.items()}}


def with_paths(settings: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """The same settings, with `change` applied to each path, also to those of files with code."""
    changed = {name: change(settings[name]) for name in PATHS if isinstance(settings.get(name), str)}
    for name in CODE:
        file, colon, what = str(settings.get(name)).rpartition(".py:")
        if colon:
            changed[name] = f"{change(f'{file}.py')}:{what}"
    return {**settings, **changed}


def read_config(folder: Path) -> tuple[Settings, dict[str, str]]:
    """The settings of a run, and the SHA-256 of each of its files by path, from its config.json.
    Raises UserError if there is no run of this version, or if the command line would refuse the settings.
    """

    def found(path: str) -> str:
        if path.startswith("./"):
            return str((folder / path).resolve())
        return str(DATA / path) if path in TOY_FILES else path

    path = folder / "config.json"
    config = read_json(path)
    with expecting(path, "the settings of a run of this version of mini_dpo"):
        kept, digests = with_paths(config["settings"], found), config["sha256"]
        digests = {found(file): digest for file, digest in digests.items()}
        for f in fields(Settings):
            if "kind" in f.metadata and not (kept.get(f.name) is None and "None" in f.type):
                kept[f.name] = checked(flag(f.name), f.metadata["kind"], kept.get(f.name, f.default))
                if f.metadata["choices"] and kept[f.name] not in f.metadata["choices"]:
                    raise ValueError(f"{flag(f.name)} cannot be {kept[f.name]}")
        for name, value in kept["loss_options"].items():
            kept["loss_options"][name] = checked(flag(name), str if isinstance(value, str) else float, value)
        settings = Settings(**kept)
        settings = replace(
            settings, start=checked("start", str, settings.start), id=checked("id", str, settings.id)
        )
        whole = (
            settings.batch_size or settings.tokens_per_batch,
            settings.steps or settings.epochs,
            settings.sft_steps or settings.sft_epochs,
            settings.init_from or settings.model,
            settings.data or settings.sft_data or settings.world,
        )
        if None in whole or not all(isinstance(text, str) for item in digests.items() for text in item):
            raise ValueError("incomplete")
        for problem in problems(settings):
            raise ValueError(problem)
    return settings, digests


def named_loss(argv: Sequence[str]) -> str:
    """The value of --loss. It is read before all other flags, because the loss decides which flags
    there are.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--loss", default="dpo")
    try:
        return parser.parse_known_args(argv)[0].loss
    except argparse.ArgumentError:
        return "dpo"  # `--loss` without a name: the complete parser reports it


def add_loss_flags(parser: argparse.ArgumentParser, variant: Loss) -> None:
    """Add a flag for each hyperparameter of the loss, with the help from its docstring. The flags of other
    losses are added without help, so that a message can name them.
    Raises UserError if a hyperparameter has the name of another flag.
    """
    group = parser.add_argument_group(f"the loss {variant.name} (every loss has its own: --loss NAME --help)")
    for name, default in variant.hyperparameters.items():
        if name in Settings.__dataclass_fields__ or name in ("help", "list_losses"):
            raise UserError(
                f"--loss {variant.name}: its hyperparameter {name} has the name of a flag of "
                "train; call it something else"
            )
        toy = TOY_DEFAULTS.get(variant.name, {}).get(name)
        on_toy = "" if toy is None or toy == default else f"; {shown(toy)} on the toy shop"
        kind = float if isinstance(default, float) else type(default)
        add_flag(
            group,
            name,
            kind,
            f"{variant.describe(name)} (default: {shown(default)}{on_toy})",
            variant.choices.get(name, ()),
        )
    for name in loss_readers().keys() - variant.hyperparameters.keys():
        parser.add_argument(flag(name), help=argparse.SUPPRESS)


def resolve(settings: Settings, variant: Loss) -> Settings:
    """Fill in defaults that depend on other settings, and make paths absolute."""
    s = settings
    if s.stage == "sft":  # --lr, --steps and --epochs are those of the only stage
        s = replace(s, sft_lr=s.lr, sft_steps=s.steps, sft_epochs=s.epochs, lr=None, steps=None, epochs=None)
    preset = None if s.init_from else s.model or "toy"
    s = replace(s, world=s.world or (None if s.data or s.sft_data else "shop"))
    world = find_world(s.world) if s.world else None
    toy = {**TOY_DEFAULTS.get(variant.name, {}), **world.loss_options.get(variant.name, {})} if world else {}
    sft_epochs = (world and world.sft_epochs) or EPOCHS["sft"][s.world is None]
    sft_weight = world.sft_weight if world and s.stage != "sft" else 0.0
    return replace(
        with_full_names(s, variant),
        data=full_path(s.data),
        sft_data=full_path(s.sft_data),
        held_out=full_path(s.held_out),
        init_from=full_path(s.init_from),
        reference=full_path(s.reference),
        batch_size=None if s.tokens_per_batch else s.batch_size or 32,
        sft_weight=sft_weight if s.sft_weight is None else s.sft_weight,
        epochs=s.epochs if s.steps or s.epochs else EPOCHS["dpo"][s.world is None],
        sft_epochs=s.sft_epochs if s.sft_steps or s.sft_epochs else sft_epochs,
        model=preset,
        # None: `prepare` fills it in
        tokenizer=s.tokenizer or (None if preset == "toy" and s.world != "shop" else preset),
        device=pick_device(s.device),
        loss_options={**variant.hyperparameters, **toy, **s.loss_options},
    )


def with_full_names(settings: Settings, variant: Loss) -> Settings:
    """The settings with the full path of each file with code. A loss has its own name there, not an alias."""
    full: dict[str, Any] = {"loss": variant.name}
    for name in CODE:
        path, colon, what = str(getattr(settings, name)).rpartition(".py:")
        if colon:
            full[name] = f"{full_path(path + '.py')}:{variant.name if name == 'loss' else what}"
    return replace(settings, **full)


def code_of(settings: Settings) -> dict[str, str]:
    """The settings that name something in a file of the user's."""
    return {name: getattr(settings, name) for name in CODE if ".py:" in str(getattr(settings, name))}


def refuse_unnamed(settings: Settings, named: Settings, folder: Path, again: str) -> None:
    """Raise UserError unless the command line, `named`, names all code that a run's settings would run. The
    folder of a run may come from a stranger.
    again: the command that goes on, with these names.
    """
    for name, code in code_of(settings).items():
        if getattr(named, name) != code:
            raise UserError(
                f"{folder} trains with the {name} {code}, and to go on runs that file; if you know "
                f"it: {again}"
            )


def refuse_code(run: Path, begun: Settings, run_code: bool) -> None:
    """Raise UserError if what is done with a run runs code of a file, without --run-code."""
    if (code := code_of(begun)) and not run_code:
        raise UserError(f"{run} runs code of a file ({', '.join(code.values())}); if you know it: --run-code")


def full_path(path: str | None) -> str | None:
    """The absolute path; None stays None."""
    return None if path is None else str(Path(path).resolve())


def model_config(settings: Settings, vocab_size: int) -> GPTConfig:
    """The preset with the user's changes and this vocabulary. Raises UserError for an impossible shape."""
    changes = {name: getattr(settings, name) for name in ("n_layer", "n_head", "n_embd", "context")}
    changes = {name: value for name, value in changes.items() if value is not None}
    try:
        return replace(
            PRESETS[settings.model or "toy"], vocab_size=vocab_size, dropout=settings.dropout, **changes
        )
    except ValueError as error:
        raise UserError(f"--model {settings.model} cannot be built like that: {error}") from error


def default_lr(stage: str, n_embd: int) -> float:
    """The peak learning rate of a stage (a key of LR) for a model of this width."""
    return LR[stage][n_embd >= WIDE]
