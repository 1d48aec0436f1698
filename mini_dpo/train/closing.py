"""The end of a run: both models are measured on held-out prompts; the numbers are kept and printed."""

from __future__ import annotations

import json
import time
from pathlib import Path

from mini_dpo.corpus.parts import Corpus
from mini_dpo.errors import UserError, expecting
from mini_dpo.evaluation.measuring import answer_length, evaluate
from mini_dpo.evaluation.table import closing_table, heading, side_by_side
from mini_dpo.evaluation.words import token_scale, word_rewards
from mini_dpo.files import read_json, read_unchanged, write_json, write_jsonl
from mini_dpo.losses import find_loss
from mini_dpo.model import GPT
from mini_dpo.progress import clock
from mini_dpo.report.page import write_report
from mini_dpo.saving.checkpoint import find_model, load_checkpoint, load_frozen
from mini_dpo.tokenizer import Tokenizer
from mini_dpo.train.settings import Settings
from mini_dpo.train.stages import scoring


def measure(
    settings: Settings,
    folder: Path,
    tokenizer: Tokenizer,
    policy: GPT | None,
    corpus: Corpus,
    sft_seconds: float,
    training_seconds: float,
) -> None:
    """Compare the policy with the SFT model on held-out prompts. The table and the samples are written part
    by part, and printed at the end.
    sft_seconds, training_seconds: what each stage took, as `train` returns it.
    """
    sft = load_frozen(folder / "sft.pt", settings.device)
    reference = (
        load_frozen(find_model(Path(settings.reference)), settings.device) if settings.reference else sft
    )
    if not corpus.held_out.prompts:
        print(
            "nothing is held out (all prompts are the same, or what is held out does not "
            "fit), so nothing is measured"
        )
        return
    most = settings.max_new_tokens or answer_length(corpus.held_out, sft.config.context)
    print(f"measuring on held-out prompts, with answers of {most} tokens at most ...", flush=True)
    path, started = folder / "summary.json", time.perf_counter()
    last = load_checkpoint(folder / ("sft.pt" if policy is None else "dpo.pt"))
    read_unchanged(folder / "metrics.jsonl", {"sha256": {"metrics.jsonl": last.get("log_sha256")}})
    # the summary exists if measuring was stopped before
    before = read_json(path).get("seconds", 0.0) if path.exists() else sft_seconds + training_seconds

    def keep(summary: dict, samples: list[dict], words: list[dict] | None = None) -> None:
        """Write what is measured so far. words: come last, [] if there are none."""
        summary |= {
            "loss": settings.loss.rsplit(":", 1)[-1],
            "start": settings.start,
            "seconds": before + time.perf_counter() - started,
        }
        if "dpo" in summary:
            summary["dpo"]["training_seconds"] = training_seconds
        digests = {
            "samples.jsonl": write_jsonl(folder / "samples.jsonl", samples),
            "metrics.jsonl": last["log_sha256"],
            **({"words.jsonl": write_jsonl(folder / "words.jsonl", words)} if words else {}),
        }
        unfinished = {"unfinished": True} if words is None else {}
        write_json(path, {**summary, "id": settings.id, "sha256": digests, **unfinished})

    variant = find_loss(settings.loss)
    summary, samples = evaluate(
        sft,
        policy,
        variant,
        settings.loss_options,
        tokenizer,
        corpus.held_out,
        settings.seed,
        scoring(settings),
        reference,
        most,
        keep,
    )
    words = []
    if policy is not None:
        summary["token_beta"] = scale = token_scale(variant, settings.loss_options)
        summary["token_against"] = "reference" if variant.reference else settings.start
        other = reference if variant.reference else sft
        words = word_rewards(policy, other, tokenizer, corpus.held_out, scale, settings.dtype)
    keep(summary, samples, words)
    report(folder, settings, anew=True)


def measured(folder: Path) -> dict | None:
    """The summary of a run; None if its measuring is not finished."""
    path = folder / "summary.json"
    summary = read_json(path) if path.exists() else {"unfinished": True}
    return None if summary.get("unfinished") else summary


def report(folder: Path, settings: Settings, anew: bool = False) -> None:
    """Print some samples of a finished run, and its table; then write its page, if there is none yet or
    `anew`. Raises UserError if the files are not of this run.
    """
    summary = measured(folder) or {}
    if summary.get("id") != settings.id:
        raise UserError(f"{folder / 'summary.json'}: from another run than config.json beside it")
    lines = read_unchanged(folder / "samples.jsonl", summary).splitlines()
    with expecting(folder / "summary.json", "the table of a run"):
        samples = [json.loads(line) for line in lines[:3]]
        print(
            "",
            side_by_side(samples, settings.start, heading(settings.loss)),
            "",
            closing_table(summary),
            "",
            sep="\n",
        )
        took = clock(summary["seconds"])
    page = folder / "report.html"
    try:
        print(f"a page of it all: {write_report(folder) if anew or not page.exists() else page}")
    except UserError as error:  # the numbers are kept, and more important
        print(f"no page of the run could be written: {error}")
    print(f"{took} in all; talk to it: python -m mini_dpo.sample {folder}")
