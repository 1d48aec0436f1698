"""The shape of the project: who may import whom, what lies where, what it needs, what its first page says."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mini_dpo"
FILES = {str(path.relative_to(PACKAGE).with_suffix("")): path for path in sorted(PACKAGE.rglob("*.py"))}
ROOMS: dict[str, list[Path]] = {}  # a file, or a folder with all that is in it
for name, path in FILES.items():
    ROOMS.setdefault(name.split("/")[0], []).append(path)
del ROOMS["__init__"]
README = (ROOT / "README.md").read_text(encoding="utf-8")

# of the README's table, in its order
PLACES = re.findall(r"^\|.*?\| (`.*?) \|", README[README.index("| layer | place |") :], re.MULTILINE)
ORDER = [
    [name.removesuffix(".py").removesuffix("/") for name in re.findall(r"`([^`]+)`", place)]
    for place in PLACES
]
PLACE = {name: place for place, names in enumerate(ORDER) for name in names}
# the files that a pair meets
EVENING = re.findall(
    r"\(mini_dpo/([\w/]+)\.py\)", README[README.index("| read | file |") : README.index("| layer | place |")]
)
OPTIONAL = {
    "matplotlib",
    "PIL",
    "trl",
    "transformers",
    "datasets",
    "tokenizers",
    "pyarrow",
    "safetensors",
    "tensorboard",
}
OUTSIDE = {"torch", "numpy", "tiktoken", "pytest", "hypothesis"}


def imports(path):
    """The modules that a file imports, as dotted names."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 10))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def test_every_file_has_a_place_in_the_readme():
    assert set(ROOMS) == set(PLACE)


@pytest.mark.parametrize("name", ROOMS)
def test_imports_run_downwards(name):
    for module in {module for path in ROOMS[name] for module in imports(path)}:
        below = module.removeprefix("mini_dpo.").split(".")[0]
        if module.startswith("mini_dpo.") and below != name:
            assert PLACE[below] < PLACE[name], (
                f"{name} imports {below}, which does not stand above it in the README"
            )


def test_the_evening_path_can_be_read_in_an_evening():
    """All of it together (of 26 losses it has DPO's only), and the README counts right, file by file."""
    lines = [FILES[name].read_text(encoding="utf-8").count("\n") for name in EVENING]
    assert sum(lines) <= 1300 and len(lines) == 11, dict(zip(EVENING, lines, strict=True))
    path = README[README.index("| read | file |") : README.index("| layer | place |")]
    shown = [int(n) for row in re.findall(r"^\|.*\) \| ([\d, ]+) \|", path, re.M) for n in row.split(",")]
    assert shown == lines and f"{sum(lines):,} lines" in path


def test_no_line_is_longer_than_the_format_allows():
    """Whatever a linter leaves out: comments for it, and words without a blank."""
    for path in [
        path for folder in ("mini_dpo", "tests", "tutorials") for path in (ROOT / folder).rglob("*.py")
    ]:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            assert len(line) <= 110, f"{path.name}, line {number}"
            assert not re.search("fmt" + ": (skip|off)", line), f"{path.name}, line {number}"


def test_the_house_is_no_heap():
    flat = [name for name in FILES if "/" not in name and name not in ("__init__", "__main__")]
    assert len(flat) <= 24, flat


@pytest.mark.parametrize(
    "path",
    [*FILES.values(), *(ROOT / "tests").glob("*.py"), *(ROOT / "tutorials").rglob("*.py")],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_nothing_but_the_five_packages_is_imported(path):
    """But for drawing, which is optional: it is imported inside functions, and plot/paper.py says what to
    install. And for what the benchmark compares with, where that happens to be installed.
    """
    for module in imports(path):
        top = module.split(".")[0]
        drawing = top in {"matplotlib", "PIL"} and (
            path.parent.name in {"plot", "drawings"} or path.stem == "test_plot"
        )
        rival = top in {"trl", "transformers", "datasets", "tokenizers"} and path.parent.name == "bench"
        files = (top == "pyarrow" and path.parent.name == "formats") or (
            top == "safetensors" and path.parent.name in ("export", "saving")
        )
        assert (
            drawing
            or rival
            or files
            or top in OUTSIDE | {"mini_dpo", "tests", "tutorials"}
            or top in sys.stdlib_module_names
        ), f"{path.name} imports {module}"


def test_everything_but_drawing_runs_without_the_drawing_library():
    for path in [*FILES.values(), *(ROOT / "tutorials").rglob("*.py")]:
        body = ast.parse(path.read_text(encoding="utf-8")).body
        names = [
            alias.name
            for node in body
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for alias in (node.names if isinstance(node, ast.Import) else [ast.alias(node.module)])
        ]
        top_level = [name for name in names if name.split(".")[0] in OPTIONAL]
        assert not top_level, path.name


def test_requirements_are_the_five_packages_pinned():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").split("\n")
    assert {re.split("==", line)[0] for line in lines if line} == OUTSIDE
    assert all(re.fullmatch(r"[a-z]+==[\d.]+(; python_version .*)?", line) for line in lines if line)
    assert "torch==2.13.0" in lines


def test_the_transformer_is_handwritten():
    source = FILES["model"].read_text(encoding="utf-8")
    used = set(re.findall(r"\bnn\.([A-Z]\w+)", source))
    assert used == {"Module", "ModuleList", "Linear", "Embedding", "LayerNorm", "Dropout"}


def test_top_level_is_as_agreed():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout: nothing says which files belong to the project")
    top = {line.split("/")[0] for line in tracked.stdout.splitlines()}
    assert {name for name in top if not name.startswith(".")} <= {
        "README.md",
        "requirements.txt",
        "mini_dpo",
        "tutorials",
        "tests",
        "data",
    }


def test_every_command_in_the_readme_exists():
    commands = set(re.findall(r"python -m mini_dpo\.(\w+)", README))
    assert {"train", "exact", "sample", "show", "check", "rlhf", "worlds", "compare"} <= commands
    for name in commands:
        path = FILES.get(name) or FILES[f"{name}/__main__"]
        assert 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")


def test_the_two_set_up_commands_stand_on_the_first_screen():
    first_screen = README.splitlines()[:40]
    assert "pip install -r requirements.txt && python -m mini_dpo.train" in first_screen
    assert "pip install -r requirements.txt && python -m pytest" in first_screen


def test_files_and_links_named_in_the_readme_exist():
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert link.startswith("http") or (ROOT / link).exists(), link
    for name in re.findall(r"`(\w+\.py)`", README):
        assert name == "mine.py" or name.removesuffix(".py") in ROOMS or (ROOT / "tests" / name).exists(), (
            name
        )


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_neither_a_book_nor_a_note(name):
    lines = FILES[name].read_text(encoding="utf-8").count("\n")
    assert lines <= 350 and (lines >= 20 or name.split("/")[-1] in ("__init__", "__main__"))
