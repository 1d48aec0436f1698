"""The tutorial: every block of every chapter is run, and what the page shows is what comes out."""

import re

import pytest

from mini_dpo.errors import UserError
from tests.commands import run
from tests.conftest import CAN_DRAW
from tests.pages import disagreements
from tutorials import chapters, pictures
from tutorials.chapters import (
    HERE,
    ROOT,
    Block,
    Step,
    chapter_paths,
    code_blocks,
    read_blocks,
    run_chapter,
    same,
    write_outputs,
)
from tutorials.exercises.checking import load_checks

CHAPTERS = chapter_paths()
PAGES = {path.name: path for path in [*CHAPTERS.values(), HERE / "README.md", HERE / "teaching.md"]}


@pytest.mark.parametrize("number", CHAPTERS)
def test_every_block_prints_what_the_chapter_shows(number, chapters_run):
    path = CHAPTERS[number]
    steps, drawn = chapters_run[number].get(timeout=1800)  # a process that was killed says nothing
    for step in steps:
        assert step.as_shown, (
            f"{path.name}, line {step.shown.first + 1} shows\n\n{step.shown.text}\n\nand what "
            f"comes out is\n\n{step.printed}"
        )
        if step.code.kind == "sh":
            page = f"{step.code.text}\n\n```text\n{step.printed}\n```\n"
            assert not list(disagreements(page)), f"{path.name}, line {step.code.first + 1}"
    assert len(steps) == sum(block.kind in ("python", "sh") for block in read_blocks(path))
    if CAN_DRAW:
        assert drawn == sorted(function.__name__ for function in pictures.DRAWINGS[number])


# --- what a chapter has


def prose(path):
    """A page without its blocks."""
    return re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)


@pytest.mark.parametrize("number", CHAPTERS)
def test_a_chapter_has_all_its_parts(number):
    path = CHAPTERS[number]
    page = path.read_text(encoding="utf-8")
    assert re.match(rf"# {number}\. .+\n\n\*\*.+\?\*\*\n\n\*\d+ minutes\. ", page), (
        "a title, a question, how long it takes"
    )
    parts = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", page, flags=re.M | re.S))
    assert parts["What to remember"].count("\n- ") == 3
    names = re.findall(r"^\d\. `(\w+)\(", parts["Exercises"], flags=re.M)
    assert (
        names == list(load_checks(number)) and f"python -m tutorials.exercises {number}" in parts["Exercises"]
    )
    assert len(names) in (2, 3)
    assert "arxiv.org/abs/" in parts["Further reading"] or number == 10
    assert f"python -m tutorials.chapters {number}" in page
    neighbours = [n for n in (number - 1, number + 1) if n in CHAPTERS]
    assert all(CHAPTERS[n].name in page.splitlines()[-1] for n in neighbours)


@pytest.mark.parametrize("path", CHAPTERS.values(), ids=lambda path: path.name)
def test_blocks_are_of_known_kinds_and_outputs_follow_code(path):
    blocks = read_blocks(path)
    shown = [after.first for _, after in code_blocks(path) if after]
    for block in blocks:
        assert block.kind in ("python", "sh", "text", "math"), f"line {block.first}"
        assert block.kind != "text" or block.first in shown, f"line {block.first}: an output without its code"
        assert block.kind != "text" or block.text.strip(), f"line {block.first}: nothing in it"
        assert block.kind != "text" or set(block.text.split()) != {"..."}, (
            f"line {block.first}: it shows nothing"
        )
    assert any(block.kind == "math" for block in blocks) or path.name.startswith("10")


@pytest.mark.parametrize("number", CHAPTERS)
def test_pictures_are_there_described_and_made_by_a_command_beside_them(number):
    page = CHAPTERS[number].read_text(encoding="utf-8")
    shown = re.findall(r"!\[([^\]]*)\]\(pictures/(\w+)\.png\)", page)
    assert shown and all(len(words) > 60 for words, _ in shown)
    drawn = {function.__name__ for function in pictures.DRAWINGS[number]}
    for _, name in shown:
        assert (HERE / "pictures" / f"{name}.png").exists(), name
        before = page[: page.index(f"pictures/{name}.png")]
        command = re.findall(r"^python -m .*$", before, flags=re.M)[-1]
        assert (
            command == f"python -m tutorials.pictures {number}"
            if name in drawn
            else command.startswith(f"python -m mini_dpo.plot {name}")
        )
    assert drawn <= {name for _, name in shown}


def test_no_picture_lies_about():
    pages = [*PAGES.values(), HERE / "measured" / "README.md"]
    used = "".join(path.read_text(encoding="utf-8") for path in pages)
    assert all(f"pictures/{path.name}" in used for path in (HERE / "pictures").glob("*"))


# --- links, formulas, contents


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere_and_linked_code_is_there(name):
    page = prose(PAGES[name])
    for words, target in re.findall(r"\[([^\]]*)\]\(([^)\s]+)\)", page):
        if target.startswith("http"):
            continue
        linked = HERE / target
        assert linked.exists(), target
        if linked.suffix == ".py" and words.startswith("`"):
            assert re.search(
                rf"^(def|class) {words.strip('`')}\b", linked.read_text(encoding="utf-8"), re.M
            ), f"{target} has no {words}"
    for target, words in re.findall(r"`(python -m [\w.]+)([^`]*)`", page):
        module = target.split()[-1].replace(".", "/")
        assert (ROOT / f"{module}.py").exists() or (ROOT / module / "__main__.py").exists(), target


@pytest.mark.parametrize("name", PAGES)
def test_formulas_survive_a_repository_page(name):
    """Inline symbols are plain letters. Formulas are in math fences, with braces that match and no dollar
    signs.
    """
    assert "$" not in prose(PAGES[name])
    for block in read_blocks(PAGES[name]):
        if block.kind == "math":
            assert (
                block.text.count("{") == block.text.count("}")
                and "$" not in block.text
                and "\n\n" not in block.text
            )
            commands = set(re.findall(r"\\([a-zA-Z]+)", block.text))
            assert commands <= KNOWN, commands - KNOWN


KNOWN = set(
    "exp frac tfrac sqrt left right log infty sum int prod partial nabla cdot sim propto mid neq max le ge "
    "Big big mathrm text underbrace bar langle rangle quad qquad ldots Longrightarrow "
    "Delta Phi alpha kappa pi theta beta delta lambda sigma eta varphi varepsilon".split()
)


def test_the_contents_page_names_every_chapter_its_question_and_its_length():
    contents = PAGES["README.md"].read_text(encoding="utf-8")
    for number, path in CHAPTERS.items():
        title, _, question, _, about = path.read_text(encoding="utf-8").splitlines()[:5]
        row = next(line for line in contents.splitlines() if line.startswith(f"| {number} |"))
        assert f"[{title.split('. ', 1)[1]}]({path.name})" in row
        assert about.strip("*").split()[0] == row.split("|")[4].strip()
        assert question.strip("*").split()[-3:] == row.split("|")[3].split()[-3:]


# --- running and comparing


@pytest.mark.parametrize(
    "shown, printed, equal",
    [
        ("a 1.25 b", "a  1.25 b\n", True),
        ("a 1.25", "a 1.26", True),  # one unit of the last digit
        ("a 1.25", "a 1.27", False),
        ("a 1.25", "a -1.25", False),
        ("7 of 8", "8 of 8", False),  # whole numbers are exact
        ("1.2e-05", "1.3e-05", True),
        ("1.2e-05", "1.2e-04", False),
        ("a\nb", "a b", False),
        ("...\nend", "start\nmiddle\nend", True),
        ("...\nend", "start\nend\nmore", False),
        ("a ... b ... c", "a x b y c", True),
        ("a ... b ... c", "a x c y b", False),
        ("a ... a", "a", False),
        ("a", "", False),
        ("", "a", False),
    ],
)
def test_what_counts_as_the_same(shown, printed, equal):
    assert same(shown, printed) is equal


@pytest.mark.parametrize(
    "shown, printed, equal",
    [
        ("true reward 6.25", "true reward 5.4", True),
        ("true reward 6.25", "true reward 1.6", False),
        (
            "...\nGood day, dear Pearl! So your kite leaks.",
            "x 1\ny 2\nGood day, dear Ada! So your kite leaks.",
            True,
        ),
        ("Good day, dear Pearl! So your kite leaks.", "nothing of the kind", False),
        (
            "after SFT the perplexity of these answers is 4.75",
            "after SFT the perplexity of these answers is 23.4",
            False,
        ),
        ("DPO 1.2, 3.4 and 5.6", "DPO 1.2, 3.4 and 9.9", True),
        ("DPO 1.2, 3.4 and 5.6", "DPO 1.2, 6.8 and 9.9", False),
    ],
)
def test_what_counts_as_about_the_same(shown, printed, equal):
    assert same(shown, printed, about=True) is equal


CHAPTER = """# 99. A chapter

```python
x = 2
print(x)
```

```text
3
```

```python mine.py
y = 5
```

```python
import mine
print(x + mine.y)
```

```text
7
```
"""


def test_a_chapter_is_run_in_one_namespace_and_its_outputs_can_be_written(tmp_path, monkeypatch):
    path = tmp_path / "99-test.md"
    path.write_text(CHAPTER, encoding="utf-8")
    monkeypatch.syspath_prepend("")
    steps = list(run_chapter(path))
    assert [step.printed for step in steps] == ["2", "", "7"] and [step.as_shown for step in steps] == [
        False,
        True,
        True,
    ]
    assert write_outputs(path, steps) == 1
    assert path.read_text(encoding="utf-8") == CHAPTER.replace("```text\n3\n", "```text\n2\n")
    assert all(step.as_shown for step in run_chapter(path))


def test_an_error_in_a_chapter_names_its_line(tmp_path):
    path = tmp_path / "99-test.md"
    path.write_text("# x\n\n```python\na = 1\nb = 1 / 0\n```\n", encoding="utf-8")
    with pytest.raises(ZeroDivisionError) as error:
        list(run_chapter(path))
    assert error.traceback[-1].lineno + 1 == 5 and str(error.traceback[-1].path) == str(path)


def test_a_fence_that_is_never_closed_is_named(tmp_path):
    path = tmp_path / "99-test.md"
    path.write_text("# x\n\n```python\na = 1\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 3"):
        read_blocks(path)


def test_a_step_without_an_output_block_is_as_shown():
    assert Step(Block("python", "", 1, ["x"]), "anything", None).as_shown


def test_the_commands(monkeypatch, capsys):
    status, _, err = run(monkeypatch, capsys, chapters, 99)
    assert status == 2 and "there is no chapter 99" in err

    def absent():
        raise UserError(
            "matplotlib draws the pictures and is not installed: pip install -r tutorials/requirements.txt"
        )

    monkeypatch.setattr(pictures, "new_figure", absent)
    status, _, err = run(monkeypatch, capsys, pictures, 1)
    assert status == 2 and "pip install -r tutorials/requirements.txt" in err


def test_running_a_chapter_shows_its_code_and_what_it_prints(monkeypatch, capsys, tmp_path):
    path = tmp_path / "99-test.md"
    path.write_text(
        CHAPTER.replace("```python mine.py\ny = 5\n```\n", "").replace(
            "import mine\nprint(x + mine.y)", "print(x + 5)"
        ),
        encoding="utf-8",
    )
    monkeypatch.setattr(chapters, "find_chapter", lambda number: path)
    status, out, _ = run(monkeypatch, capsys, chapters, 99, "--write")
    assert (
        status == 0
        and "    print(x)\n\n2\n" in out
        and "the chapter shows something else here" in out
        and "1 blocks written" in out
    )
