"""The opponent: its gradient is J's, its optimum is the closed form, its details are where they should be."""

import copy
import dataclasses
import functools
import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mini_dpo.batches import Encoded, EncodedPair, collate, pack
from mini_dpo.errors import TrainingFailed
from mini_dpo.exact import END, LONGEST_RESPONSE, PROMPTS, every_response, list_responses, make_reference
from mini_dpo.logprobs import response_logps, token_logps
from mini_dpo.optimizers import LoopConfig, make_optimizer
from mini_dpo.rlhf import __main__ as rlhf
from mini_dpo.rlhf import algorithms, loop
from mini_dpo.rlhf import reward as reward_file
from mini_dpo.rlhf import rollout as rollout_file
from mini_dpo.rlhf.algorithms import (
    ALGORITHMS,
    clipped,
    generalised_advantages,
    grpo_loss,
    leave_one_out,
    ppo_loss,
    reinforce_loss,
    returns_of,
    rloo_loss,
    standardised,
    token_rewards,
    value_loss,
    with_values,
)
from mini_dpo.rlhf.loop import Learner, optimise
from mini_dpo.rlhf.reward import ScalarModel, calibration, last_places, per_response
from mini_dpo.rlhf.rollout import Task, prompts_of, roll_out
from mini_dpo.saving.stages import StageFiles
from mini_dpo.theory.bradley_terry import kl, log_partition, objective, optimal_policy
from mini_dpo.train import __main__ as train
from tests.commands import SHAPE, run
from tests.strategies import encoded_trees, tiny_gpt
from tests.test_planted_bugs import any_counterexample_will_do, plant

BETA = 0.5
RESPONSES = list_responses()
K = len(RESPONSES)


@functools.lru_cache
def world():
    """(reference, reward (2, K)): the tea house, whose 15 responses to each prompt can be listed."""
    reference = make_reference(RESPONSES, seed=0)
    reward = torch.randn(2, K, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return reference, reward


@pytest.fixture
def tea_house():
    return world()


def judge(reward):
    """A score for `roll_out`: the reward of each response, looked up. A cut one has any."""
    number = {tuple(response): i for i, response in enumerate(RESPONSES)}

    def score(written, batch):
        return torch.stack([reward[s.prompt[0], number[tuple(s.response)]] for s in written])

    return score


def rollout_of(policy, reference, reward, n, k, seed):
    """n k responses to each of the two prompts. Three words end a response as end-of-text does."""
    given = []

    def score(written, batch):
        given.append(judge(reward)(written, batch))
        return given[0]

    some = task(reference, reward, k=k, score=score)
    drawn = roll_out(policy, some, PROMPTS * n, seed)
    return dataclasses.replace(drawn, scores=given[0])


def exact_gradient(policy, reference, reward):
    """The gradient of J, its mean over the two prompts, with every response listed; flat."""
    logps = response_logps(policy, every_response(RESPONSES)).view(2, K)
    with torch.no_grad():
        ref_logps = response_logps(reference, every_response(RESPONSES)).view(2, K)
    J = objective(logps, ref_logps, reward, BETA).mean()
    return torch.cat([g.flatten() for g in torch.autograd.grad(J, list(policy.parameters()))])


def moved(reference, seed=3):
    """A policy that has left its reference."""
    torch.manual_seed(seed)
    policy = copy.deepcopy(reference).requires_grad_(True)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return policy


# --- against the closed forms


def test_exact_gradient_ascent_on_j_reaches_the_optimum(tea_house):
    """J's maximum is pi* of the closed form, to 1e-6 nats: what RLHF estimates is what DPO solves."""
    reference, reward = tea_house
    ref_logps = response_logps(reference, every_response(RESPONSES)).view(2, K).detach()
    theta = ref_logps.clone().requires_grad_()  # a table: any policy over the 15 responses
    optimizer = torch.optim.LBFGS([theta], max_iter=400, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = -objective(theta.log_softmax(-1), ref_logps, reward, BETA).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert float(kl(theta.detach().log_softmax(-1), optimal_policy(ref_logps, reward, BETA)).max()) < 1e-6


LOSSES = {"reinforce": reinforce_loss, "rloo": rloo_loss, "ppo": ppo_loss}


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_is_that_of_j_in_expectation(tea_house, name):
    """The mean of many estimates, along a direction, is the exact derivative to its standard error."""
    reference, reward = tea_house
    policy = moved(reference)
    exact = exact_gradient(policy, reference, reward)
    direction = exact / exact.norm()
    k = 4 if name == "rloo" else 1
    estimates = []
    for seed in range(60):
        rollout = rollout_of(policy, reference, reward, n=8, k=k, seed=seed)
        returns = returns_of(rollout, BETA)
        if (
            name == "ppo"
        ):  # without a value network; a mean over tokens, so times their number for each response
            rewards = token_rewards(rollout, BETA)
            advantages = generalised_advantages(
                rewards, torch.zeros_like(rewards), rollout.batch.lengths, lam=1
            )
            scale = rollout.batch.n_targets / len(returns)
        else:
            advantages = leave_one_out(returns, k if name == "rloo" else len(returns))
            scale = 1.0
        loss = LOSSES[name](rollout, advantages, token_logps(policy, rollout.batch)) * scale
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(-loss, list(policy.parameters()))])
        estimates.append(float(gradient @ direction))
    found = torch.tensor(estimates, dtype=torch.float64)
    error = float(found.std()) / math.sqrt(len(found))
    assert abs(float(found.mean()) - float(exact.norm())) < 3.5 * error
    assert error < 0.25 * float(exact.norm()), "else the test could not fail"


def test_at_the_optimum_every_rloo_advantage_is_zero(tea_house):
    """There, score - beta log(pi / ref) is beta log Z, whatever was drawn and however many."""
    reference, _ = tea_house
    policy = moved(reference)
    batch = every_response(RESPONSES)
    with torch.no_grad():
        logps, ref_logps = (response_logps(m, batch).view(2, K) for m in (policy, reference))
    reward = BETA * (logps - ref_logps) + torch.tensor([[0.3], [-2.0]])  # whose optimum this policy is
    constant = BETA * log_partition(ref_logps, reward, BETA)  # (2,)
    for k in (2, 3, 5):
        rollout = rollout_of(policy, reference, reward, n=4, k=k, seed=k)
        returns = returns_of(rollout, BETA)
        expected = constant.repeat(4).repeat_interleave(k)
        torch.testing.assert_close(returns, expected, rtol=0, atol=1e-9)
        assert float(leave_one_out(returns, k).abs().max()) < 1e-9


# --- advantages


@st.composite
def tokens_of_responses(draw):
    """(rewards (R,), values (R,), lengths (S,))"""
    lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    numbers = st.lists(st.floats(-3, 3), min_size=sum(lengths), max_size=sum(lengths))
    return *(torch.tensor(draw(numbers), dtype=torch.float64) for _ in range(2)), torch.tensor(lengths)


@given(tokens_of_responses(), st.floats(0, 1))
def test_generalised_advantages_are_the_sum_of_their_definition(drawn, lam):
    """In plain loops: A_t = sum_i lam^i (r_{t+i} + V_{t+i+1} - V_{t+i}), within a response."""
    rewards, values, lengths = drawn
    expected, start = [], 0
    for n in lengths.tolist():
        r, v = rewards[start : start + n].tolist(), [*values[start : start + n].tolist(), 0.0]
        for t in range(n):
            expected.append(sum(lam ** (i - t) * (r[i] + v[i + 1] - v[i]) for i in range(t, n)))
        start += n
    found = generalised_advantages(rewards, values, lengths, lam)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@given(tokens_of_responses())
def test_with_lambda_1_an_advantage_is_what_is_still_to_come_less_the_value(drawn):
    rewards, values, lengths = drawn
    found = generalised_advantages(rewards, values, lengths, lam=1.0)
    parts = [part.flip(0).cumsum(0).flip(0) for part in rewards.split(lengths.tolist())]
    torch.testing.assert_close(found, torch.cat(parts) - values)


@given(st.integers(2, 5), st.lists(st.floats(-9, 9), min_size=1, max_size=4))
def test_a_baseline_never_contains_its_own_response(k, means):
    """Changing one return changes its own advantage by as much, and leaves nothing of it in its baseline."""
    returns = torch.tensor([m + i for m in means for i in range(k)], dtype=torch.float64)
    for i in range(len(returns)):
        changed = returns.clone()
        changed[i] += 1
        difference = leave_one_out(changed, k) - leave_one_out(returns, k)
        group = i // k
        expected = torch.zeros_like(returns)
        expected[group * k : (group + 1) * k] = -1 / (k - 1)
        expected[i] = 1
        torch.testing.assert_close(difference, expected)


def test_grpo_s_advantages_are_standardised_within_a_prompt():
    found = standardised(torch.tensor([1.0, 2.0, 3.0, 10.0, 10.0, 10.0]), 3)
    torch.testing.assert_close(found, torch.tensor([-1.0, 0.0, 1.0, 0.0, 0.0, 0.0]), rtol=0, atol=1e-3)


# --- the reward of a token


def test_the_score_is_at_the_end_and_each_token_pays_for_its_divergence(tea_house):
    reference, reward = tea_house
    rollout = rollout_of(moved(reference), reference, reward, n=3, k=2, seed=0)
    without = token_rewards(rollout, BETA) + BETA * (rollout.logps - rollout.ref_logps)
    for part, score in zip(without.split(rollout.batch.lengths.tolist()), rollout.scores, strict=True):
        assert float(part[:-1].abs().sum()) < 1e-12 and abs(float(part[-1] - score)) < 1e-12


def test_both_estimators_of_the_divergence_are_unbiased_and_k3_is_never_negative(tea_house):
    """k1 summed over the tokens of many responses is KL(policy || reference) to its standard error."""
    reference, reward = tea_house
    policy = moved(reference)
    rollout = rollout_of(policy, reference, reward, n=400, k=1, seed=0)
    batch = every_response(RESPONSES)
    with torch.no_grad():
        exact = float(kl(*(response_logps(m, batch).view(2, K) for m in (policy, reference))).mean())
    for tokens in (rollout.k1, rollout.k3):
        each = per_response(rollout.batch, tokens)
        assert abs(float(each.mean()) - exact) < 4 * float(each.std()) / math.sqrt(len(each))
    assert float(rollout.k3.min()) >= 0


def test_what_never_ends_gets_the_fixed_score(tea_house):
    reference, reward = tea_house
    rollout = roll_out(reference, task(reference, reward, missing_end=-9.0), PROMPTS * 20, 0)
    cut = rollout.batch.lengths == LONGEST_RESPONSE  # three words fill the room, but for the end
    assert not rollout.finished.all() and rollout.finished.any()
    assert set(rollout.scores[~rollout.finished].tolist()) == {-9.0}
    assert -9.0 not in rollout.scores[rollout.finished] and cut[~rollout.finished].all()


def test_each_pass_asks_every_prompt_once_in_an_order_of_its_own(tea_house):
    some = task(*tea_house, prompts=[[i] for i in range(6)], n_prompts=2)
    passes = [
        [prompt for step in steps for prompt in prompts_of(some, 5, step)]
        for steps in (range(3), range(3, 6))
    ]
    assert all(sorted(asked) == some.prompts for asked in passes) and passes[0] != passes[1]
    assert prompts_of(some, 5, 4) == passes[1][2:4], "a step does not depend on those before it"


def test_the_policy_that_wrote_has_no_gradient(tea_house):
    reference, reward = tea_house
    rollout = rollout_of(moved(reference), reference, reward, n=2, k=2, seed=0)
    assert not any(x.requires_grad for x in (rollout.logps, rollout.ref_logps, rollout.scores))


# --- the clipped losses


@given(st.floats(-1, 1), st.floats(-3, 3).filter(lambda a: abs(a) > 0.01))
def test_beyond_the_clip_nothing_is_gained(log_ratio, advantage):
    x = torch.tensor(log_ratio, dtype=torch.float64, requires_grad=True)
    loss = clipped(x, torch.tensor(advantage, dtype=torch.float64))
    loss.backward()
    ratio = math.exp(log_ratio)
    outside = ratio > 1.2 if advantage > 0 else ratio < 0.8
    assert (float(x.grad) == 0) == outside
    if not outside:
        assert math.isclose(float(x.grad), -advantage * ratio), "the ratio is new / old, and A has its sign"


def test_the_ratio_is_new_over_old(tea_house):
    """What has become likelier than it was and is good is pushed less than what has not."""
    x = torch.tensor([-0.1, 0.1], requires_grad=True)
    clipped(x, torch.ones(2)).sum().backward()
    torch.testing.assert_close(x.grad, -torch.tensor([-0.1, 0.1]).exp())


def test_at_the_first_pass_all_have_the_gradient_of_reinforce(tea_house):
    """The ratio is 1: RLOO's is REINFORCE's with the same advantages, the others' but for their means."""
    reference, reward = tea_house
    policy = moved(reference)
    rollout = rollout_of(policy, reference, reward, n=2, k=3, seed=1)
    A = leave_one_out(returns_of(rollout, BETA), 3)

    def gradient(loss):
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(policy.parameters()))])

    plain = gradient(reinforce_loss(rollout, A, token_logps(policy, rollout.batch)))
    torch.testing.assert_close(gradient(rloo_loss(rollout, A, token_logps(policy, rollout.batch))), plain)
    per_token = A[rollout.batch.index.owners]
    ppo = gradient(ppo_loss(rollout, per_token, token_logps(policy, rollout.batch)))
    torch.testing.assert_close(ppo * rollout.batch.n_targets / len(A), plain)
    lengths = rollout.batch.lengths
    grpo = gradient(grpo_loss(rollout, A * lengths, token_logps(policy, rollout.batch)))
    torch.testing.assert_close(grpo, plain)


def test_a_value_that_has_moved_too_far_counts_with_the_larger_error():
    before, target = torch.tensor([0.0, 0.0]), torch.tensor([1.0, -1.0])
    assert float(value_loss(torch.tensor([0.9, 0.9]), before, target)) == pytest.approx(
        0.25 * (0.8**2 + 1.9**2)
    )


# --- the reward model


@given(encoded_trees(n=2))
def test_the_score_is_read_at_the_last_token_of_each_response(trees):
    """Packed or alone, it is the head's value of the last hidden state of prompt and response."""
    model = scalar_model()
    batch = pack(trees)
    assert batch.ids[last_places(batch)].tolist() == [s.response[-1] for tree in trees for s in tree]
    alone = [
        model.hidden(torch.tensor([s.ids]))[0, -1] @ model.head[0] + model.bias[0]
        for tree in trees
        for s in tree
    ]
    torch.testing.assert_close(model.scores(batch), torch.stack(alone))


@given(encoded_trees(n=2))
def test_the_score_of_tokens_is_the_sum_over_them_of_state_before_and_row(trees):
    """In plain loops, each text alone: h before a token, times the token's own row of the head."""
    model, batch = token_model(), pack(trees)
    expected = []
    for s in (s for tree in trees for s in tree):
        states = model.hidden(torch.tensor([s.ids]))[0]  # (T, C)
        start = len(s.prompt)
        expected.append(sum(states[start + i - 1] @ model.head[token] for i, token in enumerate(s.response)))
    torch.testing.assert_close(model.scores(batch), torch.stack(expected) + model.bias)


def token_model():
    model = ScalarModel(tiny_gpt(1), tiny_gpt(1).config.vocab_size).double().eval()
    assert not model.head.any(), "every response begins with 0"
    torch.manual_seed(1)
    model.head.data.normal_()
    return model


def test_every_weight_of_a_reward_model_is_given_to_the_optimizer():
    """A head of (V, C) is no vector and no matrix of a block."""
    model = token_model()
    for kind in ("adamw", "muon"):
        optimizer = make_optimizer(model, LoopConfig(steps=1, lr=1.0, optimizer=kind))
        given = [id(p) for group in optimizer.param_groups for p in group["params"]]
        assert sorted(given) == sorted(map(id, model.parameters()))


def test_the_score_of_a_conversation_is_read_at_its_end_however_much_of_it_is_trained_on():
    """Of a demonstration of several turns some response tokens are no targets."""
    masked = [Encoded([1], [2, 3, 4, 2], [True, False, False, True]), Encoded([1, 2], [3, 4], [False, True])]
    plain = [sequence._replace(trained=None) for sequence in masked]
    assert torch.equal(last_places(collate(masked)), last_places(collate(plain)))
    assert last_places(collate(plain)).tolist() == [4, 8]


def scalar_model():
    torch.manual_seed(0)
    return ScalarModel(tiny_gpt(1), 1).double().eval()


def test_the_reward_model_begins_as_the_trunk_with_a_calm_head():
    model = scalar_model()
    C = model.config.n_embd
    assert 0.3 < float(model.head.detach().norm()) * math.sqrt((C + 1) / C) < 3 and not model.bias.any()
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in model.h.parameters()) + sum(
        p.numel() for name, p in model.named_parameters() if not name.startswith("h.")
    )


# --- the loop


def task(reference, reward, **changes):
    settings = dict(reference=reference, score=judge(reward), prompts=PROMPTS, end_of_text=END, beta=BETA)
    settings |= dict(n_prompts=2, k=1, max_new_tokens=LONGEST_RESPONSE, missing_end=0.0)
    return Task(**{**settings, **changes})


@pytest.mark.parametrize("name", ALGORITHMS)
def test_each_algorithm_raises_j(tea_house, name, tmp_path):
    reference, reward = tea_house
    reward = 3 * reward  # unfinished responses get 0
    value = ScalarModel(reference, 1).double() if name == "ppo" else None
    learner = Learner(copy.deepcopy(reference).requires_grad_(True), value)
    config = LoopConfig(steps=40 if name == "ppo" else 80, lr=3e-3, warmup=5, save_every=100)
    some = task(reference, reward, prompts=PROMPTS * 32, n_prompts=16, k=ALGORITHMS[name].k)
    optimise(learner, some, ALGORITHMS[name], config, StageFiles(name, tmp_path, "toy"))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    first, last = (sum(row["rewards/objective"] for row in part) / 10 for part in (rows[:10], rows[-10:]))
    assert last > first + 0.1 and len(rows) == config.steps


def test_a_stopped_optimisation_goes_on_to_the_same_weights(tea_house, tmp_path, monkeypatch):
    """Stopped between two steps, after a checkpoint: weights and log are those of an unbroken run."""
    reference, reward = tea_house
    ends = []

    def start(folder):
        torch.manual_seed(0)
        value = ScalarModel(reference, 1).double().requires_grad_(True)
        learner = Learner(copy.deepcopy(reference).requires_grad_(True), value)
        config = LoopConfig(steps=8, lr=1e-3, save_every=5)
        optimise(
            learner, task(reference, reward), ALGORITHMS["ppo"], config, StageFiles("ppo", folder, "toy")
        )
        return torch.cat([p.detach().flatten() for p in learner.parameters()])

    for stop in (None, 6):
        folder = tmp_path / str(stop)
        folder.mkdir()
        if stop:
            with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
                patched.setattr(loop, "roll_out", stopping(loop.roll_out, stop))
                start(folder)
        ends.append((start(folder), (folder / "metrics.jsonl").read_bytes()))
    assert torch.equal(ends[0][0], ends[1][0]) and ends[0][1] == ends[1][1]


def stopping(write, step):
    def stopped(policy, task, prompts, seed):
        if seed == step:  # of a run with seed 0
            raise KeyboardInterrupt
        return write(policy, task, prompts, seed)

    return stopped


@pytest.mark.parametrize("name", ["rloo", "ppo"])
def test_a_score_that_is_no_number_stops_with_the_step_named(tea_house, name, tmp_path):
    """The checkpoint before it stays, and no weight is touched by the step."""
    reference, reward = tea_house
    calls = []

    def score(written, batch):
        calls.append(1)
        return judge(reward)(written, batch) * (math.nan if len(calls) == 3 else 1)

    learner = Learner(copy.deepcopy(reference).requires_grad_(True))
    learner.value = ScalarModel(reference, 1).double() if name == "ppo" else None
    files = StageFiles(name, tmp_path, "toy")
    some = task(reference, reward, score=score, prompts=PROMPTS * 8, n_prompts=16, k=ALGORITHMS[name].k)
    with pytest.raises(TrainingFailed, match=f"{name}, step 3: the loss is nan"):
        optimise(learner, some, ALGORITHMS[name], LoopConfig(steps=5, lr=1e-3, save_every=2), files)
    kept = torch.load(files.checkpoint)
    assert kept["step"] == 2 and all(
        torch.equal(w, learner.state_dict()[k]) for k, w in kept["model"].items()
    )


def test_a_value_is_read_before_its_token_and_an_advantage_is_of_its_token(tea_house):
    """The value network says what a text is worth before the token is known."""
    reference, reward = tea_house
    torch.manual_seed(1)
    value = ScalarModel(reference, 1).double().eval()
    rollout = rollout_of(moved(reference), reference, reward, n=2, k=1, seed=2)
    advantages, targets, values = with_values(value, rollout, BETA)
    expected, said = [], rollout.batch.index.targets.split(rollout.batch.lengths.tolist())
    for prompt, response in zip(PROMPTS * 2, said, strict=True):
        text = torch.tensor([prompt + response.tolist()[:-1]])
        expected.append(value.hidden(text)[0] @ value.head[0] + value.bias)
    torch.testing.assert_close(values, torch.cat(expected))
    assert not targets.requires_grad
    plain = generalised_advantages(token_rewards(rollout, BETA), values, rollout.batch.lengths)
    torch.testing.assert_close(targets, plain + values)  # the value learns in units of reward
    assert abs(float(advantages.mean())) < 1e-6 and abs(float(advantages.std()) - 1) < 1e-6
    assert advantages.argsort().tolist() == plain.argsort().tolist()


def planted_bugs():
    """What to change, and the test that must find it."""
    return {
        "the sign of KL": (
            algorithms,
            "token_rewards",
            "(-beta",
            "(beta",
            test_at_the_optimum_every_rloo_advantage_is_zero,
        ),
        "the reward at the first token": (
            algorithms,
            "token_rewards",
            "cumsum(0) - 1",
            "cumsum(0) - rollout.batch.lengths",
            test_the_score_is_at_the_end_and_each_token_pays_for_its_divergence,
        ),
        "old log-probs with gradient": (
            rollout_file,
            "roll_out",
            "torch.no_grad()",
            "torch.enable_grad()",
            test_the_policy_that_wrote_has_no_gradient,
        ),
        "another response's advantage": (
            algorithms,
            "grpo_loss",
            "index.owners]",
            "index.owners - 1]",
            test_at_the_first_pass_all_have_the_gradient_of_reinforce,
        ),
        "the value after the token": (
            algorithms,
            "with_values",
            "batch.index.rows)",
            "batch.index.rows + 1)",
            test_a_value_is_read_before_its_token_and_an_advantage_is_of_its_token,
        ),
        "the ratio inverted": (
            algorithms,
            "clipped",
            "log_ratio.exp()",
            "log_ratio.neg().exp()",
            test_the_ratio_is_new_over_old,
        ),
        "a baseline with its own response": (
            algorithms,
            "leave_one_out",
            "(groups.sum(1, keepdim=True) - groups) / (k - 1)",
            "groups.mean(1, keepdim=True)",
            lambda tea: test_a_baseline_never_contains_its_own_response(),
        ),
        "the state at the token, not before it": (
            reward_file.ScalarModel,
            "scores",
            "batch.index.rows)",
            "batch.index.rows + 1)",
            lambda tea: test_the_score_of_tokens_is_the_sum_over_them_of_state_before_and_row(),
        ),
        "the score at the token before the last": (
            reward_file,
            "last_places",
            "end - 1 for",
            "end - 2 for",
            lambda tea: test_the_score_is_read_at_the_last_token_of_each_response(),
        ),
    }


@pytest.mark.parametrize("bug", planted_bugs())
def test_a_planted_bug_is_found(bug, monkeypatch, tea_house):
    module, name, old, new, killer = planted_bugs()[bug]
    plant(monkeypatch, module, name, old, new)
    any_counterexample_will_do(monkeypatch)
    with pytest.raises(Exception) as caught:
        killer(tea_house)
    assert not isinstance(caught.value, (NameError, TypeError)), caught.value


def test_a_model_that_knows_how_labels_are_drawn_is_calibrated():
    """On pairs drawn from its own scores, how sure is how right, to four deviations. Catches
    a model that is twice as sure as it may be.
    """
    torch.manual_seed(0)
    model = ScalarModel(tiny_gpt(0, vocab_size=5, context=8).float(), 1).eval()
    with torch.no_grad():
        model.head.mul_(3)
    texts = [Encoded([1], [i, j, 4]) for i in range(4) for j in range(4)]
    scores = model.scores(collate(texts)).detach()
    pairs = []
    for _ in range(1500):
        a, b = torch.randperm(16)[:2].tolist()
        won = float(torch.rand(())) < float(torch.sigmoid(scores[a] - scores[b]))
        pairs.append(EncodedPair(texts[a], texts[b]) if won else EncodedPair(texts[b], texts[a]))

    def off(model):
        n = len(pairs) / 5
        return [abs(sure - hit) / (sure * (1 - sure) / n) ** 0.5 for sure, hit in calibration(model, pairs)]

    assert max(off(model)) < 4
    with torch.no_grad():
        model.head.mul_(2)
    assert max(off(model)) > 4


# --- the command


def test_the_command_trains_beside_dpo(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    flags = [
        *SHAPE,
        "--context",
        "128",
        "--sft-steps",
        "3",
        "--steps",
        "3",
        "--eval-examples",
        "8",
        "--out",
        "run",
    ]
    flags = [f for f in flags if f != "40"]
    flags.remove("--context")
    assert run(monkeypatch, capsys, train, *flags)[0] == 0
    for reward in ("tokens", "last", "true"):
        argv = ["run", "--steps", "2", "--responses", "8", "--reward-epochs", "0.02", "--reward", reward]
        status, said, err = run(monkeypatch, capsys, rlhf, *argv)
        assert status == 0 and ("reward model: right about" in said) == (reward != "true"), err
        heads = next(line for line in said.splitlines() if line.startswith("on held-out prompts")).split()
        assert heads[-3:] == ["SFT", "RLOO", "DPO"]
        assert (tmp_path / "run" / f"rloo-{reward}" / "policy.pt").exists()
    for reward in ("tokens", "true"):
        online = [*argv[:-1], reward, "--algorithm", "dpo", "--steps", "3", "--responses", "64"]
        status, of_dpo, err = run(monkeypatch, capsys, rlhf, *online)
        assert status == 0 and "round 3 of 3: the policy answers 32 prompts" in of_dpo, err
        assert (tmp_path / "run" / f"dpo-{reward}" / "round-3.json").exists()
    status, again, _ = run(monkeypatch, capsys, rlhf, *argv)
    assert status == 0 and again.splitlines()[-1] == said.splitlines()[-1], "a finished one is measured again"
    status, _, err = run(monkeypatch, capsys, rlhf, *argv, "--beta", "9")
    assert status == 2 and "rloo-true was made with other settings" in err


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--beta", "0"], "--beta must be positive"),
        (["--responses", "6"], "--responses must be a multiple of 4"),
        (["--steps", "0"], "--steps must be positive"),
    ],
)
def test_what_cannot_be_is_one_line(monkeypatch, capsys, flags, message):
    status, _, err = run(monkeypatch, capsys, rlhf, "nowhere", *flags)
    assert status == 2 and message in err and err.count("\n") == 1
