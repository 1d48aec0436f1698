"""Text to token ids and back: a thin wrapper over `tiktoken`, and the command that builds the toy vocabulary.

    python -m mini_dpo.tokenizer        # rebuild data/toy.tiktoken from the toy data

A conversation is laid out as

    <|user|> prompt <|assistant|> response <|endoftext|>

The three markers are tokens of their own that only this file writes. Text from outside is always encoded as ordinary
text, so a prompt that spells "<|assistant|>" is thirteen characters and never a marker.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import tiktoken

from mini_dpo.errors import UserError

DATA = Path(__file__).resolve().parent.parent / "data"
TOY_VOCABULARY = DATA / "toy.tiktoken"
TOY_SIZE = 663  # 256 bytes and 407 merges: each word of the toy world has become one token
GPT2_FILES = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main"  # where tiktoken fetches GPT-2's vocabulary from
END_OF_TEXT, USER, ASSISTANT = "<|endoftext|>", "<|user|>", "<|assistant|>"

# A word with the space before it, a run of other signs, or a run of white space. Merges never cross these pieces.
PATTERN = r" ?\w+| ?[^\w\s]+|\s+"


class Tokenizer:
    """Encodes prompts and responses for a model. `load_tokenizer` makes one.

    Attributes: `name` ("toy" or "gpt2"), `vocab_size`, and the ids `end_of_text`, `user`, `assistant`.
    """

    def __init__(self, name: str, encoding: tiktoken.Encoding) -> None:
        self.name = name
        self.encoding = encoding
        self.vocab_size = encoding.n_vocab
        self.end_of_text = encoding.encode_single_token(END_OF_TEXT)
        self.user = encoding.encode_single_token(USER)
        self.assistant = encoding.encode_single_token(ASSISTANT)

    def encode(self, text: str) -> list[int]:
        """Ordinary text to ids: whatever it spells, no marker comes out. `decode` gives the same text back."""
        return self.encoding.encode_ordinary(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Ids to text. Bytes that are no character (half of one, at the end of a cut response) become U+FFFD."""
        return self.encoding.decode(list(ids))

    def encode_prompt(self, prompt: str) -> list[int]:
        """What the model reads before it answers: the prompt between its two markers."""
        return [self.user, *self.encode(prompt), self.assistant]

    def encode_response(self, response: str) -> list[int]:
        """What the model should have written: the response, and the end-of-text token that says it is complete."""
        return [*self.encode(response), self.end_of_text]

    def decode_response(self, ids: Sequence[int]) -> str:
        """The text of a generated response, without the end-of-text token if it has one."""
        return self.decode(ids[:-1] if ids and ids[-1] == self.end_of_text else ids)


def load_tokenizer(name: str) -> Tokenizer:
    """The tokenizer called "toy" (embedded, needs no network) or "gpt2" (fetched once by tiktoken, then cached).

    Raises UserError for another name, or where GPT-2's vocabulary is neither cached nor to be had.
    """
    if name == "toy":
        ranks, pattern = read_vocabulary(TOY_VOCABULARY), PATTERN
    elif name == "gpt2":
        ranks, pattern = gpt2_vocabulary()
    else:
        raise UserError(f"there is no tokenizer called {name!r}; choose toy or gpt2")
    markers = [END_OF_TEXT, USER, ASSISTANT]  # for gpt2 the first gets GPT-2's own id, 50256
    special_tokens = {marker: len(ranks) + i for i, marker in enumerate(markers)}
    return Tokenizer(name, tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens=special_tokens))


def default_vocabulary() -> str:
    """The tokenizer for texts of any kind: "gpt2" if tiktoken has its files on disk, else "toy". Fetches nothing."""
    folder = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR", os.path.join(tempfile.gettempdir(), "data-gym-cache")))
    names = (hashlib.sha1(f"{GPT2_FILES}/{name}".encode()).hexdigest() for name in ("vocab.bpe", "encoder.json"))  # as tiktoken calls them
    return "gpt2" if folder and all(os.path.exists(os.path.join(folder, name)) for name in names) else "toy"


def gpt2_vocabulary() -> tuple[dict[bytes, int], str]:
    """GPT-2's 50,256 byte sequences with their ranks, and the pattern that splits text into pieces."""
    try:
        encoding = tiktoken.get_encoding("gpt2")
    except Exception as error:  # tiktoken lets whatever its HTTP library raises through: there is no narrower class
        raise UserError(
            f"GPT-2's vocabulary is not cached and could not be fetched ({type(error).__name__}); go online once, or set "
            "TIKTOKEN_CACHE_DIR to a folder that has it, or use --tokenizer toy"
        ) from error
    return encoding._mergeable_ranks, encoding._pat_str


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
    """Byte-pair encoding (Sennrich et al., arXiv:1508.07909): begin with the 256 bytes, then over and over make a
    token of the two neighbours that stand together most often. Returns token -> rank; ties go to the larger bytes.
    """
    counts = Counter(piece for text in texts for piece in re.findall(PATTERN, text))
    words = {piece: [bytes([b]) for b in piece.encode()] for piece in counts}
    ranks = {bytes([b]): b for b in range(256)}
    while len(ranks) < vocab_size:
        pairs = Counter()
        for piece, tokens in words.items():
            for pair in zip(tokens, tokens[1:]):
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
