"""The main command: SFT, then preference training from it, then both measured on held-out prompts.

    python -m mini_dpo.train                        the toy shop, from nothing
    python -m mini_dpo.train --data mine.jsonl      your own preferences
    python -m mini_dpo.train --help
"""

from __future__ import annotations

import math
import sys
import textwrap
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch

from mini_dpo.checkpoint import build_model, find_model, load_checkpoint, load_model, new_run, read_json, save_checkpoint, write_json, write_jsonl
from mini_dpo.cli import run_command
from mini_dpo.corpus import TOY_PREFERENCES, Corpus, HeldOut, files_of, fingerprints, load_corpus
from mini_dpo.data import Batches, collate, collate_feedback, collate_pairs
from mini_dpo.dpo import freeze, precompute_reference, preference_objective
from mini_dpo.errors import UserError
from mini_dpo.evaluate import evaluate, heading, table
from mini_dpo.losses import find_loss
from mini_dpo.memory import keep_freed_memory
from mini_dpo.model import GPT
from mini_dpo.parallel import join_processes, leave_processes, of_the_first, processes, rank, wait_for_all
from mini_dpo.ref_cache import cached_reference
from mini_dpo.registry import Loss, shown
from mini_dpo.settings import WIDE, Settings, available, default_lr, model_config, parse
from mini_dpo.sft import sft_objective
from mini_dpo.tokenizer import Tokenizer, load_tokenizer
from mini_dpo.training import LoopConfig, StageFiles, clock, train


def main() -> None:
    start(parse())


def start(settings: Settings, held_out: HeldOut | None = None) -> None:
    """Begin a run, or go on with one. held_out: what to measure on in place of the corpus's own."""
    keep_freed_memory()
    join_processes()
    torch.backends.cuda.matmul.allow_tf32 = True  # on a GPU, for what is not in bfloat16; a CPU keeps to float32
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
        folder = of_the_first(new_run(Path(settings.out) if settings.out else None, config) if rank() == 0 else None)
    try:
        run(settings, folder, tokenizer, model, replace(corpus, held_out=held_out) if held_out else corpus)
    except KeyboardInterrupt:
        if rank() == 0:
            print(f"\nstopped; go on with: python -m mini_dpo.train --resume {folder}", file=sys.stderr)
        raise
    finally:
        leave_processes()


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
    check_room(settings, corpus, loss)
    return tokenizer, model, corpus


def check_room(settings: Settings, corpus: Corpus, loss: Loss) -> None:
    """Raise UserError if an example (two of them, where a loss sets one against another) takes more than a batch's tokens."""
    if settings.tokens_per_batch:
        used = {"sft": (corpus.responses, corpus.valid_responses), "dpo": (corpus.preferences, corpus.valid_preferences)}
        longest = [(1 + (stage == "dpo" and loss.facts["mismatched"])) * max((e.n_tokens for es in used[stage] for e in es), default=0) for stage in used if settings.stage in (stage, "all")]  # fmt: skip
        if settings.tokens_per_batch < max(longest):
            raise UserError(f"--tokens-per-batch {settings.tokens_per_batch} does not hold the longest of the examples; give {max(longest)} or more")


def run(settings: Settings, folder: Path, tokenizer: Tokenizer, model: GPT, corpus: Corpus) -> None:
    """Run the stages, or what is left of them, and measure. Everything that is finished is in `folder`."""
    started = time.perf_counter()
    together = f", {processes()} processes" if processes() > 1 else ""
    print(f"run {folder}: {sum(p.numel() for p in model.parameters()):,} parameters on {settings.device}{together}, {settings.data or settings.sft_data or 'the toy shop'}", flush=True)
    model = model.to(settings.device)
    model.recompute = settings.checkpoint_activations
    if settings.compile:
        model.compile_blocks()
    if settings.stage == "dpo":
        adopt(model, tokenizer, folder / "sft.pt")
    else:
        run_sft(settings, folder, tokenizer, model, corpus)
    preferences_started = time.perf_counter()
    policy = None if settings.stage == "sft" else run_preferences(settings, folder, tokenizer, model, corpus)
    training_seconds = time.perf_counter() - preferences_started
    first = rank() == 0
    leave_processes()
    if first:
        measure(settings, folder, tokenizer, policy, corpus, started, training_seconds)


def measure(settings: Settings, folder: Path, tokenizer: Tokenizer, policy: GPT | None, corpus: Corpus, started: float, training_seconds: float) -> None:  # fmt: skip
    """Hold the result against the SFT model on held-out prompts; print the table and some samples, and keep both."""
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
    if not path.exists() and rank() == 0:
        save_checkpoint(path, model, tokenizer.name, step=0, finished=True, log_length=0)
    wait_for_all()


def run_sft(settings: Settings, folder: Path, tokenizer: Tokenizer, model: GPT, corpus: Corpus) -> None:
    """Teach the model to talk; the result is `sft.pt`."""
    batches, valid = (Batches(e, collate, settings.batch_size, settings.seed, settings.tokens_per_batch) for e in (corpus.responses, corpus.valid_responses))
    lr = settings.sft_lr or default_lr("sft", model.config.n_embd)
    optimizer = settings.optimizer or ("muon" if settings.toy_shop and model.config.n_embd < WIDE else "adamw")
    config = loop_config(settings, batches, lr, settings.sft_steps, settings.sft_epochs, optimizer, weight_decay=0.1)
    files = StageFiles("sft", folder, tokenizer.name)
    train(model, sft_objective, batches, config, files, valid if corpus.valid_responses else None)


def load_sft(folder: Path, device: str) -> GPT:
    """The SFT model of a run: the policy before its first step, and the reference."""
    model, _ = load_model(folder / "sft.pt", dropout=0.0)
    return model.to(device).eval().requires_grad_(False)


def run_preferences(settings: Settings, folder: Path, tokenizer: Tokenizer, policy: GPT, corpus: Corpus) -> GPT:
    """Teach the SFT model, `policy`, to be liked; the result is `dpo.pt`, and returned. The reference is there only if
    asked, and only as long."""
    loss = find_loss(settings.loss)
    context = policy.config.context if loss.facts["mismatched"] else None
    collate_them = collate_pairs if loss.paired else partial(collate_feedback, context=context)
    batches_of = lambda examples: Batches(examples, collate_them, settings.batch_size, settings.seed, settings.tokens_per_batch)  # noqa: E731
    batches = batches_of(corpus.preferences)
    lr = settings.lr or default_lr("dpo on the toy shop" if settings.toy_shop else "dpo", policy.config.n_embd)
    config = loop_config(settings, batches, lr, settings.steps, settings.epochs, settings.optimizer or "adamw", weight_decay=0.0)
    passes = config.steps * config.accumulate / batches.count(1)
    examples, reference = reference_for(settings, loss, policy, corpus.preferences + corpus.valid_preferences, tokenizer, passes)
    n = len(corpus.preferences)
    batches, valid = batches_of(examples[:n]), batches_of(examples[n:])
    objective = preference_objective(loss, settings.loss_options, reference, settings.sft_weight)
    options = {**settings.loss_options, **({"sft_weight": settings.sft_weight} if settings.sft_weight else {})}
    print("  ".join([loss.name, *(f"{name} {shown(value)}" for name, value in options.items())]), flush=True)
    if settings.accumulate > 1 and not loss.fact("decomposes", **settings.loss_options):
        size = f"{settings.batch_size or settings.tokens_per_batch} {'examples' if settings.batch_size else 'tokens'}"
        print(f"{loss.name} looks at a batch as a whole: {settings.accumulate} accumulated batches of {size} are not one that is {settings.accumulate} times as large")
    train(policy, objective, batches, config, StageFiles("dpo", folder, tokenizer.name), valid if len(valid.examples) > (context is not None) else None)
    return policy.eval()


def reference_for(settings: Settings, loss: Loss, policy: GPT, examples: list, tokenizer: Tokenizer, passes: float) -> tuple[list, GPT | None]:
    """(the examples, the reference to score them with in every step). If they are looked at more than once, or the
    reference's log-probs are to be kept, they get these now, and no reference stays in memory."""
    if not loss.reference:
        return examples, None
    reference = freeze(policy)
    how = settings.dtype, settings.batch_size, settings.tokens_per_batch
    if settings.precompute_ref:
        return cached_reference(reference, examples, Path(settings.data) if settings.data else TOY_PREFERENCES["train"], tokenizer.name, *how), None
    if passes < 1 or loss.facts["mismatched"]:  # mismatched responses are new in every pass
        return examples, reference
    print("scoring the reference, once for all passes over the data ...", flush=True)
    return precompute_reference(reference, examples, *how), None


def loop_config(settings: Settings, batches: Batches, lr: float, steps: int | None, epochs: float | None, optimizer: str, weight_decay: float) -> LoopConfig:  # fmt: skip
    """A stage's settings for the loop."""
    steps = steps or max(1, math.ceil(batches.count(epochs) / settings.accumulate))
    return LoopConfig(
        steps=steps,
        lr=lr,
        warmup=steps // 10,
        accumulate=settings.accumulate,
        optimizer=optimizer,
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


if __name__ == "__main__":
    run_command(main)
