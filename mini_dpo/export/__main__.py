"""Write a run's model as a folder that Hugging Face's transformers loads.

python -m mini_dpo.export runs/1 my-model          the preference-trained model
python -m mini_dpo.export runs/1 my-model --sft    the model before it
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mini_dpo.cli import option, parser_for, run_command
from mini_dpo.export.folder import export


@dataclass(frozen=True)
class ExportSettings:
    """What to write, and how."""

    sft: bool = option(bool, "the SFT model of the run instead of the preference-trained one", False)
    bin: bool = option(bool, "the weights as pytorch_model.bin, which needs no further package", False)


def main() -> None:
    parser = parser_for(
        ExportSettings,
        "export",
        "Write a run's model as a folder that Hugging Face's transformers loads.",
        arguments="RUN FOLDER ",
    )
    parser.add_argument("run", metavar="RUN", help="a run's folder, or a checkpoint file")
    parser.add_argument("folder", metavar="FOLDER", help="the new folder, which must not exist yet")
    given = vars(parser.parse_args())
    run, folder = Path(given.pop("run")), Path(given.pop("folder"))
    settings = ExportSettings(**given)
    export(run, folder, settings.sft, settings.bin)
    print(f"{folder}: ready for transformers; {folder / 'README.md'} says how to load it")


if __name__ == "__main__":
    run_command(main)
