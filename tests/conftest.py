"""Hypothesis draws a small number of examples by default; MINI_DPO_TESTS=thorough draws many more. The
chapters run beside all other tests, in a process of their own: they take half of the time, and a machine has
two cores or more.
"""

import importlib.util
import multiprocessing
import os
from functools import partial
from pathlib import Path

# Models and batches are small, and two processes share the cores: threads would mostly wait for each other.
# Before torch is imported, so that it holds here and in every process that a test or a chapter starts.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
from hypothesis import HealthCheck, settings

from tests.strategies import tiny_gpt
from tutorials import pictures
from tutorials.chapters import Step, chapter_paths, run_chapter

QUIET = dict(deadline=None, database=None, suppress_health_check=list(HealthCheck))
settings.register_profile("quick", max_examples=25, derandomize=True, **QUIET)
settings.register_profile("thorough", max_examples=500, **QUIET)
CAN_DRAW = importlib.util.find_spec("matplotlib") is not None
settings.load_profile(os.environ.get("MINI_DPO_TESTS", "quick"))


@pytest.fixture(scope="session", autouse=True)
def chapters_run(request, tmp_path_factory):
    """For each chapter that this session will look at: what is coming out of it, as (steps, names of
    pictures).
    """
    numbers = [
        item.callspec.params["number"] for item in request.session.items if "every_block_prints" in item.name
    ]
    if not numbers:
        yield {}
        return
    with multiprocessing.get_context("spawn").Pool(1) as beside:  # stopped at the end, whatever it is doing
        yield {
            number: beside.apply_async(run_to_its_end, (number, tmp_path_factory.mktemp("pictures")))
            for number in numbers
        }


def run_to_its_end(number: int, folder: Path) -> tuple[list[Step], list[str]]:
    """With the drawing library, the chapter's pictures are drawn as well, at the place of their command."""
    steps = list(
        run_chapter(chapter_paths()[number], partial(pictures.draw, number, folder) if CAN_DRAW else None)
    )
    return steps, sorted(path.stem for path in folder.glob("*.png"))


@pytest.fixture
def gpt():
    """A tiny GPT in float64 whose weights are large enough for its predictions to be far from uniform."""
    return tiny_gpt()
