"""TRL's trainer on the same batches, if it can be imported."""

from __future__ import annotations

import copy
import os
import tempfile
from functools import partial

import torch
from torch import Tensor

from mini_dpo.bench.rows import time_steps
from mini_dpo.bench.workload import BETA, SHAPES, BenchSettings, make_pairs
from mini_dpo.devices import resident_peak

# keep all freed memory, whatever its size
TUNED = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "8000000000"}
TRL_ROWS = {  # (our row to compare with, precomputed, dtype, whether freed memory is kept)
    "live reference": ("shared", False, None, False),
    "live reference, freed memory kept": ("shared", False, None, True),
    "precomputed reference": ("precomputed", True, None, False),
    "precomputed, freed memory kept": ("precomputed", True, None, True),
    "precomputed, bfloat16": ("bfloat16", True, "bfloat16", False),
    "precomputed, bfloat16, freed memory kept": ("bfloat16", True, "bfloat16", True),
}


def measure_trl(settings: BenchSettings, precomputed: bool, dtype: str | None) -> dict:
    """A step of TRL's DPOTrainer: its collator, its loss, and the same optimizer and clipping as ours."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
    from trl import DPOConfig, DPOTrainer

    torch.backends.cuda.matmul.allow_tf32 = True
    before = resident_peak(settings.device)
    shape = SHAPES[settings.model]
    words = Tokenizer(models.WordLevel({str(i): i for i in range(shape.vocab_size)}, unk_token="0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    sizes = dict(
        vocab_size=shape.vocab_size,
        n_positions=shape.context,
        n_embd=shape.n_embd,
        n_layer=shape.n_layer,
        n_head=shape.n_head,
    )
    config = GPT2Config(
        **sizes, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0
    )
    with tempfile.TemporaryDirectory() as folder:
        arguments = DPOConfig(
            output_dir=folder,
            report_to=[],
            use_cpu=settings.device == "cpu",
            bf16=False,
            gradient_checkpointing=False,
            max_length=None,
            per_device_train_batch_size=settings.batch_size,
            precompute_ref_log_probs=precomputed,
            beta=BETA,
        )
        torch.manual_seed(settings.seed)
        model = GPT2LMHeadModel(config)
        trainer = DPOTrainer(
            model=model,
            ref_model=None if precomputed else copy.deepcopy(model),
            args=arguments,
            train_dataset=Dataset.from_list(
                [{"prompt": "1 2", "chosen": "3", "rejected": "4"}] * (settings.batch_size or 1)
            ),
            processing_class=PreTrainedTokenizerFast(tokenizer_object=words, pad_token="0", eos_token="0"),
        )
    model = model.to(settings.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.0, fused=True)
    autocast = partial(
        torch.autocast, settings.device, torch.bfloat16, enabled=(dtype or settings.dtype) == "bfloat16"
    )

    def step(inputs: dict[str, Tensor]) -> None:
        inputs = {name: tensor.to(settings.device, non_blocking=True) for name, tensor in inputs.items()}
        optimizer.zero_grad()
        with autocast():
            loss = trainer.compute_loss(model, inputs)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    batches = []
    for pairs in make_pairs(settings):
        rows = [
            {
                "prompt_ids": p.chosen.prompt,
                "chosen_ids": p.chosen.response,
                "rejected_ids": p.rejected.response,
            }
            for p in pairs
        ]
        known = (
            {f"ref_{side}_logps": torch.zeros(len(pairs)) for side in ("chosen", "rejected")}
            if precomputed
            else {}
        )
        batches.append(trainer.data_collator(rows) | known)
    return time_steps(settings, step, batches, before)
