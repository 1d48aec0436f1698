"""The folder: what transformers calls GPT2LMHeadModel, with its vocabulary and its card."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mini_dpo.errors import UserError
from mini_dpo.export.card import model_card
from mini_dpo.export.vocabulary import chat_template, tokenizer_config, tokenizer_json
from mini_dpo.files import settle_names, write_whole
from mini_dpo.model import GPTConfig
from mini_dpo.pictures import PictureTokenizer
from mini_dpo.saving.checkpoint import build_model, find_model, load_checkpoint, load_own
from mini_dpo.saving.foreign import has_safetensors
from mini_dpo.saving.huggingface import is_matrix, is_published
from mini_dpo.tokenizer import Tokenizer
from mini_dpo.train.parsing import read_config


def export(run: Path, folder: Path, sft: bool, as_bin: bool) -> None:
    """Write the model of a run. The folder is complete or it does not appear.
    sft: the SFT model and not the preference-trained one. as_bin: the weights as pytorch_model.bin.
    Raises UserError if there is no such model, if the folder exists or cannot be made, and without the
    package safetensors unless as_bin.
    """
    if folder.exists():
        raise UserError(f"{folder} exists; name a new folder")
    if not as_bin and not has_safetensors():
        raise UserError("model.safetensors needs another package: pip install safetensors; or use --bin")
    if is_published(run):
        raise UserError(f"{run}: a published model already; name a run's folder or a checkpoint file")
    path = run / "dpo.pt" if (run / "dpo.pt").exists() and not sft else find_model(run)
    payload = load_own(path, read_config(run)[0].id) if run.is_dir() else load_checkpoint(path)
    if payload.get("finished") is False:
        raise UserError(f"{path}: its training is not finished; go on with it first: --resume {run}")
    model, tokenizer = build_model(path, payload, dropout=0.0)
    if isinstance(tokenizer, PictureTokenizer):
        raise UserError(f"{path}: the model sees pictures, and GPT-2's form has no place for that")
    weights = {f"transformer.{name}": published(name, w) for name, w in model.state_dict().items()}
    texts = {
        "config.json": as_json(model_config(model.config, tokenizer, payload["stage"])),
        "generation_config.json": as_json(generation_config(tokenizer)),
        "tokenizer.json": as_json(tokenizer_json(tokenizer)),
        "tokenizer_config.json": as_json(tokenizer_config(model.config.context)),
        "chat_template.jinja": chat_template(),
        "README.md": model_card(run, path.stem, model, tokenizer),
    }
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=folder.parent) as draft:
            filled = Path(draft) / "model"
            filled.mkdir()
            for name, text in texts.items():
                write_text(filled / name, text)
            write_weights(filled, weights, as_bin)
            filled.rename(folder)
            settle_names(folder.parent)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another place") from error


def write_text(path: Path, text: str) -> None:
    """Write a text. What is no character (in the name of a file, say) is written as an escape."""
    content = text.encode("utf-8", "backslashreplace")
    write_whole(path, lambda file: file.write(content))


def published(name: str, weight: Tensor) -> Tensor:
    """A weight as it is published: a matrix of a block as (inputs, outputs)."""
    return (weight.t() if is_matrix(name) else weight).contiguous()


def write_weights(folder: Path, weights: dict[str, Tensor], as_bin: bool) -> None:
    """Write the weights. Raises UserError if the disk refuses."""
    if as_bin:
        write_whole(folder / "pytorch_model.bin", lambda file: torch.save(weights, file))
        return
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        path = folder / "model.safetensors"
        save_file(weights, path, metadata={"format": "pt"})
        path.chmod((folder / "config.json").stat().st_mode)  # it would be readable for its owner only
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    except SafetensorError as error:
        raise UserError(f"{folder.parent.parent}: cannot be written ({error}); make room") from error


def as_json(value: dict[str, Any]) -> str:
    """A JSON object, for people too."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def model_config(config: GPTConfig, tokenizer: Tokenizer, stage: str) -> dict[str, Any]:
    """The content of config.json. The entry "mini_dpo" says which vocabulary it is when the folder is read
    again.
    """
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config.vocab_size,
        "n_positions": config.context,
        "n_ctx": config.context,
        "n_embd": config.n_embd,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_inner": None,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "scale_attn_weights": True,
        "tie_word_embeddings": True,
        "bos_token_id": tokenizer.end_of_text,
        "eos_token_id": tokenizer.end_of_text,
        "pad_token_id": tokenizer.end_of_text,
        "torch_dtype": "float32",
        "mini_dpo": {"tokenizer": tokenizer.name, "stage": stage},
    }


def generation_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """The content of generation_config.json: sampling as `mini_dpo.sample` does it."""
    return {
        "do_sample": True,
        "temperature": 1.0,
        "top_k": 0,
        "max_new_tokens": 200,
        "bos_token_id": tokenizer.end_of_text,
        "eos_token_id": tokenizer.end_of_text,
        "pad_token_id": tokenizer.end_of_text,
    }
