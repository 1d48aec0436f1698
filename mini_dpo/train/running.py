"""A whole run, from its settings to its closing table, new or resumed."""

from __future__ import annotations

import secrets
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch

from mini_dpo.corpus.parts import Corpus, HeldOut
from mini_dpo.corpus.worlds import fingerprints
from mini_dpo.devices import keep_freed_memory, lacks, one_line, out_of_memory, own_gpu, trouble_with
from mini_dpo.errors import TrainingFailed, UserError, flag
from mini_dpo.fast.compiled import compile_blocks
from mini_dpo.files import locked, read_json
from mini_dpo.losses import find_loss
from mini_dpo.losses.finding import calling
from mini_dpo.model import GPT
from mini_dpo.processes import (
    join_processes,
    leave_processes,
    of_the_first,
    processes,
    rank,
    together,
    wait_for_all,
)
from mini_dpo.progress import interrupt, on_signals
from mini_dpo.saving.checkpoint import new_run, versions
from mini_dpo.tokenizer import Tokenizer
from mini_dpo.train.closing import measure, measured, report
from mini_dpo.train.parsing import code_of, config_of, read_config, refuse_unnamed
from mini_dpo.train.preparing import input_digests, prepare
from mini_dpo.train.problems import loss_problems
from mini_dpo.train.settings import Settings
from mini_dpo.train.stages import adopt, run_preferences, run_sft


def start(settings: Settings, held_out: HeldOut | None = None) -> None:
    """Begin a run, or go on with one.
    held_out: what to measure on, in place of the held-out part of the corpus.
    Raises UserError for wrong input, TrainingFailed if memory is used up or the loss is not finite.
    """
    keep_freed_memory()
    join_processes()
    # on a GPU, for products that are not in bfloat16
    torch.backends.cuda.matmul.allow_tf32 = True
    begun: Settings | None = None
    if settings.resume:
        folder, named = Path(settings.resume), settings
        begun = together(lambda: unchanged_settings(folder, named))
        if measured(folder):
            report(folder, begun)
            return
        settings = replace(
            begun, checkpoint_activations=begun.checkpoint_activations or settings.checkpoint_activations
        )
    # errors in the input are found before a folder is made
    settings, tokenizer, model, corpus = together(lambda: prepare(settings))
    if not begun:
        settings = replace(settings, id=of_the_first(secrets.token_hex(8)))
        out = Path(settings.out) if settings.out else None
        config = config_of(settings, input_digests(settings), out or Path("runs/new"))
        folder = of_the_first(together(lambda: new_run(out, config) if rank() == 0 else Path()))
    try:
        # while it trains, the loop has a handler of its own, which ends the step first
        with on_signals(interrupt), calling(find_loss(settings.loss)), ExitStack() as alone:
            together(lambda: alone.enter_context(locked(folder)) if rank() == 0 else None)
            run(
                settings, folder, tokenizer, model, replace(corpus, held_out=held_out) if held_out else corpus
            )
    except (KeyboardInterrupt, OSError):  # OSError: the reader of its output has gone, or the disk is full
        if rank() == 0:
            print(f"\nstopped; go on with: {resume_command(folder, settings)}", file=sys.stderr)
        raise
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise TrainingFailed(
            f"out of memory on {settings.device} ({one_line(error)}); {what_needs_less(settings, folder)}"
        ) from error
    finally:
        leave_processes()


def run(settings: Settings, folder: Path, tokenizer: Tokenizer, model: GPT, corpus: Corpus) -> None:
    """Run the stages that are not finished, then measure. `folder` keeps all results."""
    shared = f", {processes()} processes" if processes() > 1 else ""
    print(
        f"run {folder}: {sum(p.numel() for p in model.parameters()):,} parameters on "
        f"{settings.device}{shared}, {settings.source}",
        flush=True,
    )
    own_gpu(settings.device)
    if lack := lacks(settings.device, settings.dtype):
        print(lack)
    model = model.to(settings.device)
    model.recompute = settings.checkpoint_activations
    if settings.compile:
        compile_blocks(model)
    if settings.goes_on:
        adopt(model, tokenizer, folder / "sft.pt", "sft" if settings.start == "SFT" else "dpo", settings.id)
        sft_seconds = 0.0
    else:
        sft_seconds = run_sft(settings, folder, tokenizer, model, corpus)
    policy, seconds = (
        (None, 0.0)
        if settings.stage == "sft"
        else run_preferences(settings, folder, tokenizer, model, corpus)
    )
    first = rank() == 0
    wait_for_all()
    leave_processes()
    if first:
        measure(settings, folder, tokenizer, policy, corpus, sft_seconds, seconds)


def unchanged_settings(folder: Path, named: Settings) -> Settings:
    """The settings of a run that is resumed. Raises UserError if there is no run, or if one of its files has
    changed.

    named: the command line. Files with code (of a loss, a world, a judge) must be named there again.
    """
    settings, digests = read_config(folder)
    for path, digest in fingerprints([Path(path) for path in digests]).items():
        if digest != digests[path]:
            raise UserError(f"{path} has changed since {folder} was begun; put it back, or start a new run")
    if trouble := trouble_with(settings.device):
        raise UserError(f"{folder} was begun on {settings.device}, and here: {trouble}")
    if measured(folder):
        return settings
    if note := torch_note(folder):
        print(note)
    refuse_unnamed(settings, named, folder, resume_command(folder, settings))
    for problem in loss_problems(settings, find_loss(settings.loss)):
        raise UserError(f"{folder / 'config.json'}: {problem}")
    if (folder / "dpo.pt").exists() and not (folder / "sft.pt").exists():
        raise UserError(
            f"{folder}: sft.pt is missing, from which dpo.pt was trained; put it back, or start a new run"
        )
    return settings


def torch_note(folder: Path) -> str | None:
    """A line if the run was begun under another version of torch, else None. Old runs do not say."""
    kept = read_json(folder / "config.json").get("versions")
    begun, here = kept.get("torch") if isinstance(kept, dict) else None, versions()["torch"]
    if begun in (None, here):
        return None
    return f"begun with torch {str(begun)[:40]}, goes on with torch {here}: the last digits may differ"


def resume_command(folder: Path, settings: Settings) -> str:
    """The command that resumes a run."""
    again = "".join(f" {flag(name)} {code}" for name, code in code_of(settings).items())
    return f"python -m mini_dpo.train --resume {folder}{again}"


def what_needs_less(settings: Settings, folder: Path) -> str:
    """What to do if memory is used up. A resumed run keeps its batches, so a smaller batch needs a
    new run.
    """
    name = "tokens_per_batch" if settings.tokens_per_batch else "batch_size"
    again = f"start again with a smaller {flag(name)} than {getattr(settings, name)}, or a smaller --context"
    if settings.checkpoint_activations:
        return f"go on with --resume {folder} when there is more, or {again}"
    return f"go on with --resume {folder} --checkpoint-activations, which needs less in training, or {again}"
