"""The page of a run: whole, safe, true to the run's files; the words' rewards; the log for TensorBoard."""

import html
import importlib.util
import json
import random
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mini_dpo.batches import EncodedPair, collate_pairs, encode
from mini_dpo.cli import ESCAPES
from mini_dpo.corpus.parts import HeldOut
from mini_dpo.data import Preference
from mini_dpo.errors import UserError
from mini_dpo.evaluation.table import closing_rows
from mini_dpo.evaluation.words import SHOWN_PAIRS, token_scale, word_rewards, words
from mini_dpo.files import read_json, write_json, write_jsonl
from mini_dpo.losses import LOSSES
from mini_dpo.objectives import pair_logps
from mini_dpo.report import __main__ as report
from mini_dpo.report.curves import panels, path, thinned, ticks, with_drift
from mini_dpo.report.markup import element, told_prompt
from mini_dpo.report.page import page
from mini_dpo.report.reading import Run, read_run
from mini_dpo.report.words import LEVELS, level, response, scale_of, signed
from mini_dpo.saving import board
from mini_dpo.saving.metrics import PANELS
from mini_dpo.tokenizer import load_tokenizer
from mini_dpo.train import __main__ as train
from mini_dpo.train import closing
from tests.commands import SHORT, SMALL, change_json, run
from tests.strategies import tiny_gpt

MARKUP = "<script>alert(1)</script> </style> & <img src=x onerror=alert(1)> ]]> --> 😀 مرحبا \u202e \x1b[2J"
VOID = {"meta"}
texts = st.text(max_size=30) | st.sampled_from(
    [MARKUP, "</p>", "&lt;", "<!--", '" onclick="x', "'", "\ud800"]
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a finished run on texts full of markup."""
    folder = tmp_path_factory.mktemp("reported")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        rows = [{"prompt": f"<b>{i} & 😀", "chosen": f"<i>yes{i}", "rejected": "</p>é"} for i in range(20)]
        Path("mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        job = ["train", "--data", "mine.jsonl", *SMALL, *SHORT, "--context", "80", "--out", "run"]
        patch.setattr("sys.argv", job)
        train.main()
    return folder


@pytest.fixture
def go(finished, tmp_path, monkeypatch, capsys):
    """A copy of that folder to change; `go(module, ...)` returns (status, out, err)."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return lambda module, *args: run(monkeypatch, capsys, module, *args)


class Reader(HTMLParser):
    """Reads a page and holds it to being whole: every tag closed in its order."""

    def __init__(self, content: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.texts = [], [], [], []
        self.feed(content)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def a_run(**changes) -> Run:
    """A finished run as its files would give it."""
    numbers = {"logps/chosen": -2.5, "logps/rejected": -3.25, "response_tokens": 7.5, "unfinished": 0}
    settings = {"stage": "all", "loss": "dpo", "data": None, "sft_data": None, "id": "ab"}
    summary = {
        "prompts": 2,
        "pairs": 2,
        "loss": "dpo",
        "start": "SFT",
        "seconds": 3.0,
        "token_beta": 0.1,
        "token_against": "reference",
        "sft": {**numbers, "reward": -1.125, "reward_error": 0.375},
        "dpo": {**numbers, "kl": 1.75, "kl_error": 0.625, "reward": 4.5, "reward_error": 0.875}
        | {"reward_gain": 5.625, "reward_gain_error": 0.5, "win_rate": 0.9, "win_rate_error": 0.05},
    }
    rows = [
        {"stage": stage, "step": i, "loss": 1 / i, **({"eval_loss": 0.7} if i == 4 else {})}
        for stage in ("sft", "dpo")
        for i in range(1, 5)
    ]
    samples = [{"prompt": "hello", "sft": "before", "dpo": "after"}]
    pairs = [{"prompt": "hello", "chosen": [["yes", 0.5, 1]], "rejected": [["no", -0.5, 1]]}]
    return Run(settings, {"mini_dpo": "1"}, rows, summary, samples, pairs)._replace(**changes)


# --- whole and safe


def test_the_page_of_a_run_is_whole_and_loads_nothing(finished):
    content = (finished / "run/report.html").read_text(encoding="utf-8")
    found = Reader(content)
    assert {"h1", "table", "svg", "figcaption", "style"} <= set(found.tags)
    assert not {"script", "img", "link", "iframe", "b>", "object", "form", "a"} & set(found.tags)
    names = {name for name, _ in found.attributes}
    assert not names & {"src", "href", "srcset", "action", "data", "style", "xlink:href"}
    assert not [name for name in names if name.startswith("on")]
    assert not re.search(r"https?:|url\(|@import|<script", content)
    assert "<b>" in "".join(found.texts) and "<i>yes" in "".join(found.texts)  # the data, as text


@given(texts, texts, texts, texts)
def test_no_text_is_taken_for_markup(prompt, answer, word, name):
    """Catches: a text that is not escaped, or that the page changes; an attribute that a quote ends."""
    plain, said = Reader(page(a_run())), [prompt, answer, word]
    drawn = a_run(
        samples=[{"prompt": prompt, "sft": answer or "x", "dpo": "after", "marks": {"dpo": {name: 1.0}}}],
        words=[{"prompt": prompt, "chosen": [[word, 0.5, 1]], "rejected": [["no", -0.5, 1]]}],
    )
    drawn.settings.update(data=f"/{name}.jsonl", id=name)
    found = Reader(page(drawn))
    assert set(found.tags) == set(plain.tags) and {n for n, _ in found.attributes} == {
        n for n, _ in plain.attributes
    }
    unbroken = str.maketrans("", "", "\n↵")  # a word's line break is shown as ↵ and made
    shown = "".join(found.texts).translate(unbroken)
    for text in said:
        escaped = text.translate(ESCAPES).encode("utf-8", "backslashreplace").decode()
        assert escaped.translate(unbroken) in shown
    assert not set(page(drawn)) & {chr(code) for code in ESCAPES}


def test_an_attribute_ends_where_its_value_ends():
    assert Reader(element("p", "x", title='" onclick="y', hidden=None)).attributes == [
        ("title", '" onclick="y')
    ]


@pytest.mark.parametrize(
    "prompt", ["one\ntwo", [{"role": "user", "content": MARKUP}, {"role": "b", "content": "c"}]]
)
def test_a_prompt_is_a_text_or_turns(prompt):
    found = Reader(told_prompt(prompt))
    shown = "".join(found.texts)
    if isinstance(prompt, str):
        assert shown == prompt
    else:
        assert shown == f"user {MARKUP.translate(ESCAPES)}\nb c" and "script" not in found.tags


# --- true to the files


def test_every_number_of_the_closing_table_is_on_the_page(finished):
    content = (finished / "run/report.html").read_text(encoding="utf-8")
    cells = re.findall(r"<td>(.*?)</td>", content)
    summary = read_json(finished / "run/summary.json")
    wanted = [c.strip().replace("-", "−") for _, *row in closing_rows(summary)[1:] for c in row]
    assert cells == [html.escape(cell) for cell in wanted] and len(wanted) > 10
    kl = summary["dpo"]["kl"]
    assert f"{kl:.2f}".replace("-", "−") in content.split("<h1>")[1].split("</h1>")[0]


def test_the_same_files_give_the_same_bytes(go, tmp_path):
    path = Path("run/report.html")
    before = path.read_bytes()
    path.unlink()
    assert go(report, "run") == (0, "run/report.html\n", "") and path.read_bytes() == before
    for name in ("sft.pt", "dpo.pt"):  # neither models nor data are needed
        Path("run", name).unlink()
    Path("mine.jsonl").unlink()
    Path("run").rename("elsewhere")
    assert go(report, "elsewhere")[0] == 0 and Path("elsewhere/report.html").read_bytes() == before
    change_json(Path("elsewhere/summary.json"), seconds=7000.0)
    assert go(report, "elsewhere")[0] == 0 and Path("elsewhere/report.html").read_bytes() != before


def damage(name):
    path = Path("run", name)
    path.write_bytes(path.read_bytes()[:-9] + b"123456789")


DAMAGES = {
    "words damaged": (lambda: damage("words.jsonl"), "run/words.jsonl: "),
    "words missing": (lambda: Path("run/words.jsonl").unlink(), "run/words.jsonl: cannot be read"),
    "words foreign": (lambda: write_jsonl(Path("run/words.jsonl"), []), "run/words.jsonl: not what the run"),
    "samples damaged": (lambda: damage("samples.jsonl"), "run/samples.jsonl: "),
    "summary foreign": (
        lambda: change_json(Path("run/summary.json"), id="other"),
        "run/summary.json: from another run than config.json beside it",
    ),
    "summary strange": (lambda: change_json(Path("run/summary.json"), dpo=3), "run: not a run that can be"),
    "config missing": (lambda: Path("run/config.json").unlink(), "run/config.json: cannot be read"),
    "log missing": (lambda: Path("run/metrics.jsonl").unlink(), "run/metrics.jsonl: cannot be read"),
}


@pytest.mark.parametrize("break_it, said", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_missing_or_foreign_file_is_one_line(go, break_it, said):
    before = Path("run/report.html").read_bytes()
    break_it()
    status, out, err = go(report, "run")
    assert (status, out, err.count("\n")) == (2, "", 1) and err.startswith(f"error: {said}")
    assert Path("run/report.html").read_bytes() == before


JUNK = [None, -1, 1e308, "x" * 50, "<b>", [], [[]], {}, {"a": [1]}, True, "2"]


def spoilt(value, rng):
    """A JSON value with one place in it changed."""
    inner = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    if not inner or rng.random() < 0.2:
        return rng.choice(JUNK)
    key = rng.choice(list(inner))
    changed = value.copy()
    changed[key] = spoilt(value[key], rng)
    return changed


def test_strange_files_with_the_right_checksums_end_in_a_page_or_a_line(go):
    """Nothing that another hand has written and sealed is a traceback, or a page with markup of its own."""
    rng = random.Random(0)
    summary, config = read_json(Path("run/summary.json")), read_json(Path("run/config.json"))
    refused = 0
    for _ in range(150):
        rows = {
            name: list(map(json.loads, Path("run", name).open())) for name in ("words.jsonl", "samples.jsonl")
        }
        kept = {name: Path("run", name).read_bytes() for name in rows}
        which = rng.choice(["summary", "config", *rows])
        sealed = summary
        if which in rows:
            changed = [row if isinstance(row, dict) else {} for row in [spoilt(rows[which][0], rng)]]
            digest = write_jsonl(Path("run", which), changed)
            sealed = {**summary, "sha256": {**summary["sha256"], which: digest}}
        elif which == "summary":
            sealed = spoilt(summary, rng)
        write_json(Path("run/summary.json"), sealed if isinstance(sealed, dict) else {})
        settings = spoilt(config, rng) if which == "config" else config
        write_json(Path("run/config.json"), settings if isinstance(settings, dict) else {})
        status, _, err = go(report, "run")
        assert status in (0, 2) and err.count("\n") == (status == 2), err
        refused += status == 2
        if not status:
            assert not {"script", "b>", "img"} & set(Reader(Path("run/report.html").read_text()).tags)
        for name, content in kept.items():
            Path("run", name).write_bytes(content)
    assert 20 < refused < 140


def test_an_unfinished_run_shows_what_there_is(go):
    change_json(Path("run/summary.json"), unfinished=True)
    said = "run/report.html\nThe closing table is not complete; --resume goes on with the run.\n"
    assert go(report, "run") == (0, said, "")
    content = Path("run/report.html").read_text()
    Reader(content)
    assert "not finished" in content and "--resume" in content and "Answers, side by side" in content
    for name in ("summary.json", "samples.jsonl", "words.jsonl"):
        Path("run", name).unlink()
    assert go(report, "run")[0] == 0
    content = Path("run/report.html").read_text()
    assert "Nothing is measured yet" in content and "<svg" in content and "token by token" not in content


def test_sft_alone_has_a_page(go):
    assert go(train, "--stage", "sft", "--data", "mine.jsonl", *SMALL, "--context", 80, "--steps", 3)[0] == 0
    content = Path("runs/1/report.html").read_text()
    assert Reader(content) and "<h1>SFT on mine.jsonl: perplexity" in content
    assert "This is SFT alone" in content and "<h2>What was taught" not in content


def test_a_page_that_cannot_be_written_loses_nothing(go, monkeypatch):
    def refuse(folder):
        raise UserError("the disk is full")

    Path("run/summary.json").unlink()
    Path("run/report.html").unlink()
    monkeypatch.setattr(closing, "write_report", refuse)
    status, out, _ = go(train, "--resume", "run")
    assert status == 0 and "no page of the run could be written: the disk is full" in out
    assert "on held-out prompts" in out and "unfinished" not in read_json(Path("run/summary.json"))
    monkeypatch.undo()


def test_resuming_a_finished_run_makes_the_page_if_it_is_missing(go):
    path = Path("run/report.html")
    before = path.read_bytes()
    path.write_bytes(b"mine")
    assert go(train, "--resume", "run")[0] == 0 and path.read_bytes() == b"mine"
    path.unlink()
    status, out, _ = go(train, "--resume", "run")
    assert status == 0 and "run/report.html" in out and path.read_bytes() == before


# --- words


TOY = load_tokenizer("toy")
RESPONSES = [("Good day 😀!", "مرحبا <b>"), ("naïve", "no\n\nlines"), ("", "x" * 20)]


def held_out(pairs) -> HeldOut:
    preferences = [Preference(f"prompt {i}", *pair) for i, pair in enumerate(pairs)]
    encoded = [EncodedPair(*(encode(TOY, p.prompt, y) for y in (p.chosen, p.rejected))) for p in preferences]
    return HeldOut([], [], preferences, encoded, None)


@pytest.mark.parametrize(
    "loss", [loss for loss in LOSSES.values() if loss.paired], ids=lambda loss: loss.name
)
def test_the_words_of_a_response_add_up_to_its_reward(loss):
    """To the loss's own reward where that is beta times the log-ratio, and else to the log-ratio. Catches: a
    token of the neighbour, a prompt's token, no beta, the two models exchanged.
    """
    policy, other = (tiny_gpt(seed, vocab_size=TOY.vocab_size, context=80) for seed in (1, 2))
    kept, options = held_out(RESPONSES), loss.hyperparameters
    scale = token_scale(loss, options)
    rows = word_rewards(policy, other, TOY, kept, scale, "float32")
    logps = pair_logps(policy, other, collate_pairs(kept.pairs))
    for side in ("chosen", "rejected"):
        scored = getattr(logps, side)
        wanted = scored.logratio if scale is None else loss.rewards(scored, **options)
        sums = torch.tensor([sum(w.value for w in row[side]) for row in rows], dtype=torch.float64)
        torch.testing.assert_close(sums, wanted.double(), rtol=1e-9, atol=1e-9)
        for row, preference in zip(rows, kept.preferences, strict=True):
            text = "".join(word.text for word in row[side])
            assert text == getattr(preference, side) + "<|endoftext|>"
            assert sum(w.tokens for w in row[side]) == len(TOY.encode_response(getattr(preference, side)))


def test_which_losses_have_a_beta_before_their_tokens():
    has = {loss.name for loss in LOSSES.values() if token_scale(loss, loss.hyperparameters) is not None}
    assert {"dpo", "hinge", "kto"} <= has and not has & {"simpo", "orpo", "cpo", "dpo_norm", "chipo"}
    assert token_scale(LOSSES["ipo"], {"beta": 0.3, "reduction": "sum"}) == 0.3
    assert token_scale(LOSSES["ipo"], {"beta": 0.3, "reduction": "mean"}) is None


def test_the_first_pairs_are_kept_and_no_more():
    kept = held_out([(f"yes {i}", "no") for i in range(SHOWN_PAIRS + 3)])
    gpt = tiny_gpt(vocab_size=TOY.vocab_size, context=80)
    rows = word_rewards(gpt, gpt, TOY, kept, 0.1, "float32")
    assert [row["prompt"] for row in rows] == [f"prompt {i}" for i in range(SHOWN_PAIRS)]


def test_the_tokens_of_one_character_are_one_word():
    ids = TOY.encode("a😀")
    assert words(TOY, ids, [1.0, 2.0, 3.0, 4.0, 5.0]) == [("a", 1.0, 1), ("😀", 14.0, 4)]
    assert words(TOY, ids[:3], [1.0, 2.0, 3.0]) == [("a", 1.0, 1), ("\\xf0\\x9f", 5.0, 2)]
    assert words(TOY, [], []) == []


@given(st.lists(st.integers(0, TOY.vocab_size - 1), max_size=12))
def test_words_lose_no_token_and_no_value(ids):
    found = words(TOY, ids, [float(2**i) for i in range(len(ids))])
    assert sum(w.tokens for w in found) == len(ids) and sum(w.value for w in found) == 2.0 ** len(ids) - 1
    assert all(w.text for w in found)


def test_shades_are_even_on_both_sides():
    assert [level(v, 1.0) for v in (-9.0, -1.0, -0.1, 0.0, 0.1, 0.5, 9.0)] == [-4, -4, 0, 0, 0, 2, LEVELS]
    assert scale_of(
        [{"chosen": [["a", 0.5, 1], ["b", -0.7, 1]], "rejected": [["c", 0.0, 1]]}]
    ) == pytest.approx(0.6)
    assert [signed(v) for v in (0.0123456, -3.456, 98765.4)] == ["+0.0123", "−3.46", "+98,765"]
    assert scale_of([{"chosen": [["a", 0.0, 1]], "rejected": []}]) == scale_of([]) == 1.0
    shown = response([["up\n", 1.0, 1], [" down", -1.0, 2]], 1.0)
    assert (
        '"w more4" title="+1">up↵\n<' in shown
        and ' <span class="w less4" title="−1 (2 tokens)">down<' in shown
    )


# --- curves


def test_every_panel_of_a_run_is_drawn_with_its_label():
    names = {name for _, metrics, _ in PANELS for name in metrics}
    rows = [{"stage": s, "step": i, **dict.fromkeys(names, 0.5)} for s in ("sft", "dpo") for i in (1, 2, 3)]
    drawn = panels(rows)
    assert len(drawn) == len(PANELS)
    for figure, (_, _, label) in zip(drawn, PANELS, strict=True):
        assert label in figure and "<figcaption>" in figure
    assert len(panels([row for row in rows if row["stage"] == "sft"])) == 1


def test_no_spike_is_lost_and_a_gap_is_a_gap():
    values = [0.0] * 5000
    values[777] = 9.0
    kept = thinned(list(range(5000)), values)
    assert len(kept) < 700 and max(value for _, value in kept) == 9.0
    assert path([(0.0, 1.0), (1.0, float("nan")), (2.0, 3.0), (3.0, 4.0)]) == "M0.0 1.0M2.0 3.0L3.0 4.0"


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_ticks_are_round_few_and_inside(low, width):
    found, near = ticks(low, low + width), width / 100 + abs(low) * 1e-9
    assert len(found) <= 6 and all(low - near <= tick <= low + width + near for tick in found)


@pytest.mark.parametrize("loss", [[2.0], [2.0, 2.0], [float("nan")] * 2, [float("nan"), 3.0, 1e300]])
def test_curves_of_few_or_strange_numbers_are_drawn(loss):
    rows = [{"stage": "sft", "step": i, "loss": value} for i, value in enumerate(loss, 1)]
    (figure,) = panels(rows)
    assert "nan" not in figure and "inf" not in figure and Reader(figure)


# --- TensorBoard


@pytest.fixture
def logged():
    """Reads the numbers of a stage's folder: {metric: [(step, value), ...]}."""
    reason = "optional: pip install tensorboard"
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason=reason)

    def read(folder):
        found = events.EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
        return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}

    return read


def metrics_of(folder, stage):
    """The same of metrics.jsonl."""
    found = {}
    for row in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()):
        if row["stage"] == stage:
            for name in row.keys() - {"stage", "step"}:
                found.setdefault(name, []).append((row["step"], row[name]))
    return {name: [(step, pytest.approx(v, rel=1e-6)) for step, v in of] for name, of in found.items()}


TO_BOARD = [*SMALL, "--context", 80, *SHORT, "--log-to", "tensorboard", "--out", "boarded"]


def test_tensorboard_has_the_metrics_of_the_log(go, logged):
    assert go(train, "--data", "mine.jsonl", *TO_BOARD)[0] == 0
    for stage in ("sft", "dpo"):
        assert logged(Path("boarded/tensorboard", stage)) == metrics_of(Path("boarded"), stage)
    assert not Path("run/tensorboard").exists()


def test_a_step_that_is_done_again_is_there_once(go, logged, monkeypatch):
    """Killed at step 5, with a checkpoint at step 3: steps 4 and 5 are done again."""
    from mini_dpo.saving.stages import Stage

    class Killed(Exception):
        pass

    whole = Stage.save

    def die(self, policy, optimizer, step, finished):
        if finished and self.name == "dpo":
            self.board.flush()
            raise Killed
        whole(self, policy, optimizer, step, finished)

    monkeypatch.setattr(Stage, "save", die)
    with pytest.raises(Killed):
        go(train, "--data", "mine.jsonl", *TO_BOARD)
    monkeypatch.setattr(Stage, "save", whole)
    assert [step for step, _ in logged(Path("boarded/tensorboard/dpo"))["loss"]] == [1, 2, 3, 4, 5]
    assert go(train, "--resume", "boarded")[0] == 0
    for stage in ("sft", "dpo"):
        assert logged(Path("boarded/tensorboard", stage)) == metrics_of(Path("boarded"), stage)


def test_without_the_package_a_line_says_what_to_install(go, monkeypatch):
    found = importlib.util.find_spec
    missing = lambda name, *rest: None if name == "tensorboard" else found(name, *rest)  # noqa: E731
    monkeypatch.setattr(board.importlib.util, "find_spec", missing)
    status, _, err = go(train, "--data", "mine.jsonl", *TO_BOARD)
    assert (status, err) == (
        2,
        "error: --log-to tensorboard needs a package that is not here: pip install tensorboard\n",
    )
    assert not Path("boarded").exists()


def test_the_log_for_tensorboard_follows_no_link(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/tensorboard").symlink_to(tmp_path)
    with pytest.raises(UserError, match="a link"):
        board.open_board(tmp_path / "run", "sft", 1)


def test_the_run_is_read_as_its_files_say(finished):
    found = read_run(finished / "run")
    assert found.finished and found.loss == "dpo" and found.data == "mine.jsonl"
    assert len(found.words) == len(found.samples) == 2 and not found.summary.get("unfinished")


def test_the_drift_of_a_pair_is_the_mean_of_its_two_log_ratios_the_other_way_round():
    rows = [
        {
            "stage": "dpo",
            "step": 1,
            "rewards/chosen": -0.2,
            "rewards/rejected": -0.6,
            "eval_rewards/chosen": 0.1,
        },
        {"stage": "sft", "step": 1, "rewards/chosen": 1.0, "rewards/rejected": 1.0},
    ]
    first, second = with_drift(rows, beta=0.1)
    assert first["drift"] == pytest.approx(4.0) and "eval_drift" not in first and "drift" not in second
    assert with_drift(rows, None) == rows
