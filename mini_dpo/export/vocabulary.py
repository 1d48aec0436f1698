"""Our vocabularies as Hugging Face's tokenizer.json, and the layout of a conversation as a chat template.

A tokenizer.json is plain JSON: how text is split into pieces, the merges of bytes within a piece in order,
and the tokens that stand for themselves. tiktoken keeps no merges. They are recovered from its ranks: the
last merge that makes a token is what byte-pair encoding does to the token's own bytes, with earlier merges
only.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from mini_dpo.saving.huggingface import markers_of
from mini_dpo.tokenizer import ASSISTANT, END_OF_TEXT, MARKERS, SYSTEM, USER, Tokenizer
from mini_dpo.vocabularies import WORDS, byte_letters, in_letters

# What \w is in tiktoken's regular expressions, written out: in those of Hugging Face it is less.
WORD = r"\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}"
SPACE = r"\p{White_Space}"
TOY_PATTERN = rf" ?[{WORD}]+| ?[^{WORD}{SPACE}]+|[{SPACE}]+"  # vocabularies.PATTERN


def tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """The content of a tokenizer.json that gives the ids of this tokenizer, and one token for each marker."""
    ranks = tokenizer.encoding._mergeable_ranks
    special = markers_of(tokenizer)
    by_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    split = {"type": "Split", "pattern": {"Regex": TOY_PATTERN}, "behavior": "Isolated", "invert": False}
    pieces: dict[str, Any] = {**by_bytes, "use_regex": True}  # the pattern in ByteLevel is GPT-2's
    words = tokenizer.name.startswith(WORDS)
    if tokenizer.name == "toy" or words:
        pieces = {"type": "Sequence", "pretokenizers": [split, {**by_bytes, "use_regex": False}]}
    as_it_stands = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": number, "content": marker, **as_it_stands, "special": True}
            for marker, number in special.items()
        ],
        "normalizer": None,
        "pre_tokenizer": pieces,
        "post_processor": None,
        "decoder": {**by_bytes, "use_regex": False},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": words,  # a known word is a token, and is not merged
            "vocab": in_letters(ranks) | special,
            "merges": in_pairs(all_merges_of(ranks) if words else merges_of(ranks)),
        },
    }


def merges_of(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The two tokens that each token of more than one byte is merged from, in the order of ranks."""
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        parts = [bytes([byte]) for byte in token]
        while len(parts) > 2:  # noqa: PLR2004 (the last two are the merge)
            found = [ranks.get(left + right, rank) for left, right in pairwise(parts)]
            at = found.index(min(found))
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        if len(token) > 1:
            merges.append((parts[0], parts[1]))
    return merges


def all_merges_of(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Every way to make a token of two others, in the order of ranks: what tiktoken does with an unknown word
    where the vocabulary was not made by merging.
    """
    return [
        (token[:i], token[i:])
        for token, _ in sorted(ranks.items(), key=lambda item: item[1])
        for i in range(1, len(token))
        if token[:i] in ranks and token[i:] in ranks
    ]


def in_pairs(merges: list[tuple[bytes, bytes]]) -> list[list[str]]:
    """The merges as tokenizer.json spells them."""
    letters = byte_letters()
    return [["".join(letters[byte] for byte in part) for part in merge] for merge in merges]


def chat_template() -> str:
    """A Jinja template that lays a conversation out as `Tokenizer.encode_prompt` does.

    transformers would turn a marker that a message spells into a control token, so such a message is refused.
    """
    refuse = "{%%- if %s %%}{{- raise_exception('%s') }}{%%- endif %%}"
    first = "(loop.first or messages[loop.index0 - 1].role == 'system')"
    return "".join(
        [
            refuse % ("tools or documents", "tools and documents cannot be read"),
            "{%- for message in messages %}",
            refuse % ("message.content is not string", "the content of a message must be a text"),
            refuse % ("message.tool_calls or message.reasoning_content", "only texts can be read"),
            *(
                refuse % (f"'{marker}' in message.content", f"a message spells {marker}")
                for marker in MARKERS
            ),
            "{%- if message.role == 'assistant' %}",
            refuse % ("loop.first or messages[loop.index0 - 1].role != 'user'", "an answer follows a user"),
            f"{{{{- '{ASSISTANT}' + message.content + '{END_OF_TEXT}' }}}}",
            "{%- elif message.role == 'user' %}",
            refuse
            % (f"not {first} and messages[loop.index0 - 1].role != 'assistant'", "an answer is missing"),
            f"{{{{- '{USER}' + message.content }}}}",
            "{%- elif message.role == 'system' %}",
            refuse % ("not loop.first", "a system message comes first"),
            f"{{{{- '{SYSTEM}' + message.content }}}}",
            "{%- else %}{{- raise_exception('the roles are system, user and assistant') }}{%- endif %}",
            "{%- endfor %}",
            f"{{%- if add_generation_prompt %}}{{{{- '{ASSISTANT}' }}}}{{%- endif %}}",
        ]
    )


def tokenizer_config(context: int) -> dict[str, Any]:
    """The content of a tokenizer_config.json."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "additional_special_tokens": [USER, ASSISTANT, SYSTEM],
        "clean_up_tokenization_spaces": False,
        "chat_template": chat_template(),
    }
