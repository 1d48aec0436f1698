"""The page of a run: what it is and what came out, its curves, its answers, and which words it was taught."""

from __future__ import annotations

from pathlib import Path

from mini_dpo.errors import expecting
from mini_dpo.evaluation.table import closing_remarks, closing_rows, heading, number
from mini_dpo.files import write_whole
from mini_dpo.progress import clock
from mini_dpo.report.curves import figure, panels
from mini_dpo.report.markup import Markup, element, joined
from mini_dpo.report.reading import Run, read_run
from mini_dpo.report.words import legend, pair_of, scale_of

SHOWN = 6  # samples, the first ones; and as many of those whose reward fell
CLEAR = 2  # standard errors from which on a change counts as one
# a page that is allowed nothing: neither a script nor a file from elsewhere
ALLOWED = "default-src 'none'; style-src 'unsafe-inline'"


def write_report(folder: Path) -> Path:
    """Make the page of a run from its files; returns its path. The same files give the same bytes.
    Raises UserError if a file is missing, damaged or from another run, or if the page cannot be written.
    """
    run = read_run(folder)
    with expecting(folder, "a run that can be shown"):  # files that are whole, and of another form
        content = page(run).encode()
    path = folder / "report.html"
    write_whole(path, lambda file: file.write(content))
    return path


def page(run: Run) -> str:
    """The whole page."""
    style = Markup(Path(__file__).with_name("page.css").read_text(encoding="utf-8"))
    title = headline(run)
    body = [
        element("header", element("h1", title), *lead(run), cards(run)),
        *results(run),
        *curves(run),
        *answers(run),
        *taught(run),
        *told(run),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{ALLOWED}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"{element('title', title)}\n{element('style', style)}\n</head>\n"
        f"{element('body', joined(body, between=chr(10)))}\n</html>\n"
    )


def figures(value: float | None, form: str = "{:.2f}") -> str:
    """A number of the summary, as in the closing table but with a true minus sign."""
    return number(value, form, 11).replace("-", "\N{MINUS SIGN}")


def section(title: str, *inside: str) -> Markup:
    """A part of the page."""
    return element("section", element("h2", title), *inside)


def told_prompt(prompt: object) -> Markup:
    """A prompt: a text, or turns {"role", "content"}, a line each."""
    if isinstance(prompt, str):
        return element("p", prompt, class_="prompt", dir="auto", tabindex=0)
    turns = prompt if isinstance(prompt, list) else []
    lines = [
        element("span", element("b", str(turn["role"])), " ", str(turn["content"]), dir="auto")
        for turn in turns
    ]
    return element("p", joined(lines, between="\n"), class_="prompt", tabindex=0)


# --- what came out


def headline(run: Run) -> str:
    """What this run is and what came out, in a sentence."""
    dpo, name = run.summary.get("dpo", {}), heading(run.loss or "sft")
    what = f"{name} on {run.data}"
    if not run.finished:
        return f"{what}: this run is not finished"
    if run.loss is None:
        return f"{what}: {sft_result(run.summary['sft'])}"
    start = run.summary.get("start", "SFT")
    if dpo.get("reward_gain") is not None:
        before, after = (figures(run.summary[m]["reward"]) for m in ("sft", "dpo"))
        went = changed(dpo["reward_gain"], dpo.get("reward_gain_error"))
        rate = figures(dpo.get("win_rate"))
        return f"{what}: the true reward {went}, from {before} to {after}, and the win rate is {rate}"
    kl = figures(dpo.get("kl"))
    if "reward_accuracy" in dpo:
        right = figures(dpo["reward_accuracy"])
        return f"{what}: its reward agrees with {right} of the held-out labels, {kl} nats away from {start}"
    return f"{what}: {kl} nats away from {start}"


def sft_result(sft: dict) -> str:
    """What SFT alone has reached."""
    reached = [
        f"{words} {figures(sft[key])}"
        for key, words in (("perplexity", "perplexity on held-out responses"), ("reward", "true reward"))
        if key in sft
    ]
    return ", ".join(reached) or "a model that answers"


def changed(gain: float, error: float | None) -> str:
    """Whether a number rose or fell; neither if its change is within its error."""
    if abs(gain) <= CLEAR * (error or 0):
        return "did not clearly change"
    return "rose" if gain > 0 else "fell"


def lead(run: Run) -> list[Markup]:
    """The paragraphs below the heading."""
    steps = {
        stage: max((row["step"] for row in run.rows if row["stage"] == stage), default=0)
        for stage in ("sft", "dpo")
    }
    did = [
        f"{steps['sft']:,} steps of SFT, which teaches a model to answer," if steps["sft"] else "",
        f"{steps['dpo']:,} steps of preference training ({run.loss}), which teaches it what people chose"
        if steps["dpo"]
        else "",
    ]
    took = f" It took {clock(run.summary['seconds'])}." if "seconds" in run.summary else ""
    lines = [element("p", f"This run did {' and then '.join(filter(None, did)).rstrip(',')}.{took}")]
    if not run.finished:
        missing = "The closing table is not complete" if run.summary else "Nothing is measured yet"
        lines.append(element("p", f"{missing}; --resume goes on with the run.", class_="warning"))
    return lines


CARDS = [  # of the policy: key, what it is, its form
    ("reward", "true reward", "{:.2f}"),
    ("win_rate", "win rate, ties count half", "{:.3f}"),
    ("reward_accuracy", "of held-out labels agree with the reward", "{:.3f}"),
    ("kl", "nats a response, KL from the reference", "{:.2f}"),
]


def cards(run: Run) -> Markup:
    """The numbers that matter most, large, each with its standard error."""
    column = run.summary.get("dpo") or {}
    return element("div", *(card(column, *c) for c in CARDS if column.get(c[0]) is not None), class_="cards")


def card(column: dict, key: str, what: str, form: str) -> Markup:
    """One number and its standard error."""
    error = column.get(f"{key}_error")
    spread = [] if error is None else [element("small", f" ± {figures(error, form)}")]
    return element("div", element("b", figures(column[key], form), *spread), element("span", what))


def results(run: Run) -> list[Markup]:
    """The closing table, as far as it is measured."""
    if "sft" not in run.summary:
        return []
    (first, *headings), *rows = closing_rows(run.summary)
    head = element(
        "tr", element("th", first, scope="col"), *(element("th", h.strip(), scope="col") for h in headings)
    )
    lines = [
        element(
            "tr",
            element("th", label.strip(), scope="row", class_="part" if label.startswith(" ") else None),
            *(element("td", cell.strip().replace("-", "\N{MINUS SIGN}")) for cell in cells),
        )
        for label, *cells in rows
    ]
    table = element("table", element("thead", head), element("tbody", *lines))
    remarks = element("p", " ".join(closing_remarks(run.summary)), class_="note")
    return [section("What came out", element("div", table, class_="wide"), remarks)]


# --- the parts


def curves(run: Run) -> list[Markup]:
    """The curves; the KL divergence as a number where no step has it."""
    key = element(
        "p",
        element("span", "pale", class_="pale-key"),
        ": each training batch. ",
        element("span", "strong", class_="mean-key"),
        ": their running mean. ",
        element("span", "", class_="dot-key"),
        " held-out examples, which no step trains on.",
        class_="note",
    )
    pictures, dpo = panels(run.rows), run.summary.get("dpo", {})
    if dpo.get("kl") is not None and not any("kl" in row for row in run.rows):
        error = f" ± {figures(dpo['kl_error'])}" if dpo.get("kl_error") is not None else ""
        big = element("div", element("b", figures(dpo["kl"])), error, " nats a response", class_="big")
        look = (
            "The price: how far the policy has left its reference, measured on its own answers to held-out "
            "prompts. This loss does not log it while it trains."
        )
        title = element("p", "KL(policy || reference), at the end", class_="big-title")
        pictures.append(figure(joined([title, big]), look))
    return [section("How it went", key, element("div", *pictures, class_="panels"))]


def answers(run: Run) -> list[Markup]:
    """Answers to held-out prompts before and after, with the judge's marks if there are any."""
    if not run.samples:
        return []
    first = run.samples[:SHOWN]
    fell = sorted((s for s in run.samples[SHOWN:] if gain(s) < 0), key=gain)[: SHOWN // 2]
    look = (
        "Look for what changed between the columns, and for what should not have."
        if "dpo" in first[0]
        else "Look for answers that are about their prompts."
    )
    note = f"The first {len(first)} of {len(run.samples)} held-out prompts, not picked by hand. {look}"
    parts = [element("p", note, class_="note"), *(answer(s, run) for s in first)]
    if fell:
        worse = sum(gain(s) < 0 for s in run.samples)
        parts.append(
            element(
                "details",
                element(
                    "summary", f"The {len(fell)} whose true reward fell most; it fell for {worse} in all"
                ),
                *(answer(s, run) for s in fell),
            )
        )
    return [section("Answers, side by side", *parts)]


def gain(sample: dict) -> float:
    """What an answer's true reward gained; 0 where nobody knows it."""
    marks = sample.get("marks", {})
    return marks["dpo"]["reward"] - marks["sft"]["reward"] if {"sft", "dpo"} <= marks.keys() else 0.0


def answer(sample: dict, run: Run) -> Markup:
    """A prompt and its answers."""
    names = {"sft": run.summary.get("start", "SFT"), "dpo": heading(run.loss or "")}
    sides = []
    for name in (name for name in names if name in sample):
        marks = [
            element("span", f"{mark.replace('_', ' ')} {value:g}".replace("-", "\N{MINUS SIGN}"))
            for mark, value in sample.get("marks", {}).get(name, {}).items()
        ]
        text = element("p", sample[name] or "(empty)", class_="answer", dir="auto", tabindex=0)
        sides.append(
            element(
                "div",
                element("h4", names[name]),
                text,
                *([element("p", *marks, class_="marks")] * bool(marks)),
            )
        )
    return element("article", told_prompt(sample["prompt"]), element("div", *sides, class_="two"))


def taught(run: Run) -> list[Markup]:
    """Held-out pairs with the reward of each token."""
    if not run.words:
        return []
    scale, beta = scale_of(run.words), run.summary["token_beta"]
    ratio = f"log(policy / {run.summary['token_against']})"
    if beta is not None:
        unit, what = "units of reward", f"β {ratio}, with β = {beta:g}: its part of the response's reward"
    else:
        unit, what = (
            "nats",
            f"{ratio}, without a factor, because this loss's reward is no sum of such numbers",
        )
    note = (
        f"A token's number is {what}. Blue tokens have become likelier than they were, orange ones (dotted "
        "below) less likely. The numbers of a response add up to its sum; what counts is the difference of "
        "the two sums of a pair. Look for the words that carry it, and whether it should be these. "
        "A tooltip has the number."
    )
    pairs = [
        element("article", told_prompt(row["prompt"]), pair_of(row, scale, beta is not None))
        for row in run.words
    ]
    return [
        section(
            "What was taught, token by token", element("p", note, class_="note"), legend(scale, unit), *pairs
        )
    ]


def told(run: Run) -> list[Markup]:
    """The settings, and who wrote the files."""
    hidden = {"resume", "out", "id", "start", "loss_options"}
    settings = {k: v for k, v in run.settings.items() if v is not None and k not in hidden}
    settings |= run.settings.get("loss_options") or {} if run.loss else {}
    entries = [
        element("div", element("dt", name.replace("_", " ")), element("dd", str(value)))
        for name, value in settings.items()
    ]
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    footer = (
        f"Run {run.settings.get('id')}, {versions}. Made from the run's files; python -m mini_dpo.report "
        "makes it again."
    )
    return [section("Settings", element("dl", *entries)), element("footer", element("p", footer))]
