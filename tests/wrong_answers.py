"""Typical wrong answers to the tutorial's exercises, each with words of the message that must name its
mistake.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
from statistics import fmean, pstdev, stdev

import torch
from torch.nn.functional import logsigmoid


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x > 0 else math.exp(x) / (1 + math.exp(x))


# --- chapter 1


def surplus(sign=1.0, weight=lambda s, w, l: sigmoid(s[l] - s[w]), losers_too=True, mean=False):
    def answer(scores, winners, losers):
        out = [0.0] * len(scores)
        for w, l in zip(winners, losers, strict=True):
            out[w] -= sign * weight(scores, w, l)
            out[l] += sign * weight(scores, w, l) * losers_too
        return [x / len(winners) for x in out] if mean else out

    return answer


def reaches_everyone(wins):
    seen, todo = {0}, [0]
    while todo:
        new = {b for b, n in enumerate(wins[todo.pop()]) if n} - seen
        seen |= new
        todo += new
    return len(seen) == len(wins)


def each_won_and_lost(wins):
    return all(any(row) for row in wins) and all(any(column) for column in zip(*wins, strict=True))


# --- chapter 2


def naive_log_softmax(logits, token):
    return math.log(math.exp(logits[token]) / sum(math.exp(z) for z in logits))


def appends(prompt, response, end):
    response.append(end)
    return prompt + response, [False] * len(prompt) + [True] * len(response)


def sequence(rows=-1, mean=False, which=lambda mask, t: mask[t]):
    def answer(logits, ids, mask):
        found = [
            logits[t + rows].log_softmax(-1)[ids[t]].item()
            for t in range(1 if rows else 0, len(ids))
            if which(mask, t)
        ]
        return sum(found) / len(found) if mean else sum(found)

    return answer


# --- chapter 3


def draw_with(before):
    def answer(probabilities, u):
        total = 0.0
        for token, p in enumerate(probabilities):
            total += p
            if before(u, total):
                return token

    return answer


def draw_by_single_probability(probabilities, u):
    return next((token for token, p in enumerate(probabilities) if u < p), len(probabilities) - 1)


def nucleus(crossing=True, divide=True, in_place=True):
    def answer(probabilities, top_p):
        order, kept, total = sorted(range(len(probabilities)), key=lambda i: -probabilities[i]), [], 0.0
        for i in order:
            if total >= top_p or (not crossing and kept and total + probabilities[i] > top_p):
                break
            kept.append(i)
            total += probabilities[i]
        result = [
            probabilities[i] / (total if divide else 1) if i in kept else 0.0
            for i in (range(len(probabilities)) if in_place else order)
        ]
        return result

    return answer


# --- chapter 4


def halving(keep_low, low=1e-3, high=1e3, reverse=False):
    def answer(ref, reward, nats, low=low, high=high):
        for _ in range(100):
            middle = (low * high) ** 0.5
            p = (ref + reward / middle).log_softmax(-1)
            a, b = (ref, p) if reverse else (p, ref)
            far = (a.exp() * (a - b)).sum() > nats
            if far == keep_low:
                low = middle
            else:
                high = middle
        return middle

    return answer


# --- chapters 5 and 8


def margin(w, l, ref_w, ref_l):
    return w - ref_w - l + ref_l


def cut_gradient(average):
    return average - torch.log((1 - average.exp()).clamp(min=1e-12))


# --- chapter 6


def schedule(first=1, span=None):
    def answer(step, steps, warmup, peak):
        if warmup and step < warmup:
            return peak * (step + first) / warmup
        done = step / steps if span == "all" else (step - warmup) / (steps - warmup)
        return peak * (1 - done) if span == "line" else peak * (1 + math.cos(math.pi * done)) / 2

    return answer


# --- chapter 9


def one_direction(n, pairs):
    seen, todo = {0}, [0]
    while todo:
        here = todo.pop()
        new = {b for a, b in pairs if a == here} - seen
        seen |= new
        todo += new
    return len(seen) == n


# --- chapter 10


def reader(split=lambda text: text.split("\n"), first=1, strict=True, blank=lambda line: not line.strip()):
    def answer(text):
        pairs = []
        for number, line in enumerate(split(text), first):
            if blank(line):
                continue
            row = json.loads(line) if strict else dict(json.loads(line))
            pair = {key: row[key] for key in ("prompt", "chosen", "rejected")}
            if strict and not all(isinstance(value, str) for value in pair.values()):
                raise ValueError(f"line {number}")
            if strict and not (pair["chosen"].strip() and pair["rejected"].strip()):
                raise ValueError(f"line {number}")
            pairs.append(pair)
        return pairs

    def with_line(text):
        try:
            return answer(text)
        except (ValueError, KeyError, TypeError) as error:
            if not strict:
                raise
            for number, line in enumerate(split(text), first):
                try:
                    answer(line)
                except (ValueError, KeyError, TypeError):
                    raise ValueError(f"line {number}: {error}") from error
            raise

    return with_line


def hold_out_by_hash(prompts, share):
    return [hash(prompt) % 1000 < share * 1000 for prompt in prompts]


def by_rank(prompts, share):
    order = sorted(set(prompts), key=lambda p: hashlib.sha256(p.encode()).digest())
    held = set(order[: round(share * len(order))])
    return [prompt in held for prompt in prompts]


def by_chance(prompts, share):
    rng = random.Random(0)
    return [rng.random() < share for _ in prompts]


def inverted(prompts, share):
    return [int.from_bytes(hashlib.sha256(p.encode()).digest()[:4], "big") / 2**32 >= share for p in prompts]


# --- chapter 11


def is_ancestor(
    parents, query, key, first=lambda parents, query: query, above=lambda parents, query: parents[query]
):
    query = first(parents, query)
    while query >= 0:
        if query == key:
            return True
        query = above(parents, query)
    return False


def cutting(fits=lambda used, size, room: used + size <= room, start=(), last=True):
    def answer(sizes, room):
        batches, batch = [list(part) for part in start], []
        for i, size in enumerate(sizes):
            if batch and not fits(sum(sizes[j] for j in batch), size, room):
                batches.append(batch)
                batch = []
            batch.append(i)
        return batches + [batch] * last

    return answer


# --- chapter 12


def renaming(cut=lambda name: name.removeprefix("transformer."), gone=(".attn.bias", ".attn.masked_bias")):
    def answer(name):
        name = cut(name)
        return "" if name == "lm_head.weight" or name.endswith(gone) else name

    return answer


def with_rows(new):
    return lambda embedding, k: torch.cat([embedding, new(embedding, k)])


def letter_by_letter(chosen, rejected):
    n = 0
    while n < min(len(chosen), len(rejected)) and chosen[n] == rejected[n]:
        n += 1
    if len(chosen) != n + 1 or len(rejected) != n + 1 or chosen[-1][0] != "assistant":
        raise ValueError("not one response each")
    one, two = chosen[-1][1], rejected[-1][1]
    same = next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), 0)
    return chosen[:-1], one[same:], two[same:]


def split_where_they_part(chosen, rejected):
    n = 0
    while n < min(len(chosen), len(rejected)) and chosen[n] == rejected[n]:
        n += 1
    if len(chosen) != n + 1 or len(rejected) != n + 1 or chosen[-1][0] != "assistant":
        raise ValueError("not one response each")
    return chosen[:n], chosen[n][1], rejected[n][1]


def first_turn_only(chosen, rejected):
    return chosen[:1], chosen[-1][1], rejected[-1][1]


def without_a_look(chosen, rejected):
    if not chosen or not rejected:
        raise ValueError("nothing")
    return chosen[:-1], chosen[-1][1], rejected[-1][1]


# --- chapter 13


def normed(finish):
    return lambda x, w, b: finish((x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt(), w, b)


def attention(
    seen=lambda T: torch.ones(T, T).tril().bool(),
    scale=lambda D: D**0.5,
    weights=lambda scores: scores.softmax(-1),
):
    def answer(q, k, v):
        scores = (q @ k.T / scale(q.shape[1])).masked_fill(~seen(len(q)), -math.inf)
        return weights(scores) @ v

    return answer


def halved(scores):
    """Right for the first position, and less than one in all for the others."""
    return torch.cat([scores[:1].softmax(-1), scores[1:].softmax(-1) / 2])


# --- chapter 14


def counted(
    made=lambda things, caption: sum(t not in things or t in caption[:i] for i, t in enumerate(caption)),
    seen=lambda things, caption: len(things & set(caption)),
    chair=lambda made, named: sum(made) / max(1, sum(map(len, named))),
):
    def answer(there, named):
        made_up = [made(*both) for both in zip(there, named, strict=True)]
        recall = sum(seen(*both) for both in zip(there, named, strict=True)) / sum(map(len, there))
        return chair(made_up, named), sum(n > 0 for n in made_up) / len(named), recall

    return answer


def three_terms(*margins):
    """mDPO's loss with other margins, each a function of (r_w, r_l, r_o, beta, anchor)."""
    return lambda *given: -sum(logsigmoid(margin(*given)) for margin in margins)


MDPO = (
    lambda w, l, o, beta, anchor: beta * (w - l),
    lambda w, l, o, beta, anchor: beta * (w - o),
    lambda w, l, o, beta, anchor: beta * w - anchor,
)


# --- chapter 15


def below(beginning, responses, begins=lambda y, s: y[: len(s)] == s):
    return torch.tensor([begins(y, beginning) for y in responses])


def valued(find):
    """An answer that sees the log-probs and rewards of the responses below the beginning."""

    def answer(beginning, responses, ref_logps, reward, beta, **how):
        which = below(beginning, responses, **how)
        return float(find(ref_logps[which], reward[which], beta))

    return answer


def value(ref, reward, beta):
    return beta * ((ref + reward / beta).logsumexp(-1) - ref.logsumexp(-1))


def shaping(last=0.0, sign=1.0, keep=True):
    def answer(rewards, potentials):
        after = [*potentials[1:], potentials[-1] if last is None else last]
        return [keep * r + sign * (b - a) for r, a, b in zip(rewards, potentials, after, strict=True)]

    return answer


# --- chapter 16


def of_gaps(ours, theirs, spread=stdev, root=True):
    gaps = [a - b for a, b in zip(ours, theirs, strict=True)]
    return spread(gaps) / (math.sqrt(len(gaps)) if root else 1)


def verdicts(vote):
    return lambda judge, ours, theirs: fmean(vote(judge, a, b) for a, b in zip(ours, theirs, strict=True))


# --- chapter 17


def moved(which=lambda compared: ~compared, own=False, normalised=True):
    def answer(ref, change, compared):
        logits = ref + (change if own else torch.where(compared, change, 0.0))
        policy = logits.log_softmax(-1) if normalised else logits
        return float(policy.exp()[which(compared)].sum())

    return answer


def told(weigh=lambda p: p * (1 - p), orders=2, joint=lambda w: w[:, None] * w, diagonal=None):
    def answer(weights, reward):
        p = torch.sigmoid(reward[:, None] - reward)
        each = orders * joint(weights) * weigh(p)
        return (each.sum(1) if diagonal is None else diagonal(weights)).diag() - each

    return answer


# --- chapter 18


def sloped(own=1.0, around=True, sign=-1.0, power=0):
    def answer(ref, reward, beta):
        policy = (ref + reward / beta).softmax(-1)
        apart = reward - around * (policy * reward).sum()
        return float(sign * (policy * apart * (reward / beta + own * ref)).sum()) / beta**power

    return answer


# --- chapter 19


def two_parts(power=1.0, order=1, flip=False):
    def answer(n, first, m, second):
        price = (first - second) / (n**-power - m**-power)
        if flip and m < n:
            price = -price
        return (first - price / n, price)[::order]

    return answer


# --- chapter 20


def grouped(baseline, size=lambda returns, k: k):
    def answer(returns, k):
        n = size(returns, k)
        groups = [returns[i : i + n] for i in range(0, len(returns), n)]
        return [own - baseline(group, own) for group in groups for own in group]

    return answer


def backwards(after=0.0, forget=False, early=False, lam_on_value=False):
    def answer(rewards, values, lam):
        later, following, out = 0.0, after, []
        for r, v in zip(reversed(rewards), reversed(values), strict=True):
            surprise = r + (0 if forget else lam * following if lam_on_value else following) - v
            later = lam * (surprise + later) if early else surprise + lam * later
            following = v
            out.append(later)
        return out[::-1]

    return answer


# --- chapter 21


def around(width, centre=fmean):
    return lambda numbers, t: (centre(numbers) - width(numbers, t), centre(numbers) + width(numbers, t))


def errors(numbers, t):
    return t * stdev(numbers) / len(numbers) ** 0.5


def judging(exact=lambda n, least: min(n) > least, decides=lambda n, t: fmean(n) - errors(n, t), words=None):
    def answer(numbers, least, is_exact, t):
        right = exact(numbers, least) if is_exact else decides(numbers, t) > least
        return (words or ("holds", "false") if is_exact else words or ("holds here", "not here"))[not right]

    return answer


def along(points, far, best=True, longer=False, order=sorted):
    points = order(points)
    found = [reward for kl, reward in points if kl <= far] if best else []
    for (near, low), (beyond, high) in itertools.pairwise(points):
        last = longer and (beyond, high) == points[-1]
        if near <= far < beyond or (last and far >= near):
            found.append(low + (high - low) * (far - near) / (beyond - near))
    return max(found, default=points[-1][1])


# --- chapter 22


def looked_up(
    rows=slice(None, -1), tokens=slice(1, None), scored=lambda mask: mask[:, 1:], total=lambda x: x.sum(1)
):
    def answer(logits, ids, mask):
        chosen = logits[:, rows].log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
        return total(chosen.masked_fill(~scored(mask), 0))

    return answer


def multiplied(logits, ids, mask):
    chosen = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    return (chosen * mask[:, 1:]).sum(1)


def adam(first=0.9, second=0.95, corrected=True, root=lambda v: v.sqrt() + 1e-8, sign=1):
    def answer(value, gradient, m, v, t, lr):
        m, v = first * m + (1 - first) * gradient, second * v + (1 - second) * gradient**2
        a, b = (m / (1 - first**t), v / (1 - second**t)) if corrected else (m, v)
        return value - sign * lr * a / root(b), m, v

    return answer


def adam_in_place(value, gradient, m, v, t, lr):
    m.mul_(0.9).add_(0.1 * gradient)
    v.mul_(0.95).add_(0.05 * gradient**2)
    return value - lr * (m / (1 - 0.9**t)) / ((v / (1 - 0.95**t)).sqrt() + 1e-8), m.clone(), v.clone()


def answering(keeps_end=True, cut=0, reads=lambda prompt, said: prompt + said, grows=False, asks_all=False):
    def answer(probabilities, prompt, end, longest, uniforms):
        said = []
        while len(said) < longest + cut:
            p, u = probabilities(reads(prompt, said)), next(uniforms)
            token = next((i for i in range(len(p)) if u < sum(p[: i + 1])), len(p) - 1)
            if token != end or keeps_end:
                said.append(token)
            if grows:
                prompt.append(token)
            if token == end or (asks_all and end in prompt):
                break
        return said

    return answer


WRONG = {
    (1, "preference_probability"): [
        (lambda a, b: sigmoid(b - a), "swapped"),
        (lambda a, b: a / (a + b) if a + b else 0.5, "a ratio of scores"),
        (lambda a, b: (1 + math.erf((a - b) / 2)) / 2, "another curve"),
        (lambda a, b: 1 / (1 + 10 ** max(-300, min(300, b - a))), "another base"),
        (lambda a, b: math.exp(a) / (math.exp(a) + math.exp(b)), "exp of a large number"),
    ],
    (1, "missing_wins"): [
        (surplus(sign=-1.0), "sign"),
        (surplus(losers_too=False), "only the winners"),
        (surplus(weight=lambda s, w, l: sigmoid(s[w] - s[l])), "the outcome that happened"),
        (surplus(mean=True), "mean over the comparisons"),
    ],
    (1, "has_finite_fit"): [
        (reaches_everyone, "only one direction"),
        (each_won_and_lost, "within its group"),
        (
            lambda wins: all(wins[a][b] and wins[b][a] for a in range(len(wins)) for b in range(a)),
            "each pair",
        ),
    ],
    (2, "log_probability"): [
        (naive_log_softmax, "exp(1000) overflows"),
        (lambda logits, token: logits[token], "without its denominator"),
        (
            lambda logits, token: math.log2(math.exp(logits[token]) / sum(map(math.exp, logits))),
            "log in base 2",
        ),
    ],
    (2, "lay_out"): [
        (lambda p, r, end: (p + r, [False] * len(p) + [True] * len(r)), "the end was forgotten"),
        (lambda p, r, end: (p + r + [end], [False] * len(p) + [True] * len(r)), "no place in the mask"),
        (
            lambda p, r, end: (p + r + [end], [False] * len(p) + [True] * len(r) + [False]),
            "not under the mask",
        ),
        (
            lambda p, r, end: (
                p + r + [end],
                [False] * (len(p) - 1) + [True] * (len(r) + 2) if p else [True] * (len(r) + 1),
            ),
            "shifting is not its business",
        ),
        (appends, "changes the caller's list"),
    ],
    (2, "response_logp"): [
        (sequence(rows=0), "its own row"),
        (sequence(which=lambda mask, t: True), "the prompt is counted"),
        (sequence(mean=True), "a mean over the tokens"),
        (sequence(which=lambda mask, t: mask[t] and (t + 1 < len(mask) or t < 3)), "the end is not counted"),
    ],
    (3, "perplexity"): [
        (lambda logps, lengths: math.exp(-sum(logps) / len(logps)), "no division by the number of tokens"),
        (
            lambda logps, lengths: (
                sum(math.exp(-s / n) for s, n in zip(logps, lengths, strict=True)) / len(logps)
            ),
            "mean over responses",
        ),
        (lambda logps, lengths: math.exp(sum(logps) / sum(lengths)), "a sign"),
        (lambda logps, lengths: math.exp(-sum(logps)) ** (1 / sum(lengths)), "take the mean first"),
    ],
    (3, "draw"): [
        (draw_with(lambda u, total: u <= total), "`<=` where `<` is meant"),
        (draw_with(lambda u, total: u < total), "nothing is returned"),
        (draw_by_single_probability, "instead of the sum up to there"),
    ],
    (3, "keep_likeliest"): [
        (nucleus(crossing=False), "one token too few"),
        (nucleus(divide=False), "not divided by what was kept"),
        (nucleus(in_place=False), "sorted order"),
    ],
    (4, "optimum"): [
        (lambda ref, r, beta: ref + r / beta, "Z was left out"),
        (lambda ref, r, beta: (r / beta).log_softmax(-1), "the reference is not in it"),
        (lambda ref, r, beta: (ref + r * beta).log_softmax(-1), "multiplied where it divides"),
        (lambda ref, r, beta: (ref + r / beta**2).log_softmax(-1), "divided by beta, once"),
        (
            lambda ref, r, beta: ((ref + r / beta).exp() / (ref + r / beta).exp().sum()).log(),
            "stay with logarithms",
        ),
    ],
    (4, "gain"): [
        (
            lambda ref, r, beta: float(beta * torch.logsumexp(ref + r / beta, -1)),
            "the reference's own reward",
        ),
        (
            lambda ref, r, beta: float(torch.logsumexp(ref + r / beta, -1) - (ref.exp() * r).sum()),
            "without the factor beta",
        ),
        (
            lambda ref, r, beta: float(
                beta * (ref.exp() * (r / beta).exp()).sum().log() - (ref.exp() * r).sum()
            ),
            "use logsumexp",
        ),
    ],
    (4, "beta_for"): [
        (halving(keep_low=False), "wrong half"),
        (halving(keep_low=True, reverse=True), "the other way round"),
        (halving(keep_low=True, low=1.0), "wrong half of the interval is kept"),
    ],
    (5, "preferred"): [
        (lambda p, ref, beta: torch.sigmoid(beta * (p[:, None] - p[None, :])), "the reference is missing"),
        (
            lambda p, ref, beta: torch.sigmoid(((p - ref)[:, None] - (p - ref)[None, :]) / beta),
            "beta divides",
        ),
        (lambda p, ref, beta: torch.sigmoid(beta * ((p - ref)[None, :] - (p - ref)[:, None])), "swapped"),
    ],
    (5, "dpo_loss"): [
        (lambda w, l, rw, rl, beta: -logsigmoid(beta * (w - l)), "the reference is not subtracted"),
        (lambda w, l, rw, rl, beta: -logsigmoid(beta * margin(w, l, rw, rl)).mean(), "a mean over the batch"),
        (lambda w, l, rw, rl, beta: -logsigmoid(-beta * margin(w, l, rw, rl)), "swapped"),
        (lambda w, l, rw, rl, beta: -logsigmoid(beta**2 * margin(w, l, rw, rl)), "beta twice"),
        (
            lambda w, l, rw, rl, beta: -torch.sigmoid(beta * margin(w, l, rw, rl)).log(),
            "has both steps in one",
        ),
    ],
    (5, "dpo_slopes"): [
        (
            lambda w, l, rw, rl, beta: (
                beta * torch.sigmoid(-beta * margin(w, l, rw, rl)),
                -beta * torch.sigmoid(-beta * margin(w, l, rw, rl)),
            ),
            "the sign",
        ),
        (
            lambda w, l, rw, rl, beta: (
                -torch.sigmoid(-beta * margin(w, l, rw, rl)),
                torch.sigmoid(-beta * margin(w, l, rw, rl)),
            ),
            "beta missing in front",
        ),
        (
            lambda w, l, rw, rl, beta: (
                -beta * torch.sigmoid(beta * margin(w, l, rw, rl)),
                beta * torch.sigmoid(beta * margin(w, l, rw, rl)),
            ),
            "sigmoid(m) where sigmoid(-m)",
        ),
        (
            lambda w, l, rw, rl, beta: (
                -beta * torch.sigmoid(-margin(w, l, rw, rl)),
                beta * torch.sigmoid(-margin(w, l, rw, rl)),
            ),
            "not inside",
        ),
    ],
    (6, "mean_loss"): [
        (
            lambda sums, counts: sum(s / n for s, n in zip(sums, counts, strict=True)) / len(sums),
            "a mean of the batches' means",
        ),
        (lambda sums, counts: sum(sums) / len(counts), "divided by the number of batches"),
        (lambda sums, counts: sum(sums) / sum(max(1, n) for n in counts), "the empty batch counted as one"),
    ],
    (6, "learning_rate"): [
        (schedule(first=0), "begins at 0"),
        (schedule(span="all"), "stretched over all steps"),
        (schedule(span="line"), "that is no cosine"),
        (
            lambda step, steps, warmup, peak: (
                peak
                * min(1, (step + 1) / warmup)
                * (1 if step < warmup else (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2)
            ),
            "a division by warmup",
        ),
    ],
    (6, "mean_change"): [
        (lambda ref, p: float((p - ref).mean()), "a plain mean"),
        (lambda ref, p: float((p.exp() * (p - ref)).sum()), "one under the policy"),
        (lambda ref, p: float((ref.exp() * p).sum()), "instead of their difference"),
        (lambda ref, p: float((ref.exp() * (p - ref)).sum()), "leave it out before multiplying"),
    ],
    (7, "kl_estimate"): [
        (lambda p, ref: float((p - ref).mean()), "that is k1"),
        (lambda p, ref: float(((p - ref) ** 2 / 2).mean()), "k2"),
        (lambda p, ref: float((p - ref - 1 + (p - ref).exp()).mean()), "upside down"),
        (lambda p, ref: float((p - ref + (ref - p).exp()).mean()), "the 1 is missing"),
    ],
    (7, "best_of_n"): [
        (lambda p, n: [x**n for x in p], "p**n for each response"),
        (lambda p, n: [x**n / sum(y**n for y in p) for x in p], "made to sum to one"),
        (
            lambda p, n: [(1 - sum(p[:i])) ** n - (1 - sum(p[: i + 1])) ** n for i in range(len(p))],
            "the worst of n",
        ),
        (
            lambda p, n: [sum(p[: i + 1]) ** (n - 1) - sum(p[:i]) ** (n - 1) for i in range(len(p))],
            "n - 1 draws",
        ),
    ],
    (7, "choose"): [
        (lambda betas, rates, n: betas[rates.index(max(rates))], "the first"),
        (
            lambda betas, rates, n: max((w, b) for b, w in zip(betas, rates, strict=True))[1],
            "the best win rate's own beta",
        ),
        (
            lambda betas, rates, n: max(
                b
                for b, w in zip(betas, rates, strict=True)
                if w >= max(rates) - max(rates) * (1 - max(rates)) / n
            ),
            "not a square root",
        ),
    ],
    (8, "ipo_loss"): [
        (lambda h, beta: (h - 1 / beta) ** 2, "a target of 1 / beta"),
        (lambda h, beta: (beta * h - 1 / (2 * beta)) ** 2, "beta inside the square"),
        (lambda h, beta: ((h - 1 / (2 * beta)) ** 2).mean(), "mean over the batch"),
    ],
    (8, "unflip"): [
        (lambda loss, m, e: (1 - e) * loss(m) + e * loss(-m), "that is cDPO"),
        (lambda loss, m, e: (1 - e) * loss(m) - e * loss(-m), "the division by 1 - 2 epsilon is missing"),
        (lambda loss, m, e: loss(m) / (2 - 4 * e), "a factor too many"),
    ],
    (8, "log_odds"): [
        (lambda average: average - torch.log(1 - average.exp()), "loses all its digits"),
        (lambda average: average - torch.log(1 - average), "1 - average"),
        (cut_gradient, "expm1 keeps them"),
        (lambda average: (average.exp() / -torch.expm1(average)).log(), "log(exp(...))"),
    ],
    (9, "will_rise"): [
        (lambda f, p, w, l: bool(f[w] @ (f[w] - f[l]) > 0), "the mean feature is left out"),
        (lambda f, p, w, l: bool((f[w] - f.mean(0)) @ (f[w] - f[l]) > 0), "a plain mean"),
        (lambda f, p, w, l: bool((f[w] - p @ f) @ (f[l] - f[w]) > 0), "the sign of the difference"),
    ],
    (9, "is_determined"): [
        (lambda n, pairs: n == 1 or len({i for pair in pairs for i in pair}) == n, "stands in some pair"),
        (lambda n, pairs: len({frozenset(pair) for pair in pairs}) >= n - 1, "how many pairs there are"),
        (lambda n, pairs: len({frozenset(p) for p in pairs}) == n * (n - 1) // 2, "every pair was asked for"),
        (one_direction, "every pair was asked for"),
    ],
    (9, "length_corrected"): [
        (lambda m, w, l, alpha: m - alpha * (w - l), "subtracting rewards length"),
        (lambda m, w, l, alpha: m / w - m / l + m, "the sign"),
        (lambda m, w, l, alpha: m + alpha * math.log(w / l), "the lengths' ratio"),
    ],
    (10, "read_pairs"): [
        (reader(split=str.splitlines), "splitlines"),
        (reader(first=0), "counted from 0"),
        (reader(strict=False), "a KeyError or TypeError; or something broken is accepted"),
        (reader(blank=lambda line: not line), "a space is blank as well"),
    ],
    (10, "hold_out"): [
        (by_chance, "decided on its own"),
        (by_rank, "a sorted list of what is there"),
        (hold_out_by_hash, "Python's hash()"),
        (inverted, "the wrong way round"),
    ],
    (10, "training_bytes"): [
        (lambda n, live: n * (12 + 4 * live), "two averages a weight"),
        (lambda n, live: n * (16 + 16 * live), "a model that is not trained"),
    ],
    (11, "sees"): [
        (
            lambda parents, query, key: is_ancestor(
                parents, query, key, first=lambda parents, query: parents[query]
            ),
            "begins at the parent",
        ),
        (lambda parents, query, key: key in (query, parents[query]), "ends too early"),
        (lambda parents, query, key: key <= query, "everything that stands before it in the row"),
        (
            lambda parents, query, key: is_ancestor(
                parents, query, key, above=lambda p, q: p[q] if p[q] >= 0 else q - 1
            ),
            "another prompt's text",
        ),
        (
            lambda parents, query, key: is_ancestor(parents, query, key) or is_ancestor(parents, key, query),
            "in both directions",
        ),
    ],
    (11, "step_flops"): [
        (
            lambda body, head, prompt, responses, live: (
                (6 + 2 * live) * (body + head) * (prompt + sum(responses))
            ),
            "counted for the prompt as well",
        ),
        (
            lambda body, head, prompt, responses, live: (
                (6 + 2 * live) * (body * len(responses) * prompt + (body + head) * sum(responses))
            ),
            "number of responses",
        ),
        (
            lambda body, head, prompt, responses, live: (
                (6 + 6 * live) * (body * prompt + (body + head) * sum(responses))
            ),
            "a backward pass",
        ),
    ],
    (11, "cut"): [
        (cutting(last=False), "never added"),
        (cutting(start=([],)), "before the first example comes"),
        (cutting(fits=lambda used, size, room: used < room), "after the example was added"),
        (cutting(fits=lambda used, size, room: used + size < room), "`<` where `<=` is meant"),
    ],
    (12, "our_name"): [
        (renaming(cut=lambda name: name[len("transformer.") :]), "cut by its length"),
        (renaming(gone=(".attn.bias",)), "one of the two masks"),
        (renaming(gone=("attn.bias", "attn.masked_bias", "c_attn.bias")), "own bias is taken for the mask"),
        (lambda name: renaming(cut=lambda name: name)(name), "the prefix"),
    ],
    (12, "with_new_rows"): [
        (with_rows(lambda e, k: e.new_zeros(k, e.shape[1])), "zeros"),
        (with_rows(lambda e, k: 0.02 * torch.randn(k, e.shape[1], dtype=e.dtype)), "random rows"),
        (with_rows(lambda e, k: e.mean(1, keepdim=True).mean().expand(k, e.shape[1])), "the wrong dimension"),
        (lambda e, k: torch.cat([e.mean(0, keepdim=True).expand(k, -1), e]), "the new rows come first"),
        (with_rows(lambda e, k: e.mean(0, keepdim=True)), "there is one of them"),
    ],
    (12, "split_at_turns"): [
        (letter_by_letter, "letter by letter"),
        (split_where_they_part, "equal responses are taken for a part of the prompt"),
        (first_turn_only, "the first turn only"),
        (without_a_look, "the roles are not looked at"),
    ],
    (13, "layer_norm"): [
        (lambda x, w, b: x / (x.square().mean() + 1e-5).sqrt() * w + b, "the mean was not subtracted"),
        (lambda x, w, b: (x - x.mean()) / (x.var() + 1e-5).sqrt() * w + b, "C - 1 instead of C"),
        (lambda x, w, b: (x - x.mean()) / x.std(correction=0) * w + b, "0 / 0"),
        (normed(lambda y, w, b: (y + b) * w), "before the multiplication"),
    ],
    (13, "attend"): [
        (attention(seen=lambda T: torch.ones(T, T).bool()), "later positions were seen"),
        (attention(seen=lambda T: torch.ones(T, T).tril(-1).bool()), "its own value"),
        (lambda q, k, v: (q @ k.T / q.shape[1] ** 0.5).softmax(-1).tril() @ v, "its own value"),
        (attention(weights=lambda s: s.exp().nan_to_num() / s.shape[0]), "its own value"),
        (attention(weights=halved), "do not sum to one"),
        (attention(scale=lambda D: D), "by D"),
        (attention(scale=lambda D: 1), "not at all"),
        (attention(weights=lambda s: s.exp() / s.exp().sum(-1, keepdim=True)), "without subtracting"),
    ],
    (13, "parameters"): [
        (lambda V, T, n, C: (2 * V + T) * C + n * (12 * C * C + 13 * C) + 2 * C, "it is the embedding"),
        (lambda V, T, n, C: (V + T) * C + n * 12 * C * C + 2 * C, "biases, a LayerNorm"),
        (lambda V, T, n, C: (V + T) * C + n * (11 * C * C + 13 * C) + 2 * C, "brings the heads together"),
        (lambda V, T, n, C: V * C + n * (12 * C * C + 13 * C) + 2 * C, "the positions"),
    ],
    (14, "pixels"): [
        (lambda patch: [patch >> 2 * i & 3 for i in reversed(range(16))], "from the highest bits"),
        (lambda patch: [patch >> i & 1 for i in range(16)], "has one bit or four"),
        (lambda patch: [patch >> 4 * i & 3 for i in range(16)], "has one bit or four"),
    ],
    (14, "hallucination"): [
        (counted(chair=lambda made, named: sum(made) / sum(map(len, named))), "stops with ZeroDivisionError"),
        (counted(seen=lambda things, caption: len(things) if caption else 0), "captions one by one"),
        (
            counted(
                chair=lambda made, named: (
                    sum(m / len(y) for m, y in zip(made, named, strict=True) if y) / len(made)
                )
            ),
            "mean of the captions' own shares",
        ),
        (counted(made=lambda things, caption: len(set(caption) - things)), "made sets"),
        (counted(seen=lambda things, caption: sum(t in things for t in caption)), "seen twice"),
    ],
    (14, "mdpo_loss"): [
        (lambda *given: three_terms(*MDPO)(*given).mean(), "a sum over the pairs"),
        (three_terms(*MDPO[:2]), "a term left out"),
        (three_terms(*MDPO[:2], lambda w, l, o, beta, anchor: beta * w + anchor), "with the wrong sign"),
        (three_terms(*MDPO[1:], MDPO[1]), "in the place of the rejected response"),
        (three_terms(*MDPO[:2], lambda w, l, o, beta, anchor: w - anchor), "beta twice or not at all"),
        (lambda *given: -sum(m(*given).sigmoid().log() for m in MDPO), "log(sigmoid(x))"),
    ],
    (15, "soft_value"): [
        (lambda ref, q, beta: float(beta * (q / beta).logsumexp(-1)), "probabilities are left out"),
        (lambda ref, q, beta: float((ref + q / beta).logsumexp(-1)), "beta is missing"),
        (lambda ref, q, beta: float((ref.exp() * q).sum()), "mean or the maximum"),
        (lambda ref, q, beta: float(q.max()), "mean or the maximum"),
        (lambda ref, q, beta: float(beta * (ref.exp() * (q / beta).exp()).sum().log()), "use logsumexp"),
    ],
    (15, "value_of"): [
        (valued(lambda ref, r, beta: beta * (ref + r / beta).logsumexp(-1)), "divided by their sum"),
        (valued(lambda ref, r, beta: value(ref, r, beta) / beta), "divided by their sum"),
        (valued(lambda ref, r, beta: (ref.softmax(-1) * r).sum()), "the mean reward"),
        (
            lambda *given: valued(value)(*given, begins=lambda y, s: set(s) <= set(y) and len(y) >= len(s)),
            "divided by their sum",
        ),
        (
            lambda *given: valued(value)(
                *given, begins=lambda y, s: y == s if s in given[1] else set(s) <= set(y)
            ),
            "anywhere in the response",
        ),
    ],
    (15, "shaped"): [
        (shaping(keep=False), "left out"),
        (shaping(last=None), "behind the last word"),
        (shaping(sign=-1.0), "not neighbours"),
        (lambda r, phi: [r[0] - phi[0], *r[1:]], "leads to"),
    ],
    (16, "paired_error"): [
        (lambda a, b: math.hypot(of_gaps(a, [0] * len(a)), of_gaps(b, [0] * len(b))), "different prompts"),
        (lambda a, b: of_gaps(a, b, spread=pstdev), "N is used"),
        (lambda a, b: of_gaps(a, b, root=False), "the root of N"),
        (lambda a, b: of_gaps(a, b) * math.sqrt(len(a) / 2), "the root of N is missing"),
    ],
    (16, "both_orders"): [
        (verdicts(lambda judge, a, b: (judge(a, b) + judge(b, a)) / 2), "as they are"),
        (verdicts(lambda judge, a, b: judge(a, b)), "one order is asked twice"),
        (verdicts(lambda judge, a, b: (1 - judge(a, b) + judge(b, a)) / 2), "the other side"),
        (
            verdicts(
                lambda judge, a, b: (
                    0.5
                    if judge(a, b) == judge(b, a)
                    else (judge(a, b) if abs(judge(a, b) + judge(b, a) - 1) < 1e-9 else float(a > b))
                )
            ),
            "rounded to winners",
        ),
    ],
    (16, "strict_level"): [
        (lambda k, alpha: 1 - alpha, "1 - alpha is returned"),
        (lambda k, alpha: alpha / k, "a little too strict"),
        (lambda k, alpha: alpha**k, "to the power k"),
        (lambda k, alpha: 1 - (1 - alpha) ** (1 / k), "log1p"),
    ],
    (17, "unseen"): [
        (moved(which=lambda compared: compared), "instead of the others"),
        (moved(normalised=False), "the normaliser is that of the reference"),
        (moved(own=True), "in no pair"),
        (
            lambda ref, change, compared: float(
                ref.exp()[~compared].sum()
                / (ref + torch.where(compared, change, 0.0)).exp().clamp(max=1e308).sum().log().exp()
                + 0 * change.exp().max()
            ),
            "use log_softmax",
        ),
    ],
    (17, "will_be_asked"): [
        (lambda p, n: 1 - (1 - p) ** n, "counted as one draw"),
        (lambda p, n: 1 - (1 - p * p) ** n, "both responses"),
        (lambda p, n: 2 * p * n - p * p * (n == 1), "are added"),
        (lambda p, n: 1 - (1 - p) ** (2 * n), "log1p"),
    ],
    (17, "information"): [
        (told(orders=1), "two orders"),
        (told(weigh=lambda p: p), "is missing"),
        (told(weigh=lambda p: p.minimum(1 - p) / 2), "p is used"),
        (told(diagonal=lambda w: w / 2), "compared with itself"),
        (told(joint=lambda w: (w[:, None] + w) / 4), "of the pair are added"),
    ],
    (18, "entropy"): [
        (lambda logps: float((logps.exp() * logps).nan_to_num().sum()), "the sign is wrong"),
        (lambda logps: float(-(logps.exp() * logps).nansum() / math.log(2)), "base 2"),
        (lambda logps: float(-logps.mean()), "averaged over responses"),
        (lambda logps: float(-(logps.exp() * logps).sum()), "is nan"),
    ],
    (18, "expected_distinct"): [
        (lambda logps, n: float(((1 - logps.exp()) ** n).sum()), "of a miss"),
        (lambda logps, n: float(n), "draws are counted"),
        (lambda logps, n: float((1 - (1 - logps.exp()) ** n).sum()), "log1p"),
    ],
    (18, "entropy_slope"): [
        (sloped(around=False), "around the means"),
        (sloped(own=0.0), "left out"),
        (sloped(own=-1.0), "wrong sign"),
        (sloped(sign=1.0, power=2), "with respect to beta"),
    ],
    (19, "floor_and_price"): [
        (two_parts(order=-1), "are exchanged"),
        (lambda n, first, m, second: (first, (first - second) * n), "through the points"),
        (two_parts(power=0.5), "through the points"),
        (two_parts(flip=True), "a sign is turned"),
    ],
    (19, "labels_for"): [
        (lambda floor, price, wanted: price / wanted, "the floor is forgotten"),
        (lambda floor, price, wanted: price / (wanted + floor), "must be taken off"),
        (lambda floor, price, wanted: price / (wanted - floor), "a negative number"),
        (
            lambda floor, price, wanted: price / (wanted - floor) if wanted > floor else 0.0,
            "a negative number",
        ),
    ],
    (20, "loo_advantages"): [
        (lambda returns, k: list(returns), "not taken off"),
        (grouped(lambda g, own: sum(g) / len(g)), "in its own baseline"),
        (
            grouped(lambda g, own: (sum(g) - own) / (len(g) - 1), lambda r, k: len(r)),
            "the mean of all groups",
        ),
        (lambda r, k: [a - b for a, b in zip(r, r[k:] + r[:k], strict=True)], "the mean of all groups"),
        (grouped(lambda g, own: g[0]), "not kept apart"),
    ],
    (20, "gae"): [
        (backwards(after=1.0), "after the last token"),
        (backwards(forget=True), "after the last token"),
        (backwards(lam_on_value=True), "lam multiplies it"),
        (backwards(early=True), "the next value is forgotten"),
        (
            lambda r, v, lam: [sum(r[t:]) * (lam or 1) - v[t] for t in range(len(r))],
            "the next value is forgotten",
        ),
        (
            lambda r, v, lam: (
                backwards()(r, v, round(lam)) if lam in (0, 1) else [sum(r[t:]) - v[t] for t in range(len(r))]
            ),
            "lam is not a power",
        ),
    ],
    (20, "clipped_gain"): [
        (lambda ratio, a, clip: -min(ratio * a, min(max(ratio, 1 - clip), 1 + clip) * a), "that of a loss"),
        (lambda ratio, a, clip: ratio * a, "it is not cut"),
        (lambda ratio, a, clip: min(ratio, 1 + clip) * a, "on one side only"),
        (lambda ratio, a, clip: min(max(ratio, 1 - clip), 1 + clip) * a, "the cut ratio alone"),
    ],
    (21, "interval"): [
        (lambda numbers, t: (min(numbers), max(numbers)), "those of the numbers"),
        (around(lambda n, t: t * pstdev(n) / len(n) ** 0.5), "by n and not by n - 1"),
        (around(lambda n, t: t * stdev(n)), "the root of n is forgotten"),
        (around(lambda n, t: t * stdev(n) / 2**0.5), "which does not shrink"),
        (around(errors, lambda n: n[0]), "on both sides"),
    ],
    (21, "verdict"): [
        (judging(exact=lambda n, least: fmean(n) > least), "the mean decides"),
        (judging(exact=lambda n, least: min(n) >= least), "the mean decides"),
        (judging(decides=lambda n, t: fmean(n)), "the mean decides"),
        (judging(decides=lambda n, t: fmean(n) + errors(n, t)), "not the lower one"),
        (
            lambda n, least, exact, t: judging()(n, least, exact or stdev(n) == 0, t),
            "the words of the exact claims",
        ),
    ],
    (21, "reward_at"): [
        (lambda far, points: along(points, far, order=list), "not sorted"),
        (lambda far, points: max(r for kl, r in points if kl <= far), "the nearest policy"),
        (lambda far, points: along(points, far, longer=True), "the last line is made longer"),
        (lambda far, points: along(points, far, best=False), "where it falls"),
    ],
    (22, "batch_logps"): [
        (looked_up(total=lambda x: x.sum()), "over all rows, or over none"),
        (looked_up(total=lambda x: x), "over all rows, or over none"),
        (looked_up(rows=slice(1, None)), "in its own row"),
        (multiplied, "multiplied with an infinite log-prob"),
        (lambda *given: looked_up()(*given).detach(), "cuts the answer"),
        (looked_up(scored=lambda mask: torch.ones_like(mask[:, 1:])), "sum to"),
    ],
    (22, "adam_step"): [
        (adam(corrected=False), "no correction of the bias"),
        (adam(sign=-1), "the sign is wrong"),
        (adam_in_place, "in place"),
        (adam(second=0.999), "a decay rate of 0.999"),
        (adam(root=lambda v: (v + 1e-4).sqrt()), "no correction of the bias"),
    ],
    (22, "respond"): [
        (answering(keeps_end=False), "before the end is kept"),
        (answering(asks_all=True), "looks for it in the prompt too"),
        (answering(cut=1), "one token more or less"),
        (answering(cut=-1), "one token more or less"),
        (answering(reads=lambda prompt, said: prompt), "after the prompt alone"),
        (answering(reads=lambda prompt, said: prompt, grows=True), "changes the caller's list"),
    ],
}
