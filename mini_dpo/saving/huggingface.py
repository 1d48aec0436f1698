"""GPT-2 as Hugging Face publishes it: a folder with config.json and the weights, read as a model of this
project.

The parameters here have the published names. Three things differ: a published name may begin with
"transformer.", the matrices of a block are stored as (inputs, outputs), and a mask is kept beside each
block's weights.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mini_dpo.errors import UserError, expecting
from mini_dpo.files import size_of
from mini_dpo.model import GPT, GPTConfig
from mini_dpo.saving.foreign import WEIGHTS, names_in, plain, read_foreign, weight_files
from mini_dpo.tokenizer import MARKERS, Tokenizer, load_tokenizer
from mini_dpo.vocabularies import WORDS, in_letters

PUBLISHED_VOCABULARY = 50_257  # tokens: GPT-2's 50,256 and end-of-text
MOST_NAMES = 4  # that a line names
OUTPUT = "lm_head.weight"
FIRST = ("wte.weight", OUTPUT)  # the largest tensors

# What a config.json must say, or leave out, for the model to be GPT-2's architecture.
ARCHITECTURE: dict[str, tuple] = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
}


def is_published(path: Path) -> bool:
    """Whether a path is a folder as Hugging Face has it, and not the folder of a run."""
    return (
        path.is_dir()
        and (path / "config.json").exists()
        and not (path / "sft.pt").exists()
        and (
            any((path / name).exists() for name in WEIGHTS)
            or "model_type" in read_foreign(path / "config.json")
        )
    )


def read_published(folder: Path) -> dict[str, Any]:
    """The model of such a folder, in the form of `load_checkpoint`. Nothing in the folder is executed.

    The markers of a conversation get new rows of the embedding: the mean of the others. The logit of such a
    row is the mean of the others' logits z, so by Jensen's inequality, V exp(mean z) <= sum exp(z), a new
    token has at most the probability 1 / (V + 3). A row of zeros has the logit 0, wherever the others are.

    Memory: the weights and one tensor more. Raises UserError, with the key or the tensor, for another
    architecture, another vocabulary, and for files that are damaged or missing.
    """
    path = folder / "config.json"
    config = read_foreign(path)
    ours = config["mini_dpo"] if isinstance(config.get("mini_dpo"), dict) else {}
    shape = shape_of(path, config)
    name = str(ours.get("tokenizer"))
    tokenizer = load_tokenizer(name if name == "toy" or name.startswith(WORDS) else "gpt2")
    sizes = (
        (PUBLISHED_VOCABULARY, tokenizer.vocab_size) if tokenizer.name == "gpt2" else (tokenizer.vocab_size,)
    )
    if shape.vocab_size not in sizes:
        raise UserError(
            f"{path}: vocab_size is {shape.vocab_size}, and only GPT-2's vocabulary can be read, of "
            f"{PUBLISHED_VOCABULARY} tokens, or ours, which has the markers of a conversation as well"
        )
    check_vocabulary(
        folder, tokenizer, with_markers=shape.vocab_size == tokenizer.vocab_size, said=bool(ours)
    )
    return {
        "model": renamed(folder, shape, tokenizer.vocab_size - shape.vocab_size),
        "config": {**vars(shape), "vocab_size": tokenizer.vocab_size},
        "tokenizer": tokenizer.name,
        "stage": ours["stage"] if ours.get("stage") in ("sft", "dpo") else "base",
    }


def files_of_model(path: Path) -> list[Path]:
    """All files of a model: of a published folder its config.json and its weights, else the checkpoint."""
    return [path / "config.json", *weight_files(path)] if is_published(path) else [path]


# --- config.json and the vocabulary


def shape_of(path: Path, config: dict[str, Any]) -> GPTConfig:
    """The shape that a config.json describes. Raises UserError, with the key, if it is not GPT-2's."""
    if config.get("model_type") != "gpt2":
        raise UserError(f"{path}: model_type is {shown(config.get('model_type'))}; only gpt2 can be read")
    for key, values in ARCHITECTURE.items():
        if key in config and config[key] not in values:
            raise UserError(
                f"{path}: {key} is {shown(config[key])}, which is not GPT-2's architecture "
                f"({shown(values[0])})"
            )
    with expecting(path, "the shape of a GPT-2"):
        shape = GPTConfig(
            vocab_size=config["vocab_size"],
            context=config["n_positions" if "n_positions" in config else "n_ctx"],
            **{key: config[key] for key in ("n_layer", "n_head", "n_embd")},
        )
    if config.get("n_inner") not in (None, 4 * shape.n_embd):
        raise UserError(f"{path}: n_inner is {shown(config['n_inner'])}, and GPT-2's is 4 * n_embd")
    return shape


def shown(value: object) -> str:
    """A value of a foreign file, not too long."""
    return json.dumps(value)[:60]


def markers_of(tokenizer: Tokenizer) -> dict[str, int]:
    """The markers and their ids."""
    return {marker: tokenizer.encoding.encode_single_token(marker) for marker in MARKERS}


def check_vocabulary(folder: Path, tokenizer: Tokenizer, with_markers: bool, said: bool) -> None:
    """Raise UserError if the folder's vocabulary is another than the tokenizer's: then its ids would be read
    as other words. with_markers: whether the model has rows for our markers. said: whether config.json says
    so.
    """
    letters = in_letters(tokenizer.encoding._mergeable_ranks)
    for name in ("tokenizer.json", "vocab.json"):
        path = folder / name
        if path.exists():
            found = read_foreign(path)
            with expecting(path, "a vocabulary"):
                changed = found.get("normalizer") if name == "tokenizer.json" else None
                added = {token["content"]: token["id"] for token in found.get("added_tokens") or []}
                vocabulary = {**(found["model"]["vocab"] if name == "tokenizer.json" else found), **added}
                same = {token: i for token, i in vocabulary.items() if i < len(letters)} == letters
            markers = all(vocabulary.get(marker) == i for marker, i in markers_of(tokenizer).items())
            if changed or not same or (with_markers and not markers and name == "tokenizer.json"):
                raise UserError(f"{path}: another vocabulary than GPT-2's or ours, which cannot be read")
            said = said or markers
    if with_markers and not said:
        raise UserError(
            f"{folder}: its last tokens may be any, and would be read as the markers of a conversation; "
            "only what mini_dpo exported can be read with as many"
        )


# --- weights


def renamed(folder: Path, shape: GPTConfig, new: int) -> dict[str, Tensor]:
    """The weights under our names, in float32, each matrix as (outputs, inputs), the embedding with `new`
    more rows. Names are compared before a tensor is read, and shapes before one is copied.

    The embedding is the largest tensor, so it comes first: to make it longer takes a copy of it.
    Raises UserError for a tensor that is missing, left over, or of another shape or type.
    """
    files = weight_files(folder)
    where = [(name, file, reopen) for file in files for name, reopen in names_in(file)]
    wanted = shapes_of(folder, shape, len(where))
    check_names(folder, [name for name, _, _ in where], wanted, shape.n_layer)
    weights: dict[str, Tensor] = {}
    output: Tensor | None = None
    left = sum(map(size_of, files))  # bytes that may still be read
    for name, file, reopen in sorted(where, key=lambda item: not item[0].endswith(FIRST)):
        ours = name.removeprefix("transformer.")
        if ours not in wanted and ours != OUTPUT:
            continue  # the mask
        expected = wanted["wte.weight" if ours == OUTPUT else ours]
        tensor = plain(file, name, reopen, expected[::-1] if is_matrix(ours) else expected)
        left -= 0 if ours == OUTPUT else tensor.nbytes  # the output matrix may be stored as the embedding
        if left < 0:  # in files of torch, one number can stand for a whole tensor
            raise UserError(f"{folder}: its weights claim more bytes than its files have; fetch it again")
        if ours == OUTPUT:
            output = tensor
        elif ours == "wte.weight" and new:
            weights[ours] = with_mean_rows(tensor.to(torch.float32), new)
        else:
            weights[ours] = as_ours(ours, tensor)
        del tensor
        if output is not None and "wte.weight" in weights:
            if not torch.equal(output.to(torch.float32), weights["wte.weight"][: len(output)]):
                raise UserError(f"{file}: {name} is not the embedding; only a tied output matrix can be read")
            output = None
    return weights


def shapes_of(folder: Path, shape: GPTConfig, tensors: int) -> dict[str, tuple[int, ...]]:
    """The names and shapes of our weights. tensors: how many the folder has; a shape with more blocks than
    that is not built, which would take long.
    """
    if shape.n_layer > tensors:
        raise UserError(
            f"{folder}: config.json has n_layer {shape.n_layer}, and there are {tensors} tensors in all"
        )
    with torch.device("meta"):  # shapes without numbers
        return {name: tuple(weight.shape) for name, weight in GPT(shape).state_dict().items()}


def check_names(folder: Path, names: list[str], wanted: Collection[str], n_layer: int) -> None:
    """Raise UserError unless the names are those of all weights, perhaps with masks and an output matrix."""
    ours = Counter(name.removeprefix("transformer.") for name in names)
    masks = {f"h.{i}.attn.{mask}" for i in range(n_layer) for mask in ("bias", "masked_bias")}
    left_over = [
        name for name, n in ours.items() if n > 1 or not (name in wanted or name in masks or name == OUTPUT)
    ]
    missing = [name for name in wanted if name not in ours]
    for what, found in (("missing", missing), ("more than GPT-2 has", left_over)):
        if found:
            listed = ", ".join(
                name[:60] if name.isprintable() else repr(name[:60]) for name in found[:MOST_NAMES]
            )
            raise UserError(f"{folder}: {len(found)} tensors are {what}: {listed}")


def with_mean_rows(embedding: Tensor, new: int) -> Tensor:
    """An embedding (V, C) with so many more rows, each the mean of the others: (V + new, C)."""
    return torch.cat([embedding, embedding.mean(0, keepdim=True).expand(new, -1)])


def is_matrix(name: str) -> bool:
    """Whether a weight is a matrix of a block, which is published as (inputs, outputs)."""
    return name.startswith("h.") and name.endswith(".weight") and ".ln_" not in name


def as_ours(name: str, tensor: Tensor) -> Tensor:
    """A tensor in float32, copied out of its file; a matrix of a block from (inputs, outputs) to (outputs,
    inputs).
    """
    moved = (tensor.t() if is_matrix(name) else tensor).to(torch.float32).contiguous()
    return moved.clone() if moved.data_ptr() == tensor.data_ptr() else moved
