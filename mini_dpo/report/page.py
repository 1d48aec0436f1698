"""The page of a run: what it is and what came out, its curves, its answers, and which words it was taught."""

from __future__ import annotations

from pathlib import Path

from mini_dpo.errors import expecting
from mini_dpo.files import write_whole
from mini_dpo.report.answers import answers
from mini_dpo.report.curves import figure, panels, with_drift
from mini_dpo.report.markup import Markup, element, joined, section
from mini_dpo.report.outcome import cards, figures, headline, lead, results
from mini_dpo.report.reading import Run, read_run
from mini_dpo.report.words import taught

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
    pictures, dpo = panels(with_drift(run.rows, run.summary.get("token_beta"))), run.summary.get("dpo", {})
    if dpo.get("kl") is not None and not any("kl" in row for row in run.rows):
        error = f" ± {figures(dpo['kl_error'])}" if dpo.get("kl_error") is not None else ""
        big = element("div", element("b", figures(dpo["kl"])), error, " nats per response", class_="big")
        look = (
            "The price: how far the policy has left its reference, measured on its own answers to held-out "
            "prompts. This loss does not log it while it trains."
        )
        title = element("p", "KL(policy || reference), at the end", class_="big-title")
        pictures.append(figure(joined([title, big]), look))
    return [section("How it went", key, element("div", *pictures, class_="panels"))]


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
