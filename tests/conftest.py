"""Hypothesis draws a small number of examples by default; MINI_DPO_TESTS=thorough draws many more."""

import os

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.strategies import tiny_gpt

QUIET = dict(deadline=None, database=None, suppress_health_check=list(HealthCheck))
settings.register_profile("quick", max_examples=25, derandomize=True, **QUIET)
settings.register_profile("thorough", max_examples=500, **QUIET)
torch.set_num_threads(1)  # models and batches are small: threads would mostly wait for each other
settings.load_profile(os.environ.get("MINI_DPO_TESTS", "quick"))


@pytest.fixture
def gpt():
    """A tiny GPT in float64 whose weights are large enough for its predictions to be far from uniform."""
    return tiny_gpt()
