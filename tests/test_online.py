"""Online DPO: rounds of the policy's own pairs, labelled as people would; stopped and resumed to the same
bytes.
"""

import json
import math
from pathlib import Path

import pytest
import torch

from mini_dpo.corpus.parts import Corpus, HeldOut
from mini_dpo.errors import UserError
from mini_dpo.files import write_json
from mini_dpo.logprobs import response_logps
from mini_dpo.train import __main__ as train
from mini_dpo.train import online
from mini_dpo.train.online import OnlineBatches, Rounds, read_round
from tests.commands import SMALL, preference_file, run
from tests.test_evaluate import LetterTokenizer, small_gpt

JUDGE = "def mine(prompt, answer):\n    return answer.count('e') - answer.count('o')\n"


def rounds(folder, score, reference=None, size=40):
    """Rounds of a small model that knows letters."""
    held_out = HeldOut(["0"], [], [], [], judge=None)
    corpus = Corpus([], [], [], [], held_out, prompts=["00", "01", "10", "11", "000", "001", "010"])
    policy = small_gpt(1).float()
    shape = Rounds(rounds=3, size=size, steps=2, batch_size=8, seed=0)
    return OnlineBatches(policy, reference, LetterTokenizer(), corpus, score, folder, shape)


def longer_wins(prompts, responses):
    return [100.0 * len(ids) for ids in responses]


def test_a_round_s_pairs_are_the_policy_s_own_and_labelled_by_the_score(tmp_path):
    """With a large score the label is certain. The log-probs kept are the fixed reference's, or those of the
    policy that wrote the round. Catches chosen and rejected exchanged, and the log-probs of the other model.
    """
    other = small_gpt(5).float()
    for folder, reference in ((tmp_path / "moving", None), (tmp_path / "fixed", other)):
        folder.mkdir()
        batches = rounds(folder, longer_wins, reference)
        batch = batches[0]
        pairs = read_round(folder / "round-1.json", 1000)
        end = LetterTokenizer().end_of_text
        for pair in pairs:
            ended = [side.response[-1] == end for side in (pair.chosen, pair.rejected)]
            assert pair.chosen.response != pair.rejected.response and ended[0]
            if ended[1]:
                assert len(pair.chosen.response) >= len(pair.rejected.response)
        model = reference or batches.policy
        with torch.no_grad():
            expected = response_logps(model, batch.sequences)
        assert torch.allclose(batch.ref_logps, expected, atol=1e-4)


def test_labels_are_as_noisy_as_the_model_says(tmp_path):
    """A difference of log 3 in reward: three labels in four. Catches labels that are always the judge's."""

    def score(prompts, responses):
        return [math.log(3) * (1 - len(ids) % 2) for ids in responses]

    batches = rounds(tmp_path, score, size=3000)
    batches[0]
    end = LetterTokenizer().end_of_text
    decided = [
        len(pair.chosen.response) % 2 == 0  # the end is a token, and no letter
        for pair in read_round(tmp_path / "round-1.json", 1000)
        if (len(pair.chosen.response) - len(pair.rejected.response)) % 2
        and pair.chosen.response[-1] == pair.rejected.response[-1] == end
    ]
    assert len(decided) > 150 and abs(sum(decided) / len(decided) - 0.75) < 4 * math.sqrt(
        0.1875 / len(decided)
    )


def test_each_round_asks_the_next_prompts_and_is_written_once(tmp_path, monkeypatch):
    batches = rounds(tmp_path, longer_wins)
    first = batches[0]
    assert [path.name for path in tmp_path.iterdir()] == ["round-1.json"], "no later round"
    batches[2]
    monkeypatch.setattr(online, "generate", None)  # what is kept is not written again
    again = rounds(tmp_path, None)
    assert torch.equal(again[0].sequences.ids, first.sequences.ids)
    assert read_round(tmp_path / "round-1.json", 1000) != read_round(tmp_path / "round-2.json", 1000)


@pytest.mark.parametrize("ids", [[[1], [2], [10**6]], [[1], [2]], [[1], [2], ["x"]], [[1], [2], [-1]]])
def test_a_strange_round_is_a_line(tmp_path, ids):
    write_json(tmp_path / "round-1.json", {"pairs": [{"ids": ids, "ref_logps": [-1.0, -2.0]}]})
    with pytest.raises(UserError, match="not a round of pairs"):
        read_round(tmp_path / "round-1.json", 1000)


@pytest.fixture
def begun(tmp_path, monkeypatch, capsys):
    """An SFT model, a judge, and `go(...)`."""
    monkeypatch.chdir(tmp_path)
    preference_file(tmp_path / "mine.jsonl", 40)
    Path("judge.py").write_text(JUDGE)
    go = lambda *flags: run(monkeypatch, capsys, train, *flags)  # noqa: E731
    assert go("--data", "mine.jsonl", *SMALL, "--stage", "sft", "--steps", 30)[0] == 0
    return go


ONLINE = ["--stage", "online", "--init-from", "runs/1", "--data", "mine.jsonl", "--judge", "judge.py:mine"]
ONLINE += ["--batch-size", 4, "--save-every", 1, "--epochs", 1]


@pytest.mark.parametrize("more", [[], ["--moving-reference", "--accumulate", 2, "--pairs", 24]])
def test_stopped_in_a_round_it_goes_on_to_the_same_bytes(begun, monkeypatch, more):
    """Also where the round that follows was written before the stop."""
    assert begun(*ONLINE, *more, "--out", "whole")[0] == 0
    written = OnlineBatches.write

    def stop(self, number):
        rows = written(self, number)
        if number == 1:
            raise KeyboardInterrupt
        return rows

    monkeypatch.setattr(OnlineBatches, "write", stop)
    assert begun(*ONLINE, *more, "--out", "stopped")[0] == 130
    monkeypatch.setattr(OnlineBatches, "write", written)
    code = f"{Path('judge.py').resolve()}:mine"
    assert begun("--resume", "stopped", "--judge", code)[0] == 0
    for name in ("round-1.json", "round-2.json", "round-3.json", "metrics.jsonl", "samples.jsonl"):
        assert Path("whole", name).read_bytes() == Path("stopped", name).read_bytes(), name
    whole, stopped = (torch.load(f"{folder}/dpo.pt")["model"] for folder in ("whole", "stopped"))
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)
    steps = [json.loads(line)["step"] for line in Path("whole/metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) % 3 == 0


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--stage", "online"], "--stage online needs --init-from"),
        ([*ONLINE[:6]], "--stage online needs a judge of your data"),
        ([*ONLINE, "--tokens-per-batch", 99], "--stage online does not read --tokens-per-batch"),
        ([*ONLINE, "--loss", "kto"], "--loss kto wants single responses"),
        (["--rounds", 2], "--rounds is for --stage online"),
        ([*ONLINE, "--rounds", 0], "--rounds must be at least 1"),
    ],
)
def test_what_is_refused(begun, flags, message):
    flags = flags if "--tokens-per-batch" not in flags else [f for f in flags if f not in ("--batch-size", 4)]
    status, _, err = begun(*flags)
    assert status == 2 and message in err and err.count("\n") == 1, err
