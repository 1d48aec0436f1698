"""What a run needs before its first step: tokenizer, model and data, checked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from mini_dpo.corpus.fitting import describe_choice, fitted_context
from mini_dpo.corpus.parts import Corpus, at_most, in_single_responses
from mini_dpo.corpus.remarks import proposed_weights
from mini_dpo.corpus.shortening import without_oldest_turns
from mini_dpo.corpus.splits import own_corpus, read_own
from mini_dpo.corpus.worlds import context_of, files_of, fingerprints, words_of, world_corpus
from mini_dpo.data import as_text
from mini_dpo.errors import UserError
from mini_dpo.feedback import MixedBatches
from mini_dpo.losses import Loss, find_loss
from mini_dpo.model import GPT, PRESETS
from mini_dpo.pictures import find_tokenizer, new_model
from mini_dpo.saving.board import check_board
from mini_dpo.saving.checkpoint import build_model, find_model, load_checkpoint
from mini_dpo.saving.huggingface import files_of_model
from mini_dpo.tokenizer import Tokenizer
from mini_dpo.train.parsing import code_of, model_config
from mini_dpo.train.settings import Settings
from mini_dpo.train.stages import preference_batches
from mini_dpo.vocabularies import default_vocabulary
from mini_dpo.worlds.finding import find_judge


def prepare(settings: Settings) -> tuple[Settings, Tokenizer, GPT, Corpus]:
    """(the settings with what depends on the data filled in, the tokenizer, the model before the first step,
    the data).
    Raises UserError for input that cannot be used.
    """
    if settings.log_to == "tensorboard":
        check_board()
    model: GPT | None = None
    chosen: list[str] = []
    if settings.init_from:
        saved = load_finished(Path(settings.init_from))
        model, tokenizer = build_model(find_model(Path(settings.init_from)), saved, dropout=settings.dropout)
        if settings.goes_on and saved.get("stage") != "sft":
            settings = replace(settings, start="START")
    else:
        chosen = [name for name in ("tokenizer", "context") if getattr(settings, name) is None]
        known = settings.tokenizer or (words_of(settings.world) if settings.world else default_vocabulary())
        tokenizer = find_tokenizer(known)
        if not settings.world:
            settings = replace(settings, tokenizer=tokenizer.name)
    variant = find_loss(settings.loss)
    if settings.reference and model:
        reference = load_finished(Path(settings.reference))
        if (reference["tokenizer"], reference["config"].get("context")) != (
            tokenizer.name,
            model.config.context,
        ):
            raise UserError(
                f"{settings.reference}: the reference must have the tokenizer and the context "
                f"of --init-from ({tokenizer.name:.40}, {model.config.context} tokens), not "
                f"{reference['tokenizer']:.40}, {reference['config'].get('context')} tokens"
            )
    paired, own = settings.stage == "sft" or variant.paired, None
    if settings.data or settings.sft_data:
        own = read_own(
            settings.data,
            settings.sft_data,
            tokenizer,
            paired,
            settings.skip_bad,
            settings.held_out,
            settings.format,
            settings.sft_on,
        )
        if chosen and settings.model == "toy":
            context = settings.context or fitted_context(own, PRESETS["toy"].context)
            settings = replace(settings, context=context)
            print(describe_choice(own, tokenizer, context, chosen))
    if model is None:
        torch.manual_seed(settings.seed)
        shape = model_config(settings, tokenizer.vocab_size)
        if settings.world and settings.context is None:
            shape = replace(shape, context=max(shape.context, context_of(settings.world, tokenizer)))
        model = new_model(shape, tokenizer)
    if own and settings.truncate == "oldest-turns":
        first, second = without_oldest_turns(own, tokenizer, model.config.context, settings.sft_on)
        own = (first, second)
    context = model.config.context
    corpus = at_most(
        own_corpus(own, context) if own else world_corpus(settings.world or "shop", tokenizer, context),
        settings.eval_examples,
    )
    if settings.judge:
        judged = replace(corpus.held_out, judge=find_judge(settings.judge))
        corpus = replace(corpus, held_out=judged)
    for judge in (corpus.held_out.judge, corpus.held_out.count):
        if judge and corpus.held_out.prompts:  # what is wrong with it is found before training
            judge(as_text(corpus.held_out.prompts[0]), "")
    if not paired:
        corpus = in_single_responses(corpus, settings.source)
    if "desirable_weight" in settings.loss_options and settings.stage != "sft":
        weights = (settings.loss_options[name] for name in ("desirable_weight", "undesirable_weight"))
        if proposal := proposed_weights(corpus.preferences, *weights):
            print(proposal)
    if not settings.goes_on and not corpus.responses:
        raise UserError(
            f"{settings.data}: no liked response for SFT to imitate; give --sft-data, or "
            "start from a model that can talk: --stage dpo --init-from"
        )
    check_batch_room(settings, corpus, variant)
    batches = preference_batches(settings, variant, model, corpus.preferences)
    if settings.stage != "sft" and isinstance(batches, MixedBatches) and not batches.can_be_mixed():
        raise UserError(
            f"{settings.data}: {settings.loss} sets the prompts of a batch against each "
            "other's responses, and there are too few different prompts to train on; use a larger "
            "--batch-size or another loss"
        )
    return settings, tokenizer, model, corpus


def load_finished(path: Path) -> dict:
    """The checkpoint at a path. Raises UserError if its training is not finished."""
    file = find_model(path)
    saved = load_checkpoint(file)
    if saved.get("finished") is False:
        raise UserError(
            f"{file}: its training is not finished; go on with that run first: --resume {file.parent}"
        )
    return saved


def check_batch_room(settings: Settings, corpus: Corpus, variant: Loss) -> None:
    """Raise UserError if --tokens-per-batch does not hold the longest example. A loss that sets prompts
    against the responses of other prompts needs room for three examples: from a batch of two, none can be
    moved to a batch that has one prompt only.
    """
    if settings.tokens_per_batch:
        used = {
            "sft": (corpus.responses, corpus.valid_responses),
            "dpo": (corpus.preferences, corpus.valid_preferences),
        }
        longest = [
            (1 + 2 * (stage == "dpo" and variant.mismatched))
            * max((e.n_tokens for es in used[stage] for e in es), default=0)
            for stage in used
            if settings.stage in (stage, "all")
        ]
        if settings.tokens_per_batch < max(longest):
            raise UserError(
                f"--tokens-per-batch {settings.tokens_per_batch} does not hold the longest of "
                f"the examples; give {max(longest)} or more"
            )


def input_digests(settings: Settings) -> dict[str, str]:
    """The SHA-256 of every file that a run with these settings reads (data, models, loss), by path."""
    inputs = files_of(settings.data, settings.sft_data, settings.held_out, settings.world)
    if settings.init_from:
        inputs += files_of_model(find_model(Path(settings.init_from)))
    if settings.reference:
        inputs += files_of_model(find_model(Path(settings.reference)))
    inputs += [Path(code.rsplit(":", 1)[0]) for code in code_of(settings).values()]
    return fingerprints(inputs)
