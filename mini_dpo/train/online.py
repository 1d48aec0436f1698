"""Online DPO: in each round the policy writes two responses to each of some prompts, and a judge says which
one people would prefer. The loss and the loop are those of DPO.

With preferences that somebody else's model wrote, DPO learns about responses that the policy no longer gives.
Here the pairs are its own (arXiv:2402.04792). The reference is the starting model, or moves with the rounds
(arXiv:2404.09656).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from mini_dpo.batches import Batches, Encoded, EncodedPair, PairBatch, collate_pairs
from mini_dpo.corpus.parts import Corpus
from mini_dpo.data import Prompt, as_text
from mini_dpo.errors import UserError, expecting
from mini_dpo.evaluation.measuring import AS_THEY_ARE, How, answer_length
from mini_dpo.files import read_json, write_json
from mini_dpo.generate import generate
from mini_dpo.model import GPT
from mini_dpo.progress import watched
from mini_dpo.reference import precompute_reference
from mini_dpo.theory.bradley_terry import preference_probability
from mini_dpo.tokenizer import Tokenizer

# (prompts, the token ids of a response to each) -> the reward of each
Score = Callable[[Sequence[Prompt], Sequence[list[int]]], list[float]]


class Rounds(NamedTuple):
    """How many rounds, of how many prompts (a pair each, at most), and of how many batches."""

    rounds: int
    size: int
    steps: int
    batch_size: int
    seed: int


class OnlineBatches:
    """Batches of pairs that the policy writes while it is trained: a round of pairs, `steps` batches of them,
    the next round.

    A round is kept in the run's folder, `round-1.json`, before its first step. A run that was stopped reads
    the round from there, because the policy that wrote the round is gone.
    """

    def __init__(
        self,
        policy: GPT,
        reference: GPT | None,
        tokenizer: Tokenizer,
        corpus: Corpus,
        score: Score,
        folder: Path,
        shape: Rounds,
        how: How = AS_THEY_ARE,
    ) -> None:
        """policy: the model in training. reference: None if it moves: then it is the policy at the beginning
        of each round.
        """
        self.policy, self.reference, self.tokenizer, self.corpus = policy, reference, tokenizer, corpus
        self.score, self.folder, self.how = score, folder, how
        self.rounds, self.size, self.steps, self.batch_size, self.seed = shape
        self.known: tuple[int, Batches[EncodedPair, PairBatch]] | None = None

    def __getitem__(self, k: int) -> PairBatch:
        number = k // self.steps
        if self.known is None or self.known[0] != number:
            path = self.folder / f"round-{number + 1}.json"
            if not path.exists():
                write_json(path, {"pairs": self.write(number)})
            pairs = read_round(path, self.policy.config.vocab_size)
            self.known = number, Batches(pairs, collate_pairs, self.batch_size, self.seed + number)
        return self.known[1][k % self.steps]

    def write(self, number: int) -> list[dict]:
        """The pairs of a round, with the reference's log-probs, as rows."""
        prompts, size = list(dict.fromkeys(self.corpus.prompts)), self.size
        seed = self.seed * 1_000_003 + number
        order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(self.seed)).tolist()
        # each round goes on where the one before it ended
        asked = [prompts[order[(number * size + i) % len(prompts)]] for i in range(size)]
        print(
            f"round {number + 1} of {self.rounds}: the policy answers {size} prompts, twice each", flush=True
        )
        a, b = (self.answers(asked, 2 * seed + i) for i in range(2))
        pairs = self.label(asked, a, b, seed)
        if not pairs:
            raise UserError(
                "no two responses of the policy to a prompt differ and end; nothing can be preferred: "
                "SFT has to come further first"
            )
        known = precompute_reference(self.reference or self.policy, pairs, *self.how)
        return [
            {
                **{name: self.tokenizer.decode_response(getattr(pair, name).response) for name in SIDES},
                "ids": [pair.chosen.prompt, pair.chosen.response, pair.rejected.response],
                "ref_logps": pair.ref_logps,
            }
            for pair in known
        ]

    def answers(self, prompts: Sequence[Prompt], seed: int) -> list[list[int]]:
        """A response of the policy to each prompt, at temperature 1."""
        return generate(
            self.policy,
            [self.tokenizer.encode_prompt(prompt) for prompt in prompts],
            end_of_text=self.tokenizer.end_of_text,
            max_new_tokens=answer_length(self.corpus.held_out, self.policy.config.context),
            seed=seed,
            watch=lambda starts: watched(starts, len(starts), "writing responses"),
        )

    def label(
        self, prompts: Sequence[Prompt], a: list[list[int]], b: list[list[int]], seed: int
    ) -> list[EncodedPair]:
        """Which of two responses people prefer, drawn from the Bradley-Terry model of the scores. One that
        does not end loses to one that does. Two that are the same, or do not end, are left out.
        """
        scores = torch.tensor([self.score(prompts, side) for side in (a, b)])  # (2, N)
        p = preference_probability(scores[0], scores[1])  # (N,)
        generator = torch.Generator().manual_seed(seed)
        a_wins = (torch.rand(len(p), generator=generator) < p).tolist()
        pairs = []
        for prompt, ours, theirs, won in zip(prompts, a, b, a_wins, strict=True):
            ends = [ids[-1] == self.tokenizer.end_of_text for ids in (ours, theirs)]
            if ours == theirs or not any(ends):
                continue
            first = won if all(ends) else ends[0]
            chosen, rejected = (ours, theirs) if first else (theirs, ours)
            ids = self.tokenizer.encode_prompt(prompt)
            pairs.append(EncodedPair(Encoded(ids, chosen), Encoded(ids, rejected)))
        return pairs


SIDES = ("chosen", "rejected")


def read_round(path: Path, vocab_size: int) -> list[EncodedPair]:
    """The pairs of a round. Raises UserError if the file is not one."""
    kept = read_json(path)
    with expecting(path, "a round of pairs"):
        pairs = []
        for row in kept["pairs"]:
            prompt, chosen, rejected = row["ids"]
            if not all(type(i) is int and 0 <= i < vocab_size for i in (*prompt, *chosen, *rejected)):
                raise ValueError("a token that the model does not know")
            w, l = (float(value) for value in row["ref_logps"])
            pairs.append(EncodedPair(Encoded(prompt, chosen), Encoded(prompt, rejected), (w, l)))
        return pairs


def judged(corpus: Corpus, tokenizer: Tokenizer) -> Score:
    """The rewards that the judge of the held-out prompts gives."""
    judge = corpus.held_out.judge
    if judge is None:
        raise UserError(
            "nobody knows the true reward here: it needs a world's judge, or --judge file.py:function for "
            "your own data"
        )
    return lambda prompts, responses: [
        float(sum(judge(as_text(prompt), tokenizer.decode_response(response)).values()))
        for prompt, response in zip(prompts, responses, strict=True)
    ]
