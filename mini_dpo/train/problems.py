"""Which settings cannot be used, alone or together."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import fields

from mini_dpo.errors import flag, flags
from mini_dpo.losses import LOSSES, Loss
from mini_dpo.processes import processes
from mini_dpo.theory.probe import try_loss
from mini_dpo.train.settings import Settings

MOST_LOSSES = 4  # losses that a line names
MOST_EPOCHS = 10_000  # to count the steps, each epoch is planned ahead

SFT_ONLY = ("sft_data", "sft_on", "sft_lr", "sft_steps", "sft_epochs", "dropout")

ONLINE_ONLY = ("rounds", "pairs", "moving_reference")

PREFERENCE_ONLY = (*ONLINE_ONLY, "loss", "reference", "sft_weight", "precompute_ref")

MODEL_FLAGS = ("model", "n_layer", "n_head", "n_embd", "context", "tokenizer")


def problems(settings: Settings, given: Collection[str] = ()) -> Iterator[str]:
    """What is wrong with the settings, one message each, the most basic first.
    given: the flags that were written on the command line.
    """

    def present(names: Sequence[str]) -> list[str]:
        return [name for name in names if name in given]

    counts = [f.name for f in fields(settings) if f.metadata.get("kind") is int and f.name != "seed"]
    for name in counts:
        if (value := getattr(settings, name)) is not None and value < 1:
            yield f"{flag(name)} must be at least 1, not {value}"
    for name in ("lr", "sft_lr", "epochs", "sft_epochs"):
        if (value := getattr(settings, name)) is not None and value <= 0:
            yield f"{flag(name)} must be positive, not {value}"
    for name in ("epochs", "sft_epochs"):
        if (getattr(settings, name) or 0) > MOST_EPOCHS:
            yield (
                f"{flag(name)} {getattr(settings, name):g} is out of all reach; "
                f"{MOST_EPOCHS:,} passes are the most, and --steps can say more"
            )
    if not 0 <= settings.dropout < 1:
        yield f"--dropout must be in [0, 1), not {settings.dropout}"
    if not 0 <= settings.seed < 2**31:
        yield f"--seed must be in [0, 2^31), not {settings.seed}"

    stage = settings.stage
    if settings.goes_on and settings.init_from is None:
        yield f"--stage {stage} needs --init-from: the SFT model to start from, which is also the reference"
    if settings.goes_on and (extra := present(SFT_ONLY)):
        yield f"--stage {stage} does not read {flags(extra)}"
    if stage != "online" and (extra := present(ONLINE_ONLY)):
        yield f"{flags(extra)} is for --stage online"
    if stage == "online" and (extra := present(("tokens_per_batch", "precompute_ref", "steps"))):
        yield f"--stage online does not read {flags(extra)}: each round has --epochs passes over its pairs"
    if stage == "online" and settings.world is None and settings.judge is None and settings.data:
        yield "--stage online needs a judge of your data: --judge file.py:function"
    if stage == "online" and processes() > 1:
        yield "--stage online trains in one process"
    if settings.stage == "all" and settings.reference:
        yield "--reference goes with --stage dpo; here the reference is the SFT model that this run makes"
    if settings.stage == "sft":
        if extra := present((*PREFERENCE_ONLY, *settings.loss_options)):
            yield f"--stage sft does not read {flags(extra)}"
        if extra := present(("sft_lr", "sft_steps", "sft_epochs")):
            yield (
                "with --stage sft, write "
                f"{flags([name.removeprefix('sft_') for name in extra])} for {flags(extra)}"
            )
    if settings.stage == "all" and settings.sft_data and not settings.data:
        yield (
            "--sft-data without --data would mix your SFT data with the toy shop's "
            "preferences; give --data, or --stage sft"
        )
    if settings.world and (extra := present(("data", "sft_data", "held_out", "judge"))):
        yield f"a world has data and a judge of its own; leave out --world, or {flags(extra)}"
    if settings.judge and not (settings.data or settings.sft_data):
        yield "--judge is for your own data, and a world has one; give --data, or leave it out"
    if settings.precompute_ref and settings.world not in (None, "shop"):
        yield "--precompute-ref keeps a file beside the data, and this world is made in memory; leave it out"
    if settings.skip_bad and not (settings.data or settings.sft_data):
        yield "--skip-bad is about your own files; give --data or --sft-data, or leave it out"
    if "sft_on" in given and not settings.sft_data:
        yield "--sft-on is about the conversations of --sft-data; give that, or leave it out"
    if (extra := present(("format", "truncate"))) and not (settings.data or settings.sft_data):
        yield f"{flags(extra)} is about your own files; give --data or --sft-data, or leave it out"
    if settings.held_out and not (settings.data or settings.sft_data):
        yield (
            "--held-out is in place of a tenth of your own files; give --data or --sft-data, or leave it out"
        )
    if settings.init_from and (extra := present(MODEL_FLAGS)):
        yield f"the model and its tokenizer come from --init-from; leave out {flags(extra)}"
    for prefix in ("", "sft_"):
        if len(present((prefix + "steps", prefix + "epochs"))) > 1:
            yield (
                f"{flags([prefix + 'steps'])} and {flags([prefix + 'epochs'])} say the same "
                "thing twice; give one"
            )
    if len(present(("batch_size", "tokens_per_batch"))) > 1:
        yield "--batch-size and --tokens-per-batch both say how large a batch is; give one"


def loss_problems(settings: Settings, variant: Loss) -> Iterator[str]:
    """What is wrong with the loss and its hyperparameters, one message each."""
    options = settings.loss_options
    if extra := [name for name in options if name not in variant.hyperparameters]:
        readers = loss_readers().get(extra[0], [])
        do = " and others do" if len(readers) > MOST_LOSSES else " reads it" if len(readers) == 1 else " do"
        yield f"--loss {variant.name} does not read {flags(extra)} ({', '.join(readers[:MOST_LOSSES])}{do})"
    else:
        problem = try_loss(variant, options)
        if problem:
            yield f"--loss {problem}"
    if settings.sft_weight is not None and settings.sft_weight < 0:
        yield f"--sft-weight must be at least 0, not {settings.sft_weight}"
    if settings.stage == "online" and (variant.mismatched or not variant.paired):
        wants = "other prompts too" if variant.paired else "single responses"
        yield f"--stage online makes pairs, and --loss {variant.name} wants {wants}"
    if variant.mismatched and settings.batch_size == 1:
        yield (
            f"--loss {variant.name} sets prompts of a batch against each other's responses; "
            "use --batch-size 2 or more"
        )
    if variant.mismatched and settings.precompute_ref:
        yield (
            f"--loss {variant.name} needs the reference in every step, for prompts with other "
            "prompts' responses; leave out --precompute-ref"
        )
    if not variant.reference and (
        extra := [name for name in ("reference", "precompute_ref") if getattr(settings, name)]
    ):
        yield f"--loss {variant.name} has no reference; leave out {flags(extra)}"


def loss_readers() -> dict[str, list[str]]:
    """For every hyperparameter of a registered loss, the names of the losses that read it."""
    readers: dict[str, list[str]] = {}
    for variant in LOSSES.values():
        for name in variant.hyperparameters:
            readers.setdefault(name, []).append(variant.name)
    return readers
