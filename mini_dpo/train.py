"""The main command: SFT, then preference training from it, then both measured on held-out prompts.

    python -m mini_dpo.train                        the toy shop, from nothing
    python -m mini_dpo.train --data mine.jsonl      your own preferences
    python -m mini_dpo.train --help
"""

from __future__ import annotations

import ctypes
import sys
import textwrap
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch

from mini_dpo.checkpoint import build_model, find_model, load_checkpoint, load_model, new_run, read_json, save_checkpoint, write_json, write_jsonl
from mini_dpo.cli import run_command
from mini_dpo.corpus import Corpus, HeldOut, files_of, fingerprints, load_corpus
from mini_dpo.data import Batches, collate, collate_feedback, collate_pairs
from mini_dpo.dpo import freeze, precompute_reference, preference_objective
from mini_dpo.errors import UserError
from mini_dpo.evaluate import evaluate, heading, table
from mini_dpo.losses import find_loss
from mini_dpo.model import GPT
from mini_dpo.registry import shown
from mini_dpo.settings import Settings, available, default_lr, model_config, parse
from mini_dpo.sft import sft_objective
from mini_dpo.tokenizer import Tokenizer, load_tokenizer
from mini_dpo.training import LoopConfig, StageFiles, clock, train


def main() -> None:
    start(parse())


def start(settings: Settings, held_out: HeldOut | None = None) -> None:
    """Begin a run, or go on with one. held_out: what to measure on in place of the corpus's own."""
    keep_freed_memory()
    if settings.resume:
        folder = Path(settings.resume)
        settings = unchanged_settings(folder)
        tokenizer, model, corpus = prepare(settings)
    else:
        tokenizer, model, corpus = prepare(settings)  # whatever is wrong with the input shows before a folder is made
        inputs = files_of(settings.data, settings.sft_data)
        if settings.init_from:
            inputs.append(find_model(Path(settings.init_from)))
        if ".py:" in settings.loss:
            inputs.append(Path(settings.loss.rsplit(":", 1)[0]))
        config = {"settings": asdict(settings), "sha256": fingerprints(inputs)}
        folder = new_run(Path(settings.out) if settings.out else None, config)
    try:
        run(settings, folder, tokenizer, model, replace(corpus, held_out=held_out) if held_out else corpus)
    except KeyboardInterrupt:
        print(f"\nstopped; go on with: python -m mini_dpo.train --resume {folder}", file=sys.stderr)
        raise


def unchanged_settings(folder: Path) -> Settings:
    """The settings a run was begun with. Raises UserError where it is no run, or its input is not what it was."""
    config = read_json(folder / "config.json")
    try:
        settings, digests = Settings(**config["settings"]), dict(config["sha256"])
    except (TypeError, KeyError) as error:
        raise UserError(f"{folder / 'config.json'}: not from this version of mini_dpo; start a new run") from error
    for path, digest in fingerprints([Path(path) for path in digests]).items():
        if digest != digests[path]:
            raise UserError(f"{path} has changed since {folder} was begun; put it back, or start a new run")
    if not available(settings.device):
        raise UserError(f"{folder} was begun on {settings.device}, and this machine, or this build of torch, has none")
    return settings


def prepare(settings: Settings) -> tuple[Tokenizer, GPT, Corpus]:
    """The tokenizer, the model before the first step, and the data."""
    if settings.init_from:
        start_from = find_model(Path(settings.init_from))
        saved = load_checkpoint(start_from)
        if saved.get("finished") is False:
            raise UserError(f"{start_from}: its training is not finished; go on with that run first: --resume {start_from.parent}")
        model, tokenizer_name = build_model(start_from, saved, dropout=settings.dropout)
        tokenizer = load_tokenizer(tokenizer_name)
    else:
        tokenizer = load_tokenizer(settings.tokenizer)
        torch.manual_seed(settings.seed)
        model = GPT(model_config(settings, tokenizer.vocab_size))
    loss = find_loss(settings.loss)
    corpus = load_corpus(settings.data, settings.sft_data, tokenizer, model.config.context, settings.stage == "sft" or loss.paired)
    if settings.stage != "dpo" and not corpus.responses:
        raise UserError(f"{settings.data}: no liked response for SFT to imitate; give --sft-data, or start from a model that can talk: --stage dpo --init-from")
    if settings.stage != "sft" and loss.facts["mismatched"] and len(corpus.preferences) < 2:
        raise UserError(f"{settings.data}: {settings.loss} needs at least two examples to train on, to set prompts against each other's responses")
    return tokenizer, model, corpus


def run(settings: Settings, folder: Path, tokenizer: Tokenizer, model: GPT, corpus: Corpus) -> None:
    """Run the stages, or what is left of them, and measure. Everything that is finished is in `folder`."""
    started = time.perf_counter()
    print(f"run {folder}: {sum(p.numel() for p in model.parameters()):,} parameters on {settings.device}, {settings.data or settings.sft_data or 'the toy shop'}", flush=True)
    if settings.stage == "dpo":
        adopt(model, tokenizer, folder / "sft.pt")
    else:
        run_sft(settings, folder, tokenizer, model, corpus)
    preferences_started = time.perf_counter()
    policy = None if settings.stage == "sft" else run_preferences(settings, folder, tokenizer, corpus)
    training_seconds = time.perf_counter() - preferences_started
    sft = load_sft(folder, settings.device)
    if not corpus.held_out.prompts:
        print("nothing is held out (all prompts are the same), so nothing is measured")
        return
    print("measuring on held-out prompts ...", flush=True)
    summary, samples = evaluate(sft, policy, tokenizer, corpus.held_out, settings.seed, settings.dtype)
    summary |= {"loss": settings.loss.rsplit(":", 1)[-1], "seconds": time.perf_counter() - started}
    if policy is not None:
        summary["dpo"]["training_seconds"] = training_seconds
    write_jsonl(folder / "samples.jsonl", samples)
    write_json(folder / "summary.json", summary)
    print("", side_by_side(samples[:3], heading(settings.loss)), "", table(summary), "", sep="\n")
    print(f"{clock(summary['seconds'])} in all; talk to it: python -m mini_dpo.sample {folder}")


def adopt(model: GPT, tokenizer: Tokenizer, path: Path) -> None:
    """Keep the starting model with the run, as the SFT stage would have left it."""
    if not path.exists():
        save_checkpoint(path, model, tokenizer.name, step=0, finished=True, log_length=0)


def run_sft(settings: Settings, folder: Path, tokenizer: Tokenizer, model: GPT, corpus: Corpus) -> None:
    """Teach the model to talk; the result is `sft.pt`."""
    batches = Batches(corpus.responses, collate, settings.batch_size, settings.seed)
    valid = Batches(corpus.valid_responses, collate, settings.batch_size, settings.seed)
    lr = settings.sft_lr or default_lr("sft", model.config.n_embd)
    config = loop_config(settings, batches, lr, settings.sft_steps, settings.sft_epochs, weight_decay=0.1)
    files = StageFiles("sft", folder, tokenizer.name)
    train(model.to(settings.device), sft_objective, batches, config, files, valid if corpus.valid_responses else None)


def load_sft(folder: Path, device: str) -> GPT:
    """The SFT model of a run: the policy before its first step, and the reference."""
    model, _ = load_model(folder / "sft.pt", dropout=0.0)
    return model.to(device).eval().requires_grad_(False)


def run_preferences(settings: Settings, folder: Path, tokenizer: Tokenizer, corpus: Corpus) -> GPT:
    """Teach the SFT model to be liked; the result is `dpo.pt`, and returned. The reference is there only if asked."""
    loss = find_loss(settings.loss)
    policy = load_sft(folder, settings.device).requires_grad_(True)
    reference = freeze(policy) if loss.reference else None
    examples, valid_examples = corpus.preferences, corpus.valid_preferences
    if settings.precompute_ref:
        print("scoring the reference ...", flush=True)
        examples, valid_examples = (precompute_reference(reference, e, settings.batch_size, settings.dtype) for e in (examples, valid_examples))
        reference = None
    context = policy.config.context if loss.facts["mismatched"] else None
    collate_them = collate_pairs if loss.paired else partial(collate_feedback, context=context)
    batches = Batches(examples, collate_them, settings.batch_size, settings.seed)
    valid = Batches(valid_examples, collate_them, settings.batch_size, settings.seed)
    lr = settings.lr or default_lr("dpo", policy.config.n_embd)
    config = loop_config(settings, batches, lr, settings.steps, settings.epochs, weight_decay=0.0)
    objective = preference_objective(loss, settings.loss_options, reference, settings.sft_weight)
    options = {**settings.loss_options, **({"sft_weight": settings.sft_weight} if settings.sft_weight else {})}
    print("  ".join([loss.name, *(f"{name} {shown(value)}" for name, value in options.items())]), flush=True)
    if settings.accumulate > 1 and not loss.fact("decomposes", **settings.loss_options):
        print(f"{loss.name} looks at a batch as a whole: {settings.accumulate} accumulated batches of {settings.batch_size} are not one of {settings.accumulate * settings.batch_size}")
    train(policy, objective, batches, config, StageFiles("dpo", folder, tokenizer.name), valid if len(valid_examples) > (context is not None) else None)
    return policy.eval()


def loop_config(settings: Settings, batches: Batches, lr: float, steps: int | None, epochs: float | None, weight_decay: float) -> LoopConfig:
    """A stage's settings for the loop."""
    steps = steps or max(1, round(epochs * batches.per_epoch / settings.accumulate))
    return LoopConfig(
        steps=steps,
        lr=lr,
        warmup=steps // 10,
        accumulate=settings.accumulate,
        weight_decay=weight_decay,
        dtype=settings.dtype,
        seed=settings.seed,
        eval_every=settings.eval_every or max(1, steps // 5),
        save_every=settings.save_every,
    )


def side_by_side(samples: list[dict], after_heading: str, width: int = 52) -> str:
    """Prompts with their answers before and after, in two columns."""
    blocks = []
    for sample in samples:
        before, after = (textwrap.wrap(sample.get(name, ""), width) or [""] for name in ("sft", "dpo"))
        height = max(len(before), len(after))
        columns = zip(["SFT", *before, *[""] * height], [after_heading if "dpo" in sample else "", *after, *[""] * height])
        lines = [f"  {left:{width}}   {right}".rstrip() for left, right in list(columns)[: height + 1]]
        blocks.append("\n".join([f"> {sample['prompt']}", *lines]))
    return "\n\n".join(blocks)


def keep_freed_memory() -> None:
    """Ask glibc to keep memory that torch frees for its next tensor, rather than hand it back to the system and fault
    every page in again: on CPU this is a third of a small model's step. Elsewhere it does nothing."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        m_trim_threshold, m_mmap_max = -1, -4  # from malloc.h
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)


if __name__ == "__main__":
    run_command(main)
