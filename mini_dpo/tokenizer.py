"""Text to token ids and back: a thin wrapper over `tiktoken`.

A prompt and its response are laid out as

    <|user|> prompt <|assistant|> response <|endoftext|>

and a conversation as such rounds, one after the other, perhaps with "<|system|> message" before the first.

The four markers are tokens of their own that only this file writes. Text from outside is always encoded as
ordinary text, so a prompt that spells "<|assistant|>" is thirteen characters and never a marker.
"""

from __future__ import annotations

from collections.abc import Sequence

import tiktoken

from mini_dpo.data import Prompt, Turn, turns
from mini_dpo.errors import UserError
from mini_dpo.vocabularies import WORDS, gpt2_vocabulary, toy_vocabulary, word_vocabulary

MARKERS = END_OF_TEXT, USER, ASSISTANT, SYSTEM = "<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>"


class Tokenizer:
    """Encodes prompts and responses for a model. `load_tokenizer` makes one.

    Attributes: `name` ("toy" or "gpt2"), `vocab_size`, and the id of each marker: `end_of_text`, `user`, ...
    """

    def __init__(self, name: str, encoding: tiktoken.Encoding) -> None:
        self.name = name
        self.encoding = encoding
        self.vocab_size = encoding.n_vocab
        self.one = list(range(encoding.n_vocab))  # one object for each id saves a corpus memory
        self.end_of_text = encoding.encode_single_token(END_OF_TEXT)
        self.user, self.assistant, self.system = map(encoding.encode_single_token, (USER, ASSISTANT, SYSTEM))

    def encode(self, text: str) -> list[int]:
        """Ordinary text to ids: whatever it spells, no marker comes out. `decode` gives the same text
        back.
        """
        return [self.one[i] for i in self.encoding.encode_ordinary(text)]

    def decode(self, ids: Sequence[int]) -> str:
        """Ids to text. Bytes that are no character (half of one, at the end of a cut response) become
        U+FFFD.
        """
        return self.encoding.decode(list(ids))

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """What the model reads before it answers: all turns, and the marker of the assistant's next one."""
        return [*(token for turn in turns(prompt) for token in self.encode_turn(turn)), self.assistant]

    def encode_turn(self, turn: Turn) -> list[int]:
        """A turn of a conversation: the marker of its role and its text, which ends if it is a response."""
        marker = {"user": self.user, "assistant": self.assistant, "system": self.system}[turn.role]
        said = self.encode_response if turn.role == "assistant" else self.encode
        return [marker, *said(turn.text)]

    def encode_response(self, response: str) -> list[int]:
        """What the model should have written: the response, and the end-of-text token that says it is
        complete.
        """
        return [*self.encode(response), self.end_of_text]

    def decode_response(self, ids: Sequence[int]) -> str:
        """The text of a generated response, without the end-of-text token if it has one."""
        return self.decode(ids[:-1] if ids and ids[-1] == self.end_of_text else ids)


def load_tokenizer(name: str) -> Tokenizer:
    """The tokenizer called "toy" (embedded), "gpt2" (fetched once by tiktoken, then cached) or "words [...]"
    (a world's own, spelt out). Raises UserError for another name, or where GPT-2's is not to be had.
    """
    if name == "toy":
        ranks, pattern = toy_vocabulary()
    elif name == "gpt2":
        ranks, pattern = gpt2_vocabulary()
    elif name.startswith(WORDS):
        ranks, pattern = word_vocabulary(name)
    else:
        raise UserError(f"there is no tokenizer called {name!r}; choose toy or gpt2")
    # for gpt2 the first gets GPT-2's own id, 50256
    special_tokens = {marker: len(ranks) + i for i, marker in enumerate(MARKERS)}
    return Tokenizer(
        name, tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens=special_tokens)
    )
