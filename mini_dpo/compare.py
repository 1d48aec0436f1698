"""Every loss in a world, by default the toy shop, from the same SFT model, in one table.

    python -m mini_dpo.compare                 train what is missing, then print the table and draw it
    python -m mini_dpo.compare --losses dpo,ipo,simpo
    python -m mini_dpo.compare --tune          the search for TOY_DEFAULTS in train/parsing.py

Each loss is the run that `python -m mini_dpo.train --stage dpo --init-from FOLDER/sft --loss NAME` makes.
Each run has a folder of its own, so `sample` and `plot` work on it. A comparison that was stopped goes on
with the next run. A run that was made with other settings or other data is refused.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from mini_dpo.cli import Escaped, option, parser_for, run_command
from mini_dpo.corpus.parts import HeldOut
from mini_dpo.corpus.worlds import world_corpus
from mini_dpo.errors import TrainingFailed, UserError, flag
from mini_dpo.evaluation.table import number
from mini_dpo.files import no_link, read_json
from mini_dpo.losses import LOSSES, find_loss
from mini_dpo.plot.comparison import draw_compare
from mini_dpo.progress import clock
from mini_dpo.saving.checkpoint import load_model
from mini_dpo.train.closing import measured
from mini_dpo.train.parsing import TOY_DEFAULTS, parse, read_config
from mini_dpo.train.preparing import input_digests
from mini_dpo.train.running import start
from mini_dpo.train.settings import EPOCHS

# Settings that may differ between the run in a folder and the run that is asked for: its place, its device,
# the path of its SFT model (whose digest is compared), and `loss_options`, which are compared one by one.
SAID_ELSEWHERE = ("id", "out", "init_from", "device", "loss_options")
PRICE = 0.3  # of a nat of KL in the search's score: the toy shop's beta for DPO

# What `--tune` tries for each loss. Other hyperparameters have their defaults, and all losses have the same
# learning rate. If the best setting was at an end of a range, more were added. For dpop and cpo the best
# setting is still at an end: the smaller the weight of their second term, the better.
BETAS = [{"beta": 0.1}, {"beta": 0.3}, {"beta": 1.0}]
SEARCH: dict[str, list[dict]] = {
    **dict.fromkeys(LOSSES, BETAS),
    "cdpo": [*BETAS, {"beta": 0.03}],
    "dpo_norm": [{"beta": 3.0}, {"beta": 10.0}, {"beta": 30.0}],
    "dpop": [{"beta": beta, "penalty": penalty} for beta in (0.1, 0.3) for penalty in (5.0, 50.0)]
    + [{"beta": 0.3, "penalty": penalty} for penalty in (0.5, 0.05, 0.01)],
    "f_dpo": [
        *({"divergence": "jensen_shannon", **beta} for beta in BETAS),
        {"divergence": "alpha", "beta": 0.3},
        {"divergence": "forward_kl", "beta": 0.3},
    ],
    "chipo": [{"beta": 0.02}, {"beta": 0.05}, {"beta": 0.2}, {"beta": 0.5}],
    "ipo": [{"beta": 0.03}, {"beta": 0.1}, {"beta": 0.3}, {"beta": 0.01}],
    "discopop": [{"beta": 0.05}, *BETAS, {"beta": 3.0}],
    "nca": [*BETAS, {"beta": 0.03}, {"beta": 0.01}],
    "bco": [*BETAS, {"beta": 0.03}, {"beta": 0.01}],
    "sppo": [{"beta": beta} for beta in (0.05, 0.1, 0.3, 0.02, 0.01, 0.005)],
    "cal_dpo": [{"beta": beta} for beta in (0.05, 0.1, 0.3, 0.02, 0.01, 0.005)],
    "aot": [*BETAS, {"beta": 3.0}],
    "aot_unpaired": [*BETAS, {"beta": 3.0}, {"beta": 10.0}, {"beta": 30.0}],
    "apo_down": [*BETAS, {"beta": 3.0}],
    "cpo": [{"beta": beta, "nll_weight": weight} for beta in (0.3, 1.0) for weight in (0.1, 1.0)]
    + [{"beta": 0.3, "nll_weight": weight} for weight in (0.03, 0.01, 0.003)]
    + [{"beta": 0.1, "nll_weight": 0.01}],
    "simpo": [
        {"beta": beta, "gamma": gamma} for beta, gamma in ((2.0, 1.0), (10.0, 1.0), (10.0, 5.0), (30.0, 5.0))
    ],
    "alphapo": [{"beta": 2.5}, {"beta": 10.0}, {"beta": 30.0}],
    "orpo": [{"odds_weight": weight} for weight in (0.1, 1.0, 5.0, 15.0, 40.0, 100.0)],
}


@dataclass(frozen=True)
class CompareSettings:
    """What to compare, and in which folder."""

    losses: str | None = option(
        str, "names with commas between them, or file.py:function (default: all)", metavar="NAMES"
    )
    out: str = option(
        str, "the folder of the comparison, gone on with if it is there", "runs/compare", metavar="PATH"
    )
    world: str = option(str, "the world to train in, a name or file.py:NAME", "shop", metavar="NAME")
    tune: bool = option(bool, "search for each loss's hyperparameters on validation prompts instead", False)
    epochs: float = option(float, "passes over the preferences", EPOCHS["dpo"][0])
    seed: int = option(int, "of everything", 0)


def main() -> None:
    parser = parser_for(
        CompareSettings, "compare", "Train every loss in a world from the same SFT model, and compare."
    )
    settings = CompareSettings(**vars(parser.parse_args()))
    names = settings.losses.split(",") if settings.losses else list(LOSSES)
    losses = [find_loss(name) for name in names]  # finds an unknown name before training
    if settings.tune and (unknown := [variant.name for variant in losses if variant.name not in SEARCH]):
        raise UserError(
            f"--tune knows what to try for the losses of the package only, not for {', '.join(unknown)}"
        )
    # finds a number out of range before training
    parse(["--epochs", str(settings.epochs), "--seed", str(settings.seed)])
    folder = Path(settings.out)
    train_aloud(folder / "sft", ["--stage", "sft", *common(settings)])
    if settings.tune:
        tune(settings, folder, [variant.name for variant in losses])
        return
    runs = {
        folder / variant.name: arguments_of(settings, name)
        for name, variant in zip(names, losses, strict=True)
    }
    for run, arguments in runs.items():
        check_run(run, arguments)
    for i, (run, arguments) in enumerate(runs.items(), 1):
        print(f"{i}/{len(runs)}  {run.name}", flush=True)
        train_aloud(run, arguments)
    summaries = {variant.name: read_json(folder / variant.name / "summary.json") for variant in losses}
    print("\n" + comparison_table(summaries))
    finite = {
        name: summary
        for name, summary in summaries.items()
        if None not in (column(summary) for column in COLUMNS.values())
    }
    try:
        draw_compare(finite, folder / "compare.png")
    except UserError as error:  # without the drawing library there are the numbers
        print(f"no picture: {error}")


def arguments_of(settings: CompareSettings, name: str) -> list[str]:
    """The flags of `train` for a loss, from the SFT model of the comparison."""
    sft, epochs = f"{Path(settings.out)}/sft", str(settings.epochs)
    return ["--stage", "dpo", "--init-from", sft, "--loss", name, "--epochs", epochs, *common(settings)]


def common(settings: CompareSettings) -> list[str]:
    """The flags that all runs of the comparison have."""
    return ["--world", settings.world, "--seed", str(settings.seed)]


def train_aloud(folder: Path, arguments: Sequence[str]) -> None:
    """Call `train_once`; print a line if there was something to train."""
    if seconds := train_once(folder, arguments):
        print(f"{folder}: {clock(seconds)}", flush=True)


def check_run(folder: Path, arguments: Sequence[str]) -> None:
    """Raise UserError if `folder` holds another run than the one that these arguments make."""
    if not (folder / "config.json").exists():
        return
    asked = parse([*arguments, "--out", str(folder)])
    found, digests = read_config(folder)
    here, there = ({**vars(s), **s.loss_options} for s in (asked, found))
    names = [
        name for name in here | there if name not in SAID_ELSEWHERE and here.get(name) != there.get(name)
    ]
    changes = [f"{flag(name)} {there.get(name)} there, {here.get(name)} asked" for name in names]
    changes += [
        f"{path} has changed since"
        for path, digest in input_digests(asked).items()
        if digest not in digests.values()
    ]
    if changes:
        raise UserError(
            f"{folder} is another run than the one asked for: {'; '.join(changes)}; choose another --out"
        )


def train_once(folder: Path, arguments: Sequence[str], held_out: HeldOut | None = None) -> float | None:
    """Make the run in `folder`, or go on with it. Returns the seconds, or None if the run was finished
    before. What the run prints goes to FOLDER.log.
    held_out: what to measure on, in place of the test prompts.
    Raises UserError if `folder` holds another run.
    """
    check_run(folder, arguments)
    if measured(folder):
        return None
    begun = (folder / "config.json").exists()
    code = [pair for pair in itertools.pairwise(arguments) if ".py:" in pair[1] and pair[0][:2] == "--"]
    again = [text for pair in code for text in pair]  # to be named again
    folder.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with (
        open(folder.with_name(folder.name + ".log"), "a", encoding="utf-8", opener=no_link) as log,
        redirect_stdout(Escaped(log)),
    ):
        start(
            parse(["--resume", str(folder), *again] if begun else [*arguments, "--out", str(folder)]),
            held_out,
        )
    return time.perf_counter() - started


# --- the table


def change_since_sft(summary: dict, name: str) -> float | None:
    """The change of a log-prob since SFT, in nats; None if one of the two is not finite."""
    both = summary["dpo"][name], summary["sft"][name]
    return None if None in both else both[0] - both[1]


COLUMNS = {
    "reward": lambda s: s["dpo"]["reward"],
    "win rate": lambda s: s["dpo"]["win_rate"],
    "KL": lambda s: s["dpo"]["kl"],
    "perplexity": lambda s: s["dpo"]["perplexity"],
    "chosen": lambda s: change_since_sft(s, "logps/chosen"),
    "rejected": lambda s: change_since_sft(s, "logps/rejected"),
    "tokens": lambda s: s["dpo"]["response_tokens"],
    "seconds": lambda s: s["dpo"]["training_seconds"],
}
ERRORS = {"reward": "reward", "win rate": "win_rate", "KL": "kl", "perplexity": "perplexity"}
FORMATS = ["{:.2f}", "{:.3f}", "{:.2f}", "{:.3f}", "{:+.1f}", "{:+.1f}", "{:.1f}", "{:.0f}"]


def comparison_table(summaries: dict[str, dict]) -> str:
    """One line for each loss, the highest true reward first. The last line is the SFT model."""
    lines = [f"{'loss':18}" + "".join(f"{column:>11}" for column in COLUMNS)]
    for name, summary in sorted(summaries.items(), key=lambda item: -item[1]["dpo"]["reward"]):
        cells = [
            number(column(summary), form, 10) for column, form in zip(COLUMNS.values(), FORMATS, strict=True)
        ]
        lines.append(f"{name:18}" + "".join(f"{cell:>11}" for cell in cells))
    sft = next(iter(summaries.values()))["sft"]
    lines.append(
        f"{'(SFT)':18}{sft['reward']:>11.2f}{'':22}{sft['perplexity']:>11.3f}{'':22}"
        f"{sft['response_tokens']:>11.1f}"
    )
    lines.append(
        "\nreward: the judge's, mean over held-out prompts. KL: from the SFT model, nats a "
        "response. chosen, rejected: change of"
    )
    lines.append(
        "the log-probs of held-out pairs. tokens: a response's. seconds: of preference training alone."
    )
    dpo = [summary["dpo"] for summary in summaries.values()]
    errors = [  # not in old runs
        f"{label} {max(d[f'{name}_error'] for d in dpo):.3f}"
        for label, name in ERRORS.items()
        if all(d.get(f"{name}_error") is not None for d in dpo)
    ]
    if errors:
        lines.append(f"The largest standard errors: {', '.join(errors)}.")
    return "\n".join(lines)


# --- the search


def tune(settings: CompareSettings, folder: Path, names: Sequence[str]) -> None:
    """Train every setting of SEARCH, measure each on the validation prompts, and print the best of
    each loss.
    """
    sft, tokenizer = load_model(folder / "sft" / "sft.pt")
    valid = world_corpus(settings.world, tokenizer, sft.config.context, "valid").held_out
    best = {}
    for name in names:
        scores = {}
        for i, options in enumerate(SEARCH[name]):
            target = folder / "tune" / f"{name}-{i}"
            flags = [text for key, value in options.items() for text in (flag(key), str(value))]
            try:
                train_once(target, [*arguments_of(settings, name), *flags], valid)
                dpo = read_json(target / "summary.json")["dpo"]
                scores[i] = -math.inf if dpo["kl"] is None else dpo["reward"] - PRICE * dpo["kl"]
                found = (
                    f"reward {dpo['reward']:6.2f}  KL {number(dpo['kl'], '{:6.2f}', 10)}  "
                    f"score {scores[i]:6.2f}"
                )
            except TrainingFailed as error:
                scores[i], found = -math.inf, f"failed ({error})"
            print(f"{name:18} {found}  {options}", flush=True)
        best[name] = SEARCH[name][max(scores, key=scores.__getitem__)]
    print(f"\nscore: true reward on validation prompts minus {PRICE} for each nat of KL; the best settings:")
    for name, options in best.items():
        print(
            f'    "{name}": {options},'
            + ("" if TOY_DEFAULTS.get(name) == options else "  # not what TOY_DEFAULTS says")
        )


if __name__ == "__main__":
    run_command(main)
