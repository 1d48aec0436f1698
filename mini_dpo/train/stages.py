"""The two stages of a run, SFT and preference training: from settings to batches, an objective and
the loop.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from mini_dpo.batches import Batches, collate
from mini_dpo.corpus.parts import Corpus
from mini_dpo.corpus.worlds import TOY_PREFERENCES
from mini_dpo.evaluation.measuring import How
from mini_dpo.feedback import MixedBatches, collate_for
from mini_dpo.losses import Loss, find_loss
from mini_dpo.losses.registry import shown
from mini_dpo.model import GPT
from mini_dpo.objectives import preference_objective, sft_objective
from mini_dpo.optimizers import LoopConfig
from mini_dpo.processes import rank, wait_for_all
from mini_dpo.reference import freeze, precompute_reference
from mini_dpo.saving.checkpoint import find_model, load_frozen, load_own, load_weights, save_checkpoint
from mini_dpo.saving.reference_cache import cached_reference
from mini_dpo.saving.stages import StageFiles
from mini_dpo.tokenizer import Tokenizer
from mini_dpo.train.online import OnlineBatches, Rounds, judged
from mini_dpo.train.parsing import default_lr
from mini_dpo.train.settings import WIDE, Settings
from mini_dpo.training import train


def adopt(model: GPT, tokenizer: Tokenizer, path: Path, stage: str, run: str) -> None:
    """Keep the starting model in the run, as if the SFT stage had made it.
    stage: the stage that made the model. run: the id of the run.
    """
    if path.exists():
        load_own(path, run)
    elif rank() == 0:
        save_checkpoint(path, model, tokenizer.name, step=0, finished=True, stage=stage, run=run)
    wait_for_all()


def run_sft(settings: Settings, folder: Path, tokenizer: Tokenizer, model: GPT, corpus: Corpus) -> float:
    """Train on demonstrated responses. The result is `sft.pt`. Returns the seconds."""
    batches, valid = (
        Batches(e, collate, settings.batch_size, settings.seed, settings.tokens_per_batch)
        for e in (corpus.responses, corpus.valid_responses)
    )
    lr = settings.sft_lr or default_lr(
        "sft from a model" if settings.init_from else "sft", model.config.n_embd
    )
    optimizer = settings.optimizer or ("muon" if settings.world and model.config.n_embd < WIDE else "adamw")
    config = loop_config(
        settings, batches, lr, settings.sft_steps, settings.sft_epochs, optimizer, weight_decay=0.1
    )
    files = StageFiles("sft", folder, tokenizer.name, run=settings.id, log_to=settings.log_to)
    return train(model, sft_objective, batches, config, files, valid if corpus.valid_responses else None)


def run_preferences(
    settings: Settings, folder: Path, tokenizer: Tokenizer, policy: GPT, corpus: Corpus
) -> tuple[GPT, float]:
    """Train the SFT model `policy` on preferences. The result is `dpo.pt`. Returns (the policy, the
    seconds).
    """
    variant = find_loss(settings.loss)
    files = StageFiles("dpo", folder, tokenizer.name, run=settings.id, log_to=settings.log_to)
    if files.checkpoint.exists() and (saved := load_own(files.checkpoint, settings.id))["finished"]:
        load_weights(files.checkpoint, policy, saved["model"])
        return policy.eval(), saved.get("seconds", 0.0)
    own = online_batches(settings, folder, tokenizer, policy, corpus) if settings.stage == "online" else None
    to_train = [] if own else corpus.preferences
    batches = preference_batches(settings, variant, policy, to_train)
    lr = settings.lr or default_lr("dpo on the toy shop" if settings.world else "dpo", policy.config.n_embd)
    optimizer = settings.optimizer or "adamw"
    steps = own.rounds * own.steps // settings.accumulate if own else settings.steps
    config = loop_config(settings, batches, lr, steps, settings.epochs, optimizer, weight_decay=0.0)
    passes = 1 if own else config.steps * config.accumulate / batches.count(1)
    examples, reference = reference_for(
        settings, variant, policy, [*to_train, *corpus.valid_preferences], tokenizer, passes
    )
    n = len(to_train)
    batches, valid = (
        preference_batches(settings, variant, policy, these) for these in (examples[:n], examples[n:])
    )
    watch = valid.can_be_mixed() if isinstance(valid, MixedBatches) else bool(valid.examples)
    sft_weight = settings.sft_weight or 0.0
    objective = preference_objective(variant, settings.loss_options, reference, sft_weight)
    options = {**settings.loss_options, **({"sft_weight": sft_weight} if sft_weight else {})}
    print(
        "  ".join([variant.name, *(f"{name} {shown(value)}" for name, value in options.items())]), flush=True
    )
    if settings.accumulate > 1 and not variant.fact("decomposes", **settings.loss_options):
        size = (
            f"{settings.batch_size or settings.tokens_per_batch} "
            f"{'examples' if settings.batch_size else 'tokens'}"
        )
        print(
            f"{variant.name} looks at a batch as a whole: {settings.accumulate} accumulated "
            f"batches of {size} are not one that is {settings.accumulate} times as large"
        )
    batches_or_rounds: Any = own or batches
    seconds = train(policy, objective, batches_or_rounds, config, files, valid if watch else None)
    return policy.eval(), seconds


def online_batches(
    settings: Settings, folder: Path, tokenizer: Tokenizer, policy: GPT, corpus: Corpus
) -> OnlineBatches:
    """Rounds of pairs that the policy writes. Each has as many steps as --epochs passes over its pairs."""
    size = max(1, (settings.pairs or len(corpus.prompts)) // settings.rounds)
    a_step = (settings.batch_size or 1) * settings.accumulate
    steps = math.ceil(size * (settings.epochs or 1) / a_step) * settings.accumulate
    reference = None if settings.moving_reference else freeze(policy)
    shape = Rounds(settings.rounds, size, steps, settings.batch_size or 1, settings.seed)
    return OnlineBatches(
        policy, reference, tokenizer, corpus, judged(corpus, tokenizer), folder, shape, scoring(settings)
    )


def preference_batches(settings: Settings, variant: Loss, model: GPT, examples: list) -> Batches:
    """The examples in batches of the kind that the loss needs."""
    how = settings.batch_size, settings.seed, settings.tokens_per_batch
    kind = MixedBatches if variant.mismatched else Batches
    return kind(examples, collate_for(variant, model.config.context), *how)


def reference_for(
    settings: Settings, variant: Loss, policy: GPT, examples: list, tokenizer: Tokenizer, passes: float
) -> tuple[list, GPT | None]:
    """(the examples, the reference that scores them in every step, or None). If the examples are used more
    than once, or if their reference log-probs are to be kept in a file, they are scored here, and no
    reference stays in memory.
    """
    if not variant.reference:
        return examples, None
    reference = (
        load_frozen(find_model(Path(settings.reference)), settings.device)
        if settings.reference
        else freeze(policy)
    )
    how = scoring(settings)
    if settings.precompute_ref:
        return cached_reference(
            reference,
            examples,
            Path(settings.data) if settings.data else TOY_PREFERENCES["train"],
            tokenizer.name,
            *how,
        ), None
    if passes < 1 or variant.mismatched:  # each pass has new mismatched responses
        return examples, reference
    print("scoring the reference, once for all passes over the data ...", flush=True)
    return precompute_reference(reference, examples, *how), None


def scoring(settings: Settings) -> How:
    """How examples are scored without a gradient: with the type and the batches of training."""
    return How(settings.dtype, settings.batch_size, settings.tokens_per_batch)


def loop_config(
    settings: Settings,
    batches: Batches,
    lr: float,
    steps: int | None,
    epochs: float | None,
    optimizer: str,
    weight_decay: float,
) -> LoopConfig:
    """The settings of a stage, for the loop."""
    steps = steps or max(1, math.ceil(batches.count(epochs or 1) / settings.accumulate))
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
