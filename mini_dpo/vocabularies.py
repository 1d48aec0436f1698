"""The two vocabularies, and the command that builds the toy one of the toy data by byte-pair encoding.

python -m mini_dpo.vocabularies     # rebuild data/toy.tiktoken
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import tiktoken

from mini_dpo.errors import UserError, expecting

DATA = Path(__file__).resolve().parent.parent / "data"
TOY_VOCABULARY = DATA / "toy.tiktoken"
TOY_SIZE = 663  # 256 bytes and 407 merges: each word of the toy world has become one token
# where tiktoken fetches GPT-2's vocabulary from
GPT2_FILES = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main"

# A word with the space before it, a run of other signs, or a run of white space. Merges never cross these
# pieces.
PATTERN = r" ?\w+| ?[^\w\s]+|\s+"


def toy_vocabulary() -> tuple[dict[bytes, int], str]:
    """The toy's byte sequences with their ranks, and the pattern that splits text into pieces."""
    return read_vocabulary(TOY_VOCABULARY), PATTERN


WORDS = "words "  # begins the name of a vocabulary of words; the words follow, in JSON
MOST_WORDS = 20_000  # and bytes


def name_of_words(texts: Iterable[str]) -> str:
    """A vocabulary of the words in these texts, as the name that `load_tokenizer` takes. The name is all that
    there is of such a vocabulary, so that a checkpoint, which keeps the name, needs no file beside it.
    """
    words = {piece for text in texts for piece in re.findall(PATTERN, text)}
    return WORDS + json.dumps(sorted(word for word in words if len(word.encode()) > 1))


def word_vocabulary(name: str) -> tuple[dict[bytes, int], str]:
    """The vocabulary that such a name spells: the 256 bytes and the words. A word that is not in it is
    written in bytes. Raises UserError for a name that spells none.
    """
    with expecting("the name of the vocabulary", "a list of words"):
        words = json.loads(name.removeprefix(WORDS))
        tokens = [*(bytes([b]) for b in range(256)), *(word.encode() for word in words)]
        if len(tokens) > MOST_WORDS or len(set(tokens)) < len(tokens) or b"" in tokens:
            raise ValueError(f"{MOST_WORDS:,} tokens at most, each another one, and none empty")
    return {token: i for i, token in enumerate(tokens)}, PATTERN


def default_vocabulary() -> str:
    """The tokenizer for texts of any kind: "gpt2" if tiktoken has its files on disk, else "toy". Fetches
    nothing.
    """
    folder = os.environ.get(
        "TIKTOKEN_CACHE_DIR",
        os.environ.get("DATA_GYM_CACHE_DIR", os.path.join(tempfile.gettempdir(), "data-gym-cache")),
    )
    # as tiktoken calls them
    names = (
        hashlib.sha1(f"{GPT2_FILES}/{name}".encode()).hexdigest() for name in ("vocab.bpe", "encoder.json")
    )
    return "gpt2" if folder and all(os.path.exists(os.path.join(folder, name)) for name in names) else "toy"


def gpt2_vocabulary() -> tuple[dict[bytes, int], str]:
    """GPT-2's 50,256 byte sequences with their ranks, and the pattern that splits text into pieces."""
    try:
        encoding = tiktoken.get_encoding("gpt2")
    # tiktoken lets whatever its HTTP library raises through: there is no narrower class
    except Exception as error:
        raise UserError(
            "GPT-2's vocabulary is not cached and could not be fetched "
            f"({type(error).__name__}); go online once, or set "
            "TIKTOKEN_CACHE_DIR to a folder that has it, or use --tokenizer toy"
        ) from error
    return encoding._mergeable_ranks, encoding._pat_str


def byte_letters() -> dict[int, str]:
    """The letter that stands for each byte in GPT-2's vocab.json and in Hugging Face's tokenizer.json: itself
    where it can be printed, else the next free one from U+0100 on. A space is "Ġ", a line's end "Ċ".
    """
    printed = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printed]
    return {byte: chr(byte) for byte in printed} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def in_letters(ranks: dict[bytes, int]) -> dict[str, int]:
    """The same vocabulary as such files spell it: a letter for each byte of a token."""
    letters = byte_letters()
    return {"".join(letters[byte] for byte in token): rank for token, rank in ranks.items()}


def read_vocabulary(path: Path) -> dict[bytes, int]:
    """Read tiktoken's file format: on each line the bytes of a token in base64, a space, its rank.

    (`tiktoken.load.load_tiktoken_bpe` reads it too, but keeps a copy by path, and would miss a rebuilt file.)
    """
    lines = (line.split() for line in path.read_bytes().splitlines())
    return {base64.b64decode(token): int(rank) for token, rank in lines}


def write_vocabulary(path: Path, ranks: dict[bytes, int]) -> None:
    """Write what `read_vocabulary` reads."""
    path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items()))


def train_bpe(texts: Iterable[str], vocab_size: int) -> dict[bytes, int]:
    """Byte-pair encoding (Sennrich et al., arXiv:1508.07909): begin with the 256 bytes, then over and over
    make a token of the two neighbours that stand together most often. Returns token -> rank; ties go to the
    larger bytes.
    """
    counts = Counter(piece for text in texts for piece in re.findall(PATTERN, text))
    words = {piece: [bytes([b]) for b in piece.encode()] for piece in counts}
    ranks = {bytes([b]): b for b in range(256)}
    while len(ranks) < vocab_size:
        pairs: Counter[tuple[bytes, bytes]] = Counter()
        for piece, tokens in words.items():
            for pair in pairwise(tokens):
                pairs[pair] += counts[piece]
        if not pairs:
            break  # every piece is one token: nothing is left to merge
        left, right = max(pairs, key=lambda pair: (pairs[pair], pair))
        ranks[left + right] = len(ranks)
        words = {piece: merge(tokens, left, right) for piece, tokens in words.items()}
    return ranks


def merge(tokens: list[bytes], left: bytes, right: bytes) -> list[bytes]:
    """Replace each `left, right` in a list of tokens by the one token that joins them."""
    merged: list[bytes] = []
    for token in tokens:
        if merged and merged[-1] == left and token == right:
            merged[-1] = left + right
        else:
            merged.append(token)
    return merged


def main() -> None:
    """Rebuild the toy vocabulary from the SFT training text."""
    path = DATA / "sft.train.jsonl"
    examples = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    ranks = train_bpe((text for example in examples for text in example.values()), TOY_SIZE)
    write_vocabulary(TOY_VOCABULARY, ranks)
    print(f"{TOY_VOCABULARY}: {len(ranks)} tokens from {path.name}")


if __name__ == "__main__":
    main()
