"""What `python -m mini_dpo.train` can be told, and the check that it makes sense."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import chain
from pathlib import Path

from mini_dpo.cli import add_flag, checked, option, parser_for
from mini_dpo.devices import NO_DEVICE, pick_device, trouble_with
from mini_dpo.errors import UserError, expecting, flag, flags
from mini_dpo.files import read_json
from mini_dpo.losses import LOSSES, Loss, find_loss
from mini_dpo.losses.finding import list_losses
from mini_dpo.losses.registry import shown
from mini_dpo.model import PRESETS, GPTConfig
from mini_dpo.theory.probe import try_loss

DESCRIPTION = """\
Teach a small GPT to talk (SFT), then to be liked (preference training, DPO by default), and measure
what that gained and what it cost. With no flags it does so on the toy shop that comes with the project."""

EPILOG = """\
examples:
  python -m mini_dpo.train                                    the toy shop: SFT, DPO, a table, some samples
  python -m mini_dpo.train --beta 0.5 --seed 1                the same with a shorter leash
  python -m mini_dpo.train --data mine.jsonl                  your own {"prompt", "chosen", "rejected"} a line
  python -m mini_dpo.train --stage dpo --init-from runs/1 --loss cdpo     another loss, the same SFT model
  python -m mini_dpo.train --loss mine.py:my_loss             a loss of your own
  python -m mini_dpo.train --resume runs/1                    go on with a run that was stopped
"""

# Peak learning rates where none is given, for narrow and for wide models: the first were searched for on another draw
# of the toy shop (another seed), the second are a cautious guess.
LR = {"sft": (8e-3, 5e-4), "dpo": (2e-4, 2e-5), "dpo on the toy shop": (3e-4, 2e-5)}
WIDE = 512  # channels from which a model counts as wide
# Passes over the data where none are given: over the toy shop, where Muon and larger steps are known to do, and over your
# own data, which may be few: of a few Muon makes a model that knows them by heart and nothing else.
EPOCHS = {"sft": (2.0, 6.0), "dpo": (1.0, 3.0)}
# What each loss starts with on the toy shop, whose rewards lie several points apart, in place of the paper's default:
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
    "dpop": {"beta": 0.3, "penalty": 0.05},
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
    "cpo": {"beta": 0.3, "nll_weight": 0.01},
    "simpo": {"beta": 10.0, "gamma": 1.0},
    "alphapo": {"beta": 10.0},
    "orpo": {"odds_weight": 15.0},
    "kto": {"beta": 0.3},
    "apo_zero_unpaired": {"beta": 0.3},
}

MOST_EPOCHS = 10_000  # each is planned ahead, to count the steps
DATA, MODEL, BOTH = "your own data", "the model", "both stages"  # headings in the help
PREFERENCES, SFT = "preference training", "SFT (with --stage sft, --lr, --epochs and --steps are SFT's)"


@dataclass(frozen=True)
class Settings:
    """One run's settings; the fields made by `option` are the command's flags. None means: chosen by `resolve`."""

    stage: str = option(str, "what to run: sft, dpo (needs --init-from), or all, one after the other", "all", ("sft", "dpo", "all"))
    resume: str | None = option(str, "go on with the run in this folder; takes no other flag but --checkpoint-activations, which changes what it needs and not what it computes, and --loss, where that is a file of yours", metavar="PATH")
    out: str | None = option(str, "the run's folder, which must not exist yet (default: the next number under runs/)", metavar="PATH")

    data: str | None = option(str, 'preferences, one {"prompt", "chosen", "rejected"} a line, or for losses of single responses {"prompt", "completion", "label"}; without it, the toy shop', metavar="PATH", group=DATA)
    sft_data: str | None = option(str, 'responses to imitate, one {"prompt", "response"} a line; without it, the chosen ones of --data', metavar="PATH", group=DATA)

    held_out: str | None = option(str, "preferences to measure on, in the form of --data; no prompt of theirs is trained on (default: a tenth of the prompts of your files)", metavar="PATH", group=DATA)
    skip_bad: bool = option(bool, "leave out what cannot be used of these files, empty answers for example, and say so, instead of stopping", False, group=DATA)

    init_from: str | None = option(str, "start from this checkpoint file, or the SFT model of this run's folder, instead of random weights", metavar="PATH", group=MODEL)
    model: str | None = option(str, "toy (0.5 million parameters) or gpt2 (124 million) (default: toy)", None, tuple(PRESETS), group=MODEL)
    n_layer: int | None = option(int, "transformer blocks, instead of the model's own number", group=MODEL)
    n_head: int | None = option(int, "attention heads a block, likewise", group=MODEL)
    n_embd: int | None = option(int, "channels, likewise", group=MODEL)
    context: int | None = option(int, "longest prompt and response together, in tokens, likewise; for your own data and the toy model, fitted to the data", group=MODEL)
    tokenizer: str | None = option(str, "toy (embedded) or gpt2 (fetched once) (default: the model's namesake; for your own data gpt2 where tiktoken has it already)", None, ("toy", "gpt2"), group=MODEL)

    loss: str = option(str, "the preference loss: a name that --list-losses shows, or file.py:function, one of your own", "dpo", metavar="NAME", group=PREFERENCES)
    reference: str | None = option(str, "with --stage dpo, a reference other than the model that --init-from names: the first round's, in a second round", metavar="PATH", group=PREFERENCES)
    sft_weight: float = option(float, "add so much of the chosen response's negative log-likelihood, in nats a token", 0.0, group=PREFERENCES)
    lr: float | None = option(float, f"peak learning rate (default: {LR['dpo on the toy shop'][0]:g} on the toy shop, {LR['dpo'][0]:g} on --data; {LR['dpo'][1]:g} from {WIDE} channels on)", group=PREFERENCES)
    epochs: float | None = option(float, f"passes over the data (default: {EPOCHS['dpo'][0]:g} over the toy shop, {EPOCHS['dpo'][1]:g} over --data)", group=PREFERENCES)
    steps: int | None = option(int, "optimizer steps, instead of --epochs", group=PREFERENCES)
    precompute_ref: bool = option(bool, "keep the reference's log-probs beside the data, for the next run with the same data and reference; the training is the same", False, group=PREFERENCES)

    sft_lr: float | None = option(float, f"peak learning rate (default: {LR['sft'][0]:g}; {LR['sft'][1]:g} from {WIDE} channels on)", group=SFT)
    sft_epochs: float | None = option(float, f"passes over the data (default: {EPOCHS['sft'][0]:g} over the toy shop, {EPOCHS['sft'][1]:g} over your own)", group=SFT)
    sft_steps: int | None = option(int, "optimizer steps, instead of --sft-epochs", group=SFT)
    dropout: float = option(float, "dropout; preference training has none", 0.0, group=SFT)

    batch_size: int | None = option(int, "pairs a batch; single responses for SFT and for losses of single responses (default: 32)", group=BOTH)
    tokens_per_batch: int | None = option(int, "as many examples a batch as fit into so many tokens, instead of --batch-size: batches of even cost and memory", group=BOTH)
    accumulate: int = option(int, "batches an optimizer step: the same gradient as one large batch, in less memory", 1, group=BOTH)
    optimizer: str | None = option(str, f"adamw, or muon for the matrices inside the blocks, which learns faster from random weights and knows a few examples by heart sooner (default: muon for SFT on the toy shop below {WIDE} channels, else adamw)", None, ("adamw", "muon"), group=BOTH)
    seed: int = option(int, "of weights, order, dropout and samples: one seed, one result on one CPU (a GPU adds up in an order of its own)", 0, group=BOTH)
    device: str = option(str, "where to compute; auto takes cuda, else cpu", "auto", ("auto", "cpu", "cuda", "mps"), group=BOTH)
    dtype: str = option(str, "bfloat16 multiplies in half precision (meant for cuda) and keeps float32 weights", "float32", ("float32", "bfloat16"), group=BOTH)
    compile: bool = option(bool, "translate the model with torch.compile first; gains nothing on a CPU", False, group=BOTH)
    checkpoint_activations: bool = option(bool, "keep only what stands between the blocks and compute their insides again for the gradient: less memory, a third more time", False, group=BOTH)
    eval_every: int | None = option(int, "steps between two looks at the validation data (default: five a stage)", group=BOTH)
    eval_examples: int = option(int, "held-out examples of a kind that each look, and the closing table, take in at most", 256, group=BOTH)
    max_new_tokens: int | None = option(int, "longest answer to a held-out prompt, in tokens (default: twice the longest held-out response, 512 at most)", group=BOTH)
    save_every: int = option(int, "steps between two checkpoints", 100, group=BOTH)

    loss_options: dict[str, float] = field(default_factory=dict)
    id: str = ""  # of the run, in all its files: those of another run are not taken for its own
    start: str = "SFT"  # what stands above the numbers of the model that preference training starts from

    @property
    def toy_shop(self) -> bool:
        """Whether the data are the toy shop's, and not the user's own."""
        return self.data is None and self.sft_data is None


SFT_ONLY = ("sft_data", "sft_lr", "sft_steps", "sft_epochs", "dropout")
PREFERENCE_ONLY = ("loss", "reference", "sft_weight", "precompute_ref")
MODEL_FLAGS = ("model", "n_layer", "n_head", "n_embd", "context", "tokenizer")


def parse(argv: Sequence[str] | None = None) -> Settings:
    """The command line as settings that make sense, every default filled in. Raises UserError where it does not."""
    argv = sys.argv[1:] if argv is None else list(argv)
    loss_name = named_loss(argv)
    loss = find_loss(loss_name)
    parser = parser_for(Settings, "train", DESCRIPTION, EPILOG)
    parser.add_argument("--list-losses", action="store_true", help="show all losses: name, formula, paper, what they need")
    add_loss_flags(parser, loss)
    given = vars(parser.parse_args(argv))
    if given.pop("list_losses", False):
        print(list_losses())
        sys.exit(0)
    if "resume" in given:
        others = sorted(given.keys() - {"resume", "checkpoint_activations"} - ({"loss"} if ".py:" in loss_name else set()))
        if others:
            raise UserError(f"--resume goes on with a run as it was begun; leave out {flags(others)}, or start a new run")
        return Settings(**{**given, "loss": file_and_name(loss_name, loss)})
    options = {name: given.pop(name) for name in {**loss_readers(), **loss.hyperparameters} if name in given}
    settings = Settings(**given, loss_options=options)
    for problem in chain(problems(settings, given.keys() | options.keys()), loss_problems(settings, loss)):
        raise UserError(problem)
    if settings.device != "auto" and (trouble := trouble_with(settings.device)):
        raise UserError(NO_DEVICE.format(settings.device, trouble))
    return resolve(settings, loss)


def read_config(folder: Path) -> tuple[Settings, dict[str, str]]:
    """The settings a run was begun with, and the digests of its files, from its config.json. Raises UserError where it is
    no run of this version, or where the command line would not have taken the settings."""
    path = folder / "config.json"
    config = read_json(path)
    with expecting(path, "the settings of a run of this version of mini_dpo"):
        kept, digests = config["settings"], config["sha256"]
        for f in fields(Settings):
            if "kind" in f.metadata and not (kept.get(f.name) is None and "None" in f.type):
                kept[f.name] = checked(flag(f.name), f.metadata["kind"], kept.get(f.name, f.default))
                if f.metadata["choices"] and kept[f.name] not in f.metadata["choices"]:
                    raise ValueError(f"{flag(f.name)} cannot be {kept[f.name]}")
        for name, value in kept["loss_options"].items():
            kept["loss_options"][name] = checked(flag(name), str if isinstance(value, str) else float, value)
        settings = Settings(**kept)
        settings = replace(settings, start=checked("start", str, settings.start), id=checked("id", str, settings.id))
        whole = (settings.batch_size or settings.tokens_per_batch, settings.steps or settings.epochs, settings.sft_steps or settings.sft_epochs, settings.init_from or settings.model)
        if None in whole or not all(isinstance(text, str) for item in digests.items() for text in item):
            raise ValueError("incomplete")
        for problem in problems(settings):
            raise ValueError(problem)
    return settings, digests


def named_loss(argv: Sequence[str]) -> str:
    """What the command line says of --loss, before anything else is known: the loss decides which flags there are."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--loss", default="dpo")
    try:
        return parser.parse_known_args(argv)[0].loss
    except argparse.ArgumentError:
        return "dpo"  # `--loss` without a name: the real parser will say so


def loss_readers() -> dict[str, list[str]]:
    """Every hyperparameter of a registered loss, with the losses that read it."""
    readers: dict[str, list[str]] = {}
    for loss in LOSSES.values():
        for name in loss.hyperparameters:
            readers.setdefault(name, []).append(loss.name)
    return readers


def add_loss_flags(parser: argparse.ArgumentParser, loss: Loss) -> None:
    """A flag for each hyperparameter of the loss, described by its docstring. Those of other losses are known, so that
    they can be refused by name, and not shown."""
    group = parser.add_argument_group(f"the loss {loss.name} (every loss has its own: --loss NAME --help)")
    for name, default in loss.hyperparameters.items():
        if name in Settings.__dataclass_fields__ or name in ("help", "list_losses"):
            raise UserError(f"--loss {loss.name}: its hyperparameter {name} has the name of a flag of train; call it something else")
        toy = TOY_DEFAULTS.get(loss.name, {}).get(name)
        on_toy = "" if toy is None or toy == default else f"; {shown(toy)} on the toy shop"
        kind = float if isinstance(default, float) else type(default)
        add_flag(group, name, kind, f"{loss.describe(name)} (default: {shown(default)}{on_toy})", loss.choices.get(name, ()))
    for name in loss_readers().keys() - loss.hyperparameters.keys():
        parser.add_argument(flag(name), help=argparse.SUPPRESS)


def problems(settings: Settings, given: Collection[str] = ()) -> Iterator[str]:
    """What is wrong with the settings, most basic first. `given`: the flags that were written out."""

    def present(names: Sequence[str]) -> list[str]:
        return [name for name in names if name in given]

    for name in ("steps", "sft_steps", "batch_size", "tokens_per_batch", "accumulate", "n_layer", "n_head", "n_embd", "context", "eval_every", "eval_examples", "max_new_tokens", "save_every"):
        if (value := getattr(settings, name)) is not None and value < 1:
            yield f"{flag(name)} must be at least 1, not {value}"
    for name in ("lr", "sft_lr", "epochs", "sft_epochs"):
        if (value := getattr(settings, name)) is not None and value <= 0:
            yield f"{flag(name)} must be positive, not {value}"
    for name in ("epochs", "sft_epochs"):
        if (getattr(settings, name) or 0) > MOST_EPOCHS:
            yield f"{flag(name)} {getattr(settings, name):g} is out of all reach; {MOST_EPOCHS:,} passes are the most, and --steps can say more"
    if not 0 <= settings.dropout < 1:
        yield f"--dropout must be in [0, 1), not {settings.dropout}"
    if not 0 <= settings.seed < 2**31:
        yield f"--seed must be in [0, 2^31), not {settings.seed}"

    if settings.stage == "dpo" and settings.init_from is None:
        yield "--stage dpo needs --init-from: the SFT model to start from, which is also the reference"
    if settings.stage == "dpo" and (extra := present(SFT_ONLY)):
        yield f"--stage dpo does not read {flags(extra)}"
    if settings.stage == "all" and settings.reference:
        yield "--reference goes with --stage dpo; here the reference is the SFT model that this run makes"
    if settings.stage == "sft":
        if extra := present((*PREFERENCE_ONLY, *settings.loss_options)):
            yield f"--stage sft does not read {flags(extra)}"
        if extra := present(("sft_lr", "sft_steps", "sft_epochs")):
            yield f"with --stage sft, write {flags([name.removeprefix('sft_') for name in extra])} for {flags(extra)}"
    if settings.stage == "all" and settings.sft_data and not settings.data:
        yield "--sft-data without --data would mix your SFT data with the toy shop's preferences; give --data, or --stage sft"
    if settings.skip_bad and not (settings.data or settings.sft_data):
        yield "--skip-bad is about your own files; give --data or --sft-data, or leave it out"
    if settings.held_out and not (settings.data or settings.sft_data):
        yield "--held-out is in place of a tenth of your own files; give --data or --sft-data, or leave it out"
    if settings.init_from and (extra := present(MODEL_FLAGS)):
        yield f"the model and its tokenizer come from --init-from; leave out {flags(extra)}"
    for prefix in ("", "sft_"):
        if len(present((prefix + "steps", prefix + "epochs"))) == 2:
            yield f"{flags([prefix + 'steps'])} and {flags([prefix + 'epochs'])} say the same thing twice; give one"
    if len(present(("batch_size", "tokens_per_batch"))) == 2:
        yield "--batch-size and --tokens-per-batch both say how large a batch is; give one"


def loss_problems(settings: Settings, loss: Loss) -> Iterator[str]:
    """A hyperparameter that the loss does not read or does not allow, or a loss that cannot be called."""
    options = settings.loss_options
    if extra := [name for name in options if name not in loss.hyperparameters]:
        readers = loss_readers().get(extra[0], [])
        yield f"--loss {loss.name} does not read {flags(extra)} ({', '.join(readers[:4])}{' and others do' if len(readers) > 4 else ' reads it' if len(readers) == 1 else ' do'})"  # fmt: skip
    else:
        problem = try_loss(loss, options)
        if problem:
            yield f"--loss {problem}"
    if settings.sft_weight < 0:
        yield f"--sft-weight must be at least 0, not {settings.sft_weight}"
    if loss.facts["mismatched"] and settings.batch_size == 1:
        yield f"--loss {loss.name} sets each prompt of a batch against another one's response; use --batch-size 2 or more"
    if loss.facts["mismatched"] and settings.precompute_ref:
        yield f"--loss {loss.name} needs the reference in every step, for prompts with other prompts' responses; leave out --precompute-ref"
    if not loss.reference and (extra := [name for name in ("reference", "precompute_ref") if getattr(settings, name)]):
        yield f"--loss {loss.name} has no reference; leave out {flags(extra)}"


def resolve(settings: Settings, loss: Loss) -> Settings:
    """Fill in what depends on other settings, and write paths in full. The result is what config.json keeps."""
    s = settings
    if s.stage == "sft":  # --lr, --steps and --epochs speak of the only stage there is
        s = replace(s, sft_lr=s.lr, sft_steps=s.steps, sft_epochs=s.epochs, lr=None, steps=None, epochs=None)
    preset = None if s.init_from else s.model or "toy"
    toy = TOY_DEFAULTS.get(loss.name, {}) if s.toy_shop else {}
    return replace(
        s,
        data=full_path(s.data),
        sft_data=full_path(s.sft_data),
        held_out=full_path(s.held_out),
        init_from=full_path(s.init_from),
        reference=full_path(s.reference),
        batch_size=None if s.tokens_per_batch else s.batch_size or 32,
        epochs=s.epochs if s.steps or s.epochs else EPOCHS["dpo"][not s.toy_shop],
        sft_epochs=s.sft_epochs if s.sft_steps or s.sft_epochs else EPOCHS["sft"][not s.toy_shop],
        model=preset,
        tokenizer=s.tokenizer or (None if preset == "toy" and (s.data or s.sft_data) else preset),  # None: `prepare` sees what there is
        device=pick_device(s.device),
        loss=file_and_name(s.loss, loss),
        loss_options={**loss.hyperparameters, **toy, **s.loss_options},
    )


def file_and_name(given: str, loss: Loss) -> str:
    """A loss as config.json names it, whatever it was called on the command line."""
    return f"{full_path(given.rsplit(':', 1)[0])}:{loss.name}" if ".py:" in given else loss.name


def full_path(path: str | None) -> str | None:
    return None if path is None else str(Path(path).resolve())


def model_config(settings: Settings, vocab_size: int) -> GPTConfig:
    """The preset with the user's changes and the tokenizer's vocabulary. Raises UserError for an impossible shape."""
    changes = {name: getattr(settings, name) for name in ("n_layer", "n_head", "n_embd", "context")}
    changes = {name: value for name, value in changes.items() if value is not None}
    try:
        return replace(PRESETS[settings.model], vocab_size=vocab_size, dropout=settings.dropout, **changes)
    except ValueError as error:
        raise UserError(f"--model {settings.model} cannot be built like that: {error}") from error


def default_lr(stage: str, n_embd: int) -> float:
    """The peak learning rate of a stage, one of LR's, for a model of so many channels."""
    return LR[stage][n_embd >= WIDE]
