"""The metrics of a run for TensorBoard, for those who want them there: `--log-to tensorboard`.

runs/1/tensorboard/sft, dpo    the numbers of metrics.jsonl under the same names, a folder a stage
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from mini_dpo.errors import UserError


def check_board() -> None:
    """Raise UserError if TensorBoard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise UserError("--log-to tensorboard needs a package that is not here: pip install tensorboard")


def open_board(run: Path, stage: str, first: int) -> Any:
    """A SummaryWriter for a stage of a run, whose next step is number `first`. What a stopped run has written
    of this step and of later ones does not count. Raises UserError where a link would lead out of the run.
    """
    from torch.utils.tensorboard import SummaryWriter  # optional, and slow to import

    folder = run / "tensorboard" / stage
    if folder.parent.is_symlink() or folder.is_symlink():
        raise UserError(f"{folder}: a link; take it away, so that the run writes into its own folder")
    return SummaryWriter(str(folder), purge_step=first)


def write_board(board: Any, step: int, record: dict[str, float]) -> None:
    """Add the metrics of a step."""
    for name, value in record.items():
        board.add_scalar(name, value, step)
