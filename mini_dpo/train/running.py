"""A run from its settings to its closing table, begun or resumed."""

from __future__ import annotations

import secrets
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch

from mini_dpo.corpus.splits import Corpus, HeldOut, fingerprints
from mini_dpo.devices import keep_freed_memory, lacks, one_line, out_of_memory, own_gpu, trouble_with
from mini_dpo.errors import TrainingFailed, UserError
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
from mini_dpo.train.parsing import config_of, read_config
from mini_dpo.train.preparing import input_digests, prepare
from mini_dpo.train.problems import loss_problems
from mini_dpo.train.settings import Settings
from mini_dpo.train.stages import adopt, run_preferences, run_sft


def start(settings: Settings, held_out: HeldOut | None = None) -> None:
    """Begin a run, or go on with one. held_out: what to measure on in place of the corpus's own."""
    keep_freed_memory()
    join_processes()
    # on a GPU, for what is not in bfloat16; a CPU keeps to float32
    torch.backends.cuda.matmul.allow_tf32 = True
    begun: Settings | None = None
    if settings.resume:
        folder, loss = Path(settings.resume), settings.loss
        begun = together(lambda: unchanged_settings(folder, loss))
        if measured(folder):
            report(folder, begun)
            return
        settings = replace(
            begun, checkpoint_activations=begun.checkpoint_activations or settings.checkpoint_activations
        )
    # whatever is wrong with the input shows before a folder is made
    settings, tokenizer, model, corpus = together(lambda: prepare(settings))
    if not begun:
        settings = replace(settings, id=of_the_first(secrets.token_hex(8)))
        out = Path(settings.out) if settings.out else None
        config = config_of(settings, input_digests(settings), out or Path("runs/new"))
        folder = of_the_first(together(lambda: new_run(out, config) if rank() == 0 else Path()))
    try:
        # but while it trains: the loop ends its step first
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
    """Run the stages, or what is left of them, and measure. Everything that is finished is in `folder`."""
    together = f", {processes()} processes" if processes() > 1 else ""
    print(
        f"run {folder}: {sum(p.numel() for p in model.parameters()):,} parameters on "
        f"{settings.device}{together}, {settings.data or settings.sft_data or 'the toy shop'}",
        flush=True,
    )
    own_gpu(settings.device)
    if lack := lacks(settings.device, settings.dtype):
        print(lack)
    model = model.to(settings.device)
    model.recompute = settings.checkpoint_activations
    if settings.compile:
        compile_blocks(model)
    if settings.stage == "dpo":
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


def unchanged_settings(folder: Path, loss: str) -> Settings:
    """The settings a run was begun with. Raises UserError where it is no run, or its input is not what it
    was.

    loss: the one on the command line. A run's folder may come from anybody, and to go on with it would run
        the loss's
    file: it has to be named again.
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
    if ".py:" in settings.loss and loss != settings.loss:
        raise UserError(
            f"{folder} trains with the loss {settings.loss}, and to go on runs that file; if "
            f"you know it: {resume_command(folder, settings)}"
        )
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
    """What to type to go on with a run."""
    again = f" --loss {settings.loss}" if ".py:" in settings.loss else ""
    return f"python -m mini_dpo.train --resume {folder}{again}"


def what_needs_less(settings: Settings, folder: Path) -> str:
    """How to get on where memory is used up. A resumed run is the one that was begun, so its batches stay as
    they are.
    """
    less = (
        f"a smaller --tokens-per-batch than {settings.tokens_per_batch}"
        if settings.tokens_per_batch
        else f"a smaller --batch-size than {settings.batch_size}"
    )
    if settings.checkpoint_activations:
        return (
            f"go on with --resume {folder} when there is more, or start again with {less}, "
            "or a smaller --context"
        )
    return (
        f"go on with --resume {folder} --checkpoint-activations, which needs less in "
        f"training, or start again with {less}, or a smaller --context"
    )
