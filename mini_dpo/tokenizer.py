"""Text to token ids and back: a thin wrapper over `tiktoken`.

A conversation is laid out as

    <|user|> prompt <|assistant|> response <|endoftext|>

The three markers are tokens of their own that only this file writes. Text from outside is always encoded as
ordinary text, so a prompt that spells "<|assistant|>" is thirteen characters and never a marker.
"""

from __future__ import annotations

from collections.abc import Sequence

import tiktoken

from mini_dpo.errors import UserError
from mini_dpo.vocabularies import gpt2_vocabulary, toy_vocabulary

END_OF_TEXT, USER, ASSISTANT = "<|endoftext|>", "<|user|>", "<|assistant|>"


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
        """Ordinary text to ids: whatever it spells, no marker comes out. `decode` gives the same text
        back.
        """
        return self.encoding.encode_ordinary(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Ids to text. Bytes that are no character (half of one, at the end of a cut response) become
        U+FFFD.
        """
        return self.encoding.decode(list(ids))

    def encode_prompt(self, prompt: str) -> list[int]:
        """What the model reads before it answers: the prompt between its two markers."""
        return [self.user, *self.encode(prompt), self.assistant]

    def encode_response(self, response: str) -> list[int]:
        """What the model should have written: the response, and the end-of-text token that says it is
        complete.
        """
        return [*self.encode(response), self.end_of_text]

    def decode_response(self, ids: Sequence[int]) -> str:
        """The text of a generated response, without the end-of-text token if it has one."""
        return self.decode(ids[:-1] if ids and ids[-1] == self.end_of_text else ids)


def load_tokenizer(name: str) -> Tokenizer:
    """The tokenizer called "toy" (embedded, needs no network) or "gpt2" (fetched once by tiktoken, then
    cached).

    Raises UserError for another name, or where GPT-2's vocabulary is neither cached nor to be had.
    """
    if name == "toy":
        ranks, pattern = toy_vocabulary()
    elif name == "gpt2":
        ranks, pattern = gpt2_vocabulary()
    else:
        raise UserError(f"there is no tokenizer called {name!r}; choose toy or gpt2")
    markers = [END_OF_TEXT, USER, ASSISTANT]  # for gpt2 the first gets GPT-2's own id, 50256
    special_tokens = {marker: len(ranks) + i for i, marker in enumerate(markers)}
    return Tokenizer(
        name, tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens=special_tokens)
    )
