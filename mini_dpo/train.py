"""The main command: SFT, then preference training from it, then both measured on held-out prompts.

    python -m mini_dpo.train                        the toy shop, from nothing
    python -m mini_dpo.train --data mine.jsonl      your own preferences
    python -m mini_dpo.train --help
"""

from __future__ import annotations

import json
import math
import secrets
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch

from mini_dpo.batches import Batches, collate, collate_feedback, collate_pairs
from mini_dpo.checkpoint import build_model, find_model, load_checkpoint, load_frozen, load_own, load_weights, new_run, save_checkpoint
from mini_dpo.cli import run_command
from mini_dpo.corpus import TOY_PREFERENCES, Corpus, HeldOut, at_most, describe_choice, files_of, fingerprints, fitted_context, in_single_responses, own_corpus, proposed_weights, read_own, toy_corpus
from mini_dpo.devices import join_processes, keep_freed_memory, lacks, leave_processes, of_the_first, one_line, out_of_memory, own_gpu, processes, rank, together, trouble_with, wait_for_all
from mini_dpo.errors import TrainingFailed, UserError, expecting
from mini_dpo.evaluate import How, answer_length, evaluate, heading, side_by_side, table
from mini_dpo.files import locked, read_json, read_unchanged, write_json, write_jsonl
from mini_dpo.losses import Loss, find_loss
from mini_dpo.losses.finding import calling
from mini_dpo.losses.registry import shown
from mini_dpo.model import GPT, PRESETS
from mini_dpo.objectives import preference_objective, sft_objective
from mini_dpo.optimizers import LoopConfig
from mini_dpo.reference import cached_reference, freeze, precompute_reference
from mini_dpo.settings import WIDE, Settings, default_lr, loss_problems, model_config, parse, read_config
from mini_dpo.tokenizer import Tokenizer, default_vocabulary, load_tokenizer
from mini_dpo.training import StageFiles, clock, interrupt, on_signals, train


def main() -> None:
    join_processes()
    start(together(parse))


def start(settings: Settings, held_out: HeldOut | None = None) -> None:
    """Begin a run, or go on with one. held_out: what to measure on in place of the corpus's own."""
    keep_freed_memory()
    join_processes()
    torch.backends.cuda.matmul.allow_tf32 = True  # on a GPU, for what is not in bfloat16; a CPU keeps to float32
    folder = Path(settings.resume) if settings.resume else None
    if folder:
        begun = together(lambda: unchanged_settings(folder, settings.loss))
        if measured(folder):
            report(folder, begun)
            return
        settings = replace(begun, checkpoint_activations=begun.checkpoint_activations or settings.checkpoint_activations)
    settings, tokenizer, model, corpus = together(lambda: prepare(settings))  # whatever is wrong with the input shows before a folder is made
    if not folder:
        settings = replace(settings, id=of_the_first(secrets.token_hex(8)))
        config = {"settings": asdict(settings), "sha256": input_digests(settings)}
        folder = of_the_first(together(lambda: new_run(Path(settings.out) if settings.out else None, config) if rank() == 0 else None))
    try:
        with on_signals(interrupt), calling(find_loss(settings.loss)), ExitStack() as alone:  # but while it trains: the loop ends its step first
            together(lambda: alone.enter_context(locked(folder)) if rank() == 0 else None)
            run(settings, folder, tokenizer, model, replace(corpus, held_out=held_out) if held_out else corpus)
    except (KeyboardInterrupt, OSError):  # OSError: nobody reads what it prints, or there is no room for it
        if rank() == 0:
            print(f"\nstopped; go on with: {resume_command(folder, settings)}", file=sys.stderr)
        raise
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise TrainingFailed(f"out of memory on {settings.device} ({one_line(error)}); {what_needs_less(settings, folder)}") from error
    finally:
        leave_processes()


def resume_command(folder: Path, settings: Settings) -> str:
    """What to type to go on with a run."""
    again = f" --loss {settings.loss}" if ".py:" in settings.loss else ""
    return f"python -m mini_dpo.train --resume {folder}{again}"


def what_needs_less(settings: Settings, folder: Path) -> str:
    """How to get on where memory is used up. A resumed run is the one that was begun, so its batches stay as they are."""
    less = f"a smaller --tokens-per-batch than {settings.tokens_per_batch}" if settings.tokens_per_batch else f"a smaller --batch-size than {settings.batch_size}"
    if settings.checkpoint_activations:
        return f"go on with --resume {folder} when there is more, or start again with {less}, or a smaller --context"
    return f"go on with --resume {folder} --checkpoint-activations, which needs less in training, or start again with {less}, or a smaller --context"


def input_digests(settings: Settings) -> dict[str, str]:
    """The SHA-256 of every file that a run with these settings reads: data, model, loss."""
    inputs = files_of(settings.data, settings.sft_data, settings.held_out)
    if settings.init_from:
        inputs.append(find_model(Path(settings.init_from)))
    if settings.reference:
        inputs.append(find_model(Path(settings.reference)))
    if ".py:" in settings.loss:
        inputs.append(Path(settings.loss.rsplit(":", 1)[0]))
    return fingerprints(inputs)


def unchanged_settings(folder: Path, loss: str) -> Settings:
    """The settings a run was begun with. Raises UserError where it is no run, or its input is not what it was.

    loss: the one on the command line. A run's folder may come from anybody, and to go on with it would run the loss's
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
    if ".py:" in settings.loss and loss != settings.loss:
        raise UserError(f"{folder} trains with the loss {settings.loss}, and to go on runs that file; if you know it: {resume_command(folder, settings)}")
    for problem in loss_problems(settings, find_loss(settings.loss)):
        raise UserError(f"{folder / 'config.json'}: {problem}")
    if (folder / "dpo.pt").exists() and not (folder / "sft.pt").exists():
        raise UserError(f"{folder}: sft.pt is missing, from which dpo.pt was trained; put it back, or start a new run")
    return settings


def prepare(settings: Settings) -> tuple[Settings, Tokenizer, GPT, Corpus]:
    """The settings with what depends on the data filled in, the tokenizer, the model before the first step, the data."""
    model, chosen = None, []
    if settings.init_from:
        saved = load_finished(Path(settings.init_from))
        model, tokenizer = build_model(find_model(Path(settings.init_from)), saved, dropout=settings.dropout)
        if settings.stage == "dpo" and saved.get("stage") == "dpo":
            settings = replace(settings, start="START")
    else:
        chosen = [name for name in ("tokenizer", "context") if getattr(settings, name) is None]
        settings = replace(settings, tokenizer=settings.tokenizer or default_vocabulary())
        tokenizer = load_tokenizer(settings.tokenizer)
    loss = find_loss(settings.loss)
    if settings.reference:
        reference = load_finished(Path(settings.reference))
        if (reference["tokenizer"], reference["config"].get("context")) != (tokenizer.name, model.config.context):
            raise UserError(f"{settings.reference}: the reference must have the tokenizer and the context of --init-from ({tokenizer.name}, {model.config.context} tokens), not {reference['tokenizer']}, {reference['config'].get('context')} tokens")  # fmt: skip
    paired, own = settings.stage == "sft" or loss.paired, None
    if settings.data or settings.sft_data:
        own = read_own(settings.data, settings.sft_data, tokenizer, paired, settings.skip_bad, settings.held_out)
        if chosen and settings.model == "toy":
            settings = replace(settings, context=settings.context or fitted_context(own, PRESETS["toy"].context))
            print(describe_choice(own, tokenizer, settings.context, chosen))
    if model is None:
        torch.manual_seed(settings.seed)
        model = GPT(model_config(settings, tokenizer.vocab_size))
    corpus = at_most(own_corpus(own, model.config.context) if own else toy_corpus(tokenizer, model.config.context), settings.eval_examples)
    if not paired:
        corpus = in_single_responses(corpus, settings.data or "the toy shop")
    if "desirable_weight" in settings.loss_options and settings.stage != "sft" and (proposal := proposed_weights(corpus.preferences, settings.loss_options["desirable_weight"], settings.loss_options["undesirable_weight"])):  # fmt: skip
        print(proposal)
    if settings.stage != "dpo" and not corpus.responses:
        raise UserError(f"{settings.data}: no liked response for SFT to imitate; give --sft-data, or start from a model that can talk: --stage dpo --init-from")
    check_room(settings, corpus, loss)
    if settings.stage != "sft" and loss.facts["mismatched"] and not preference_batches(settings, loss, model, corpus.preferences).can_be_mixed():
        raise UserError(f"{settings.data}: {settings.loss} sets the prompts of a batch against each other's responses, and there are too few different prompts to train on; use a larger --batch-size or another loss")  # fmt: skip
    return settings, tokenizer, model, corpus


def load_finished(path: Path) -> dict:
    """The checkpoint that a path means. Raises UserError where its training is not finished."""
    file = find_model(path)
    saved = load_checkpoint(file)
    if saved.get("finished") is False:
        raise UserError(f"{file}: its training is not finished; go on with that run first: --resume {file.parent}")
    return saved


def check_room(settings: Settings, corpus: Corpus, loss: Loss) -> None:
    """Raise UserError if an example (three of them, where a loss sets prompts against each other's responses: of any
    smaller number that fill a batch, none could be spared for one left alone) takes more than a batch's tokens."""
    if settings.tokens_per_batch:
        used = {"sft": (corpus.responses, corpus.valid_responses), "dpo": (corpus.preferences, corpus.valid_preferences)}
        longest = [(1 + 2 * (stage == "dpo" and loss.facts["mismatched"])) * max((e.n_tokens for es in used[stage] for e in es), default=0) for stage in used if settings.stage in (stage, "all")]  # fmt: skip
        if settings.tokens_per_batch < max(longest):
            raise UserError(f"--tokens-per-batch {settings.tokens_per_batch} does not hold the longest of the examples; give {max(longest)} or more")


def run(settings: Settings, folder: Path, tokenizer: Tokenizer, model: GPT, corpus: Corpus) -> None:
    """Run the stages, or what is left of them, and measure. Everything that is finished is in `folder`."""
    together = f", {processes()} processes" if processes() > 1 else ""
    print(f"run {folder}: {sum(p.numel() for p in model.parameters()):,} parameters on {settings.device}{together}, {settings.data or settings.sft_data or 'the toy shop'}", flush=True)
    own_gpu(settings.device)
    if lack := lacks(settings.device, settings.dtype):
        print(lack)
    model = model.to(settings.device)
    model.recompute = settings.checkpoint_activations
    if settings.compile:
        model.compile_blocks()
    if settings.stage == "dpo":
        adopt(model, tokenizer, folder / "sft.pt", "sft" if settings.start == "SFT" else "dpo", settings.id)
        sft_seconds = 0.0
    else:
        sft_seconds = run_sft(settings, folder, tokenizer, model, corpus)
    policy, seconds = (None, 0.0) if settings.stage == "sft" else run_preferences(settings, folder, tokenizer, model, corpus)
    first = rank() == 0
    wait_for_all()
    leave_processes()
    if first:
        measure(settings, folder, tokenizer, policy, corpus, sft_seconds, seconds)


def measure(settings: Settings, folder: Path, tokenizer: Tokenizer, policy: GPT | None, corpus: Corpus, sft_seconds: float, training_seconds: float) -> None:  # fmt: skip
    """Hold the result against the SFT model on held-out prompts; keep the table and the samples, part by part, and print
    both. The seconds of a stage, of all processes that worked on it, are what `train` returns."""
    sft = load_frozen(folder / "sft.pt", settings.device)
    reference = load_frozen(find_model(Path(settings.reference)), settings.device) if settings.reference else sft
    if not corpus.held_out.prompts:
        print("nothing is held out (all prompts are the same, or what is held out does not fit), so nothing is measured")
        return
    most = settings.max_new_tokens or answer_length(corpus.held_out, sft.config.context)
    print(f"measuring on held-out prompts, with answers of {most} tokens at most ...", flush=True)
    path, started = folder / "summary.json", time.perf_counter()
    last = load_checkpoint(folder / ("sft.pt" if policy is None else "dpo.pt"))
    read_unchanged(folder / "metrics.jsonl", {"sha256": {"metrics.jsonl": last.get("log_sha256")}})
    before = read_json(path).get("seconds", 0.0) if path.exists() else sft_seconds + training_seconds  # there if measuring was stopped

    def keep(summary: dict, samples: list[dict], unfinished: bool = True) -> None:
        summary |= {"loss": settings.loss.rsplit(":", 1)[-1], "start": settings.start, "seconds": before + time.perf_counter() - started}
        if "dpo" in summary:
            summary["dpo"]["training_seconds"] = training_seconds
        digests = {"samples.jsonl": write_jsonl(folder / "samples.jsonl", samples), "metrics.jsonl": last["log_sha256"]}
        write_json(path, {**summary, "id": settings.id, "sha256": digests, **({"unfinished": True} if unfinished else {})})

    loss = find_loss(settings.loss)
    keep(*evaluate(sft, policy, loss, settings.loss_options, tokenizer, corpus.held_out, settings.seed, scoring(settings), reference, most, keep), unfinished=False)
    report(folder, settings)


def measured(folder: Path) -> dict | None:
    """The closing table of a run, None where its measuring is not finished."""
    path = folder / "summary.json"
    summary = read_json(path) if path.exists() else {"unfinished": True}
    return None if summary.get("unfinished") else summary


def report(folder: Path, settings: Settings) -> None:
    """Print some samples of a finished run, and its table."""
    summary = measured(folder)
    if summary.get("id") != settings.id:
        raise UserError(f"{folder / 'summary.json'}: from another run than config.json beside it")
    lines = read_unchanged(folder / "samples.jsonl", summary).splitlines()
    with expecting(folder / "summary.json", "the table of a run"):
        samples = [json.loads(line) for line in lines[:3]]
        print("", side_by_side(samples, settings.start, heading(settings.loss)), "", table(summary), "", sep="\n")
        print(f"{clock(summary['seconds'])} in all; talk to it: python -m mini_dpo.sample {folder}")


def adopt(model: GPT, tokenizer: Tokenizer, path: Path, stage: str, run: str) -> None:
    """Keep the starting model with the run of that id, as the SFT stage would have left it. stage: the one that made it."""
    if path.exists():
        load_own(path, run)
    elif rank() == 0:
        save_checkpoint(path, model, tokenizer.name, step=0, finished=True, stage=stage, run=run)
    wait_for_all()


def run_sft(settings: Settings, folder: Path, tokenizer: Tokenizer, model: GPT, corpus: Corpus) -> float:
    """Teach the model to talk; the result is `sft.pt`. Returns the seconds that took."""
    batches, valid = (Batches(e, collate, settings.batch_size, settings.seed, settings.tokens_per_batch) for e in (corpus.responses, corpus.valid_responses))
    lr = settings.sft_lr or default_lr("sft", model.config.n_embd)
    optimizer = settings.optimizer or ("muon" if settings.toy_shop and model.config.n_embd < WIDE else "adamw")
    config = loop_config(settings, batches, lr, settings.sft_steps, settings.sft_epochs, optimizer, weight_decay=0.1)
    files = StageFiles("sft", folder, tokenizer.name, run=settings.id)
    return train(model, sft_objective, batches, config, files, valid if corpus.valid_responses else None)


def run_preferences(settings: Settings, folder: Path, tokenizer: Tokenizer, policy: GPT, corpus: Corpus) -> tuple[GPT, float]:
    """Teach the SFT model, `policy`, to be liked; the result is `dpo.pt`, and returned, with the seconds that took. The
    reference is there only if asked, and only as long."""
    loss, files = find_loss(settings.loss), StageFiles("dpo", folder, tokenizer.name, run=settings.id)
    if files.checkpoint.exists() and (saved := load_own(files.checkpoint, settings.id))["finished"]:
        load_weights(files.checkpoint, policy, saved["model"])
        return policy.eval(), saved.get("seconds", 0.0)
    batches = preference_batches(settings, loss, policy, corpus.preferences)
    lr = settings.lr or default_lr("dpo on the toy shop" if settings.toy_shop else "dpo", policy.config.n_embd)
    config = loop_config(settings, batches, lr, settings.steps, settings.epochs, settings.optimizer or "adamw", weight_decay=0.0)
    passes = config.steps * config.accumulate / batches.count(1)
    examples, reference = reference_for(settings, loss, policy, corpus.preferences + corpus.valid_preferences, tokenizer, passes)
    n = len(corpus.preferences)
    batches, valid = (preference_batches(settings, loss, policy, these) for these in (examples[:n], examples[n:]))
    watch = valid.can_be_mixed() if loss.facts["mismatched"] else bool(valid.examples)
    objective = preference_objective(loss, settings.loss_options, reference, settings.sft_weight)
    options = {**settings.loss_options, **({"sft_weight": settings.sft_weight} if settings.sft_weight else {})}
    print("  ".join([loss.name, *(f"{name} {shown(value)}" for name, value in options.items())]), flush=True)
    if settings.accumulate > 1 and not loss.fact("decomposes", **settings.loss_options):
        size = f"{settings.batch_size or settings.tokens_per_batch} {'examples' if settings.batch_size else 'tokens'}"
        print(f"{loss.name} looks at a batch as a whole: {settings.accumulate} accumulated batches of {size} are not one that is {settings.accumulate} times as large")
    seconds = train(policy, objective, batches, config, files, valid if watch else None)
    return policy.eval(), seconds


def preference_batches(settings: Settings, loss: Loss, model: GPT, examples: list) -> Batches:
    """The examples in batches as the loss wants them."""
    mismatched = loss.facts["mismatched"]
    collate_them = collate_pairs if loss.paired else partial(collate_feedback, context=model.config.context if mismatched else None)
    return Batches(examples, collate_them, settings.batch_size, settings.seed, settings.tokens_per_batch, mixed=mismatched)


def reference_for(settings: Settings, loss: Loss, policy: GPT, examples: list, tokenizer: Tokenizer, passes: float) -> tuple[list, GPT | None]:
    """(the examples, the reference to score them with in every step). If they are looked at more than once, or the
    reference's log-probs are to be kept, they get these now, and no reference stays in memory."""
    if not loss.reference:
        return examples, None
    reference = load_frozen(find_model(Path(settings.reference)), settings.device) if settings.reference else freeze(policy)
    how = scoring(settings)
    if settings.precompute_ref:
        return cached_reference(reference, examples, Path(settings.data) if settings.data else TOY_PREFERENCES["train"], tokenizer.name, *how), None
    if passes < 1 or loss.facts["mismatched"]:  # mismatched responses are new in every pass
        return examples, reference
    print("scoring the reference, once for all passes over the data ...", flush=True)
    return precompute_reference(reference, examples, *how), None


def scoring(settings: Settings) -> How:
    """How examples are scored without a gradient: as they are trained on."""
    return How(settings.dtype, settings.batch_size, settings.tokens_per_batch)


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


if __name__ == "__main__":
    run_command(main)
