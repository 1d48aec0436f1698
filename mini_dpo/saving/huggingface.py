"""GPT-2 as Hugging Face publishes it: a folder with config.json and the weights, read as a model of this
project.

The parameters here have the published names. Three things differ: a published name may begin with
"transformer.", the matrices of a block are stored as (inputs, outputs), and a mask is kept beside each
block's weights.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mini_dpo.errors import UserError, expecting
from mini_dpo.files import LARGEST_JSON, check_archive, read_bytes, size_of
from mini_dpo.model import GPT, GPTConfig
from mini_dpo.tokenizer import load_tokenizer
from mini_dpo.vocabularies import in_letters

# In the order in which they are looked for. An index names the files over which the tensors are spread.
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
PUBLISHED_VOCABULARY = 50_257  # tokens: GPT-2's 50,256 and end-of-text
MOST_NAMES = 4  # that a line names
FIRST = ("wte.weight", "lm_head.weight")  # the largest tensors

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
    token has at most the probability 1 / (V + 3). A row of zeros has the logit 0, and GPT-2's logits are far
    below 0.

    Memory: the weights and one tensor more. Raises UserError, with the key or the tensor, for another
    architecture, another vocabulary, and for files that are damaged or missing.
    """
    path = folder / "config.json"
    config = read_foreign(path)
    ours = config["mini_dpo"] if isinstance(config.get("mini_dpo"), dict) else {}
    shape = shape_of(path, config)
    tokenizer = load_tokenizer("toy" if ours.get("tokenizer") == "toy" else "gpt2")
    if shape.vocab_size not in (tokenizer.vocab_size, PUBLISHED_VOCABULARY):
        raise UserError(
            f"{path}: vocab_size is {shape.vocab_size}, and GPT-2's vocabulary has "
            f"{PUBLISHED_VOCABULARY} tokens; "
            "a model with a vocabulary of its own cannot be read"
        )
    check_vocabulary(folder, in_letters(tokenizer.encoding._mergeable_ranks))
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


def read_foreign(path: Path) -> dict[str, Any]:
    """A JSON object that somebody else wrote. Raises UserError if the file holds none."""
    content = read_bytes(path, LARGEST_JSON)
    refuse_pointer(path, content)
    with expecting(path, "a JSON object"):
        try:
            value = json.loads(content)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
        if not isinstance(value, dict):
            raise ValueError("another value")
        return value


def refuse_pointer(path: Path, content: bytes) -> None:
    """Raise UserError if a file is what Git LFS leaves in place of the file."""
    if content.startswith(b"version https://git-lfs"):
        raise UserError(
            f"{path}: a Git LFS pointer, which stands for the file; fetch the file itself (git lfs pull)"
        )


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


def check_vocabulary(folder: Path, letters: dict[str, int]) -> None:
    """Raise UserError if the folder has a vocabulary, and it is another than `letters`: then its ids would be
    read as other words.
    """
    for name in ("tokenizer.json", "vocab.json"):
        path = folder / name
        if path.exists():
            found = read_foreign(path)
            with expecting(path, "a vocabulary"):
                found = found["model"]["vocab"] if name == "tokenizer.json" else found
                same = {token: i for token, i in found.items() if i < len(letters)} == letters
            if not same:
                raise UserError(f"{path}: another vocabulary than GPT-2's, which cannot be read")


# --- weights


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights. Raises UserError if there are none."""
    there = [name for name in WEIGHTS if (folder / name).exists()]
    if any(name.startswith("pytorch") for name in there) and not has_safetensors():
        there = [name for name in there if name.startswith("pytorch")]
    if not there:
        raise UserError(f"{folder}: no weights there; it needs model.safetensors or pytorch_model.bin")
    first = folder / there[0]
    if first.suffix != ".json":
        return [first]
    with expecting(first, "an index of weights"):
        names = sorted(set(read_foreign(first)["weight_map"].values()))
        if not names or any(Path(name).name != name for name in names):
            raise ValueError("a name in it is no file of this folder")
    return [folder / name for name in names]


def has_safetensors() -> bool:
    """Whether the package that reads model.safetensors is installed."""
    try:
        import safetensors  # noqa: F401
    except ImportError:
        return False
    return True


def renamed(folder: Path, shape: GPTConfig, new: int) -> dict[str, Tensor]:
    """The weights under our names, in float32, each matrix as (outputs, inputs), the embedding with `new`
    more rows. The embedding is the largest tensor, so it comes first: to make it longer takes a copy of it.
    Raises UserError for a tensor that is missing, left over, or of another shape.
    """
    weights: dict[str, Tensor] = {}
    left_over: list[str] = []
    output: Tensor | None = None
    layers = shape.n_layer
    for name, tensor in tensors(weight_files(folder)):
        ours = name.removeprefix("transformer.")
        block = ours.split(".")[1:2] if ours.startswith("h.") else ["0"]
        if ours == "lm_head.weight":
            output = tensor
        elif ours.endswith((".attn.bias", ".attn.masked_bias")):  # the mask
            continue
        elif not block[0].isdecimal() or int(block[0]) >= layers or ours in weights:
            left_over.append(name)
        elif ours == "wte.weight" and new and tensor.shape == (shape.vocab_size, shape.n_embd):
            weights[ours] = with_mean_rows(tensor.to(torch.float32), new)
        else:
            weights[ours] = as_ours(ours, tensor)
        del tensor
        if output is not None and "wte.weight" in weights:
            if not torch.equal(output.float(), weights["wte.weight"][: len(output)]):
                raise UserError(
                    f"{folder}: lm_head.weight is not the embedding; only a tied output matrix can be read"
                )
            output = None
    check_shapes(folder, replace(shape, vocab_size=shape.vocab_size + new), weights, left_over)
    return weights


def with_mean_rows(embedding: Tensor, new: int) -> Tensor:
    """An embedding (V, C) with so many more rows, each the mean of the others: (V + new, C)."""
    return torch.cat([embedding, embedding.mean(0, keepdim=True).expand(new, -1)])


def check_shapes(folder: Path, shape: GPTConfig, weights: dict[str, Tensor], left_over: list[str]) -> None:
    """Raise UserError unless the weights are those of this shape. left_over: names that are none of them."""
    last = f"h.{shape.n_layer - 1}.ln_1.weight"
    if last not in weights:  # said first, since a shape with very many blocks takes long to build
        raise UserError(f"{folder}: the tensor {last} is missing; config.json has n_layer {shape.n_layer}")
    with torch.device("meta"):  # shapes without numbers
        wanted = {name: tuple(weight.shape) for name, weight in GPT(shape).state_dict().items()}
    left_over = left_over + [name for name in weights if name not in wanted]
    for what, names in (("missing", wanted.keys() - weights.keys()), ("more than GPT-2 has", left_over)):
        if names:
            listed = ", ".join(sorted(names)[:MOST_NAMES])
            raise UserError(f"{folder}: {len(names)} tensors are {what}: {listed[:200]}")
    for name, expected in wanted.items():
        if tuple(weights[name].shape) != expected:
            raise UserError(
                f"{folder}: {name} has the shape {tuple(weights[name].shape)}, and needs {expected}"
            )


def as_ours(name: str, tensor: Tensor) -> Tensor:
    """A tensor in float32, copied out of its file; a matrix of a block from (inputs, outputs) to (outputs,
    inputs).
    """
    matrix = name.startswith("h.") and name.endswith(".weight") and tensor.dim() == 2  # noqa: PLR2004
    moved = (tensor.t() if matrix else tensor).to(torch.float32).contiguous()
    return moved.clone() if moved.data_ptr() == tensor.data_ptr() else moved


def tensors(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of all files with their names, one at a time, the embedding first. A file is opened anew
    for each, so that what was read before does not stay in memory. Raises UserError for a damaged file.
    """
    where: list[tuple[str, Path, Callable[[], Any]]] = []
    for file in files:
        size_of(file)
        with open(file, "rb") as opened:
            refuse_pointer(file, opened.read(64))
        reopen = reader_of(file)
        where += [(name, file, reopen) for name in reopen()]
    for name, file, reopen in sorted(where, key=lambda item: not item[0].endswith(FIRST)):
        tensor = reopen()[name]()
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
            raise UserError(f"{file}: {name[:60]!r} is no tensor with all its numbers")
        yield name, tensor


def reader_of(file: Path) -> Callable[[], dict[str, Callable[[], Any]]]:
    """A function that opens a file of weights and gives, for each name, what reads the tensor."""
    if file.suffix == ".safetensors":
        return partial(open_safetensors, file)
    if zipfile.is_zipfile(file):
        check_archive(file)
        return partial(open_archive, file)
    held = load_pickled(file)  # as torch wrote files before version 1.6: all or nothing
    return lambda: {str(name): partial(held.pop, name) for name in list(held)}


def open_safetensors(file: Path) -> dict[str, Callable[[], Any]]:
    """A file in the format of safetensors, which holds no code."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise UserError(f"{file}: needs another package: pip install safetensors") from error
    try:
        held = safe_open(file, framework="pt")
        return {name: partial(held.get_tensor, name) for name in held.keys()}  # noqa: SIM118 (it is no dict)
    except SafetensorError as error:
        raise UserError(
            f"{file}: damaged, or not safetensors ({str(error)[:100]}); fetch it again"
        ) from error


def open_archive(file: Path) -> dict[str, Callable[[], Any]]:
    """A file as torch writes it; the tensors stay in the file until they are copied."""
    held = load_pickled(file, mmap=True)
    return {str(name): partial(held.get, name) for name in held}


def load_pickled(file: Path, **how: Any) -> dict:
    """A dictionary that torch.save wrote. No code in the file is run."""
    with expecting(file, "weights that can be read"):
        try:
            held = torch.load(file, map_location="cpu", weights_only=True, **how)
        except Exception as error:  # a damaged file fails in many ways, none with a class of its own
            raise ValueError(f"{type(error).__name__}: {str(error)[:100]}") from error
        if not isinstance(held, dict):
            raise ValueError("another value")
        return held
