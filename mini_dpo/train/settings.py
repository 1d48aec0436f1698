"""What a run can be told: the flags of `python -m mini_dpo.train`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mini_dpo.cli import option
from mini_dpo.formats.loading import FORMATS
from mini_dpo.model import PRESETS

# Default peak learning rates for narrow and for wide models. The first were searched for on another draw of
# the toy shop (another seed). The second are a cautious guess.
LR = {
    "sft": (8e-3, 5e-4),
    "sft from a model": (8e-4, 5e-5),
    "dpo": (2e-4, 2e-5),
    "dpo on the toy shop": (3e-4, 2e-5),
}

WIDE = 512  # channels from which a model counts as wide

# Default passes over the data: over the toy shop, where Muon and large steps are known to work, and over the
# user's own data. These may be few, and of few examples Muon makes a model that only repeats them.
EPOCHS = {"sft": (2.0, 6.0), "dpo": (1.0, 3.0)}

DATA, MODEL, BOTH = "your own data", "the model", "both stages"  # headings in the help

PREFERENCES, SFT = "preference training", "SFT (with --stage sft, --lr, --epochs and --steps are SFT's)"


@dataclass(frozen=True)
class Settings:
    """The settings of a run. Fields made by `option` are flags. `resolve` fills in most that are None."""

    stage: str = option(
        str,
        "what to run: sft; dpo (needs --init-from); all, one after the other; or online: dpo on pairs that "
        "the policy writes and a judge labels",
        "all",
        ("sft", "dpo", "all", "online"),
    )
    resume: str | None = option(
        str,
        "go on with the run in this folder; takes no other flag but --checkpoint-activations, "
        "which changes what it needs and not what it computes, and --loss, where that is a file of yours",
        metavar="PATH",
    )
    out: str | None = option(
        str,
        "the run's folder, which must not exist yet (default: the next number under runs/)",
        metavar="PATH",
    )

    data: str | None = option(
        str,
        'preferences, one {"prompt", "chosen", "rejected"} a line, or for losses of single '
        'responses {"prompt", "completion", "label"}; without it, the toy shop',
        metavar="PATH",
        group=DATA,
    )
    sft_data: str | None = option(
        str,
        'responses to imitate, one {"prompt", "response"} a line; without it, the chosen ones of --data',
        metavar="PATH",
        group=DATA,
    )

    held_out: str | None = option(
        str,
        "preferences to measure on, in the form of --data; no prompt of theirs is trained on "
        "(default: a tenth of the prompts of your files)",
        metavar="PATH",
        group=DATA,
    )
    skip_bad: bool = option(
        bool,
        "leave out what cannot be used of these files, empty answers for example, and say so, "
        "instead of stopping",
        False,
        group=DATA,
    )

    format: str | None = option(
        str,
        "the form of the rows of --data (of --sft-data, where that is alone), if it is not the one that is "
        "recognised",
        None,
        FORMATS,
        group=DATA,
    )
    sft_on: str = option(
        str,
        "of a conversation in --sft-data with several turns of the assistant, imitate all, or the last only",
        "all",
        ("all", "last"),
        group=DATA,
    )
    truncate: str = option(
        str,
        "what to do with a conversation that is longer than the context: leave it out, or leave out its "
        "oldest turns",
        "none",
        ("none", "oldest-turns"),
        group=DATA,
    )

    world: str | None = option(
        str,
        "the world to train in, in place of your own data: a name that `python -m mini_dpo.worlds` shows, or "
        "file.py:NAME (default: shop, the toy shop)",
        metavar="NAME",
        group=DATA,
    )
    judge: str | None = option(
        str,
        "a judge of your own for --data, file.py:function: (prompt, answer) to a number, or to a dict of "
        "marks; with it, true reward and win rate are measured",
        metavar="NAME",
        group=DATA,
    )

    init_from: str | None = option(
        str,
        "start from this model instead of random weights: a checkpoint file, a run's folder (its SFT model), "
        "or a GPT-2 from Hugging Face (a folder with config.json and model.safetensors)",
        metavar="PATH",
        group=MODEL,
    )
    model: str | None = option(
        str,
        "toy (0.5 million parameters) or gpt2 (124 million) (default: toy)",
        None,
        tuple(PRESETS),
        group=MODEL,
    )
    n_layer: int | None = option(int, "transformer blocks, instead of the model's own number", group=MODEL)
    n_head: int | None = option(int, "attention heads a block, likewise", group=MODEL)
    n_embd: int | None = option(int, "channels, likewise", group=MODEL)
    context: int | None = option(
        int,
        "longest prompt and response together, in tokens, likewise; for your own data and the "
        "toy model, fitted to the data",
        group=MODEL,
    )
    tokenizer: str | None = option(
        str,
        "toy (embedded) or gpt2 (fetched once) (default: the model's namesake; for your own "
        "data gpt2 where tiktoken has it already)",
        None,
        ("toy", "gpt2"),
        group=MODEL,
    )

    loss: str = option(
        str,
        "the preference loss: a name that --list-losses shows, or file.py:function, one of your own",
        "dpo",
        metavar="NAME",
        group=PREFERENCES,
    )
    reference: str | None = option(
        str,
        "with --stage dpo, a reference other than the model that --init-from names: the first "
        "round's, in a second round",
        metavar="PATH",
        group=PREFERENCES,
    )
    sft_weight: float | None = option(
        float,
        "add so much of the chosen response's negative log-likelihood, in nats per token (default: 0, or "
        "what the world needs)",
        group=PREFERENCES,
    )
    lr: float | None = option(
        float,
        f"peak learning rate (default: {LR['dpo on the toy shop'][0]:g} on the toy shop, "
        f"{LR['dpo'][0]:g} on --data; {LR['dpo'][1]:g} from {WIDE} channels on)",
        group=PREFERENCES,
    )
    epochs: float | None = option(
        float,
        f"passes over the data (default: {EPOCHS['dpo'][0]:g} over the toy shop, "
        f"{EPOCHS['dpo'][1]:g} over --data)",
        group=PREFERENCES,
    )
    steps: int | None = option(int, "optimizer steps, instead of --epochs", group=PREFERENCES)
    precompute_ref: bool = option(
        bool,
        "keeps the reference's log-probs in a file beside the data, for the next run with the same data "
        "and reference; they are scored ahead of training anyway, if the data are read at least once",
        False,
        group=PREFERENCES,
    )

    rounds: int = option(
        int, "with --stage online, how often the policy writes new pairs", 3, group=PREFERENCES
    )
    pairs: int | None = option(
        int, "with --stage online, pairs in all (default: as many as the preferences)", group=PREFERENCES
    )
    moving_reference: bool = option(
        bool,
        "with --stage online, the reference of a round is the policy that wrote it, not the starting model",
        False,
        group=PREFERENCES,
    )

    sft_lr: float | None = option(
        float,
        f"peak learning rate (default: {LR['sft'][0]:g}; {LR['sft'][1]:g} from {WIDE} channels on; "
        "a tenth of it with --init-from)",
        group=SFT,
    )
    sft_epochs: float | None = option(
        float,
        f"passes over the data (default: {EPOCHS['sft'][0]:g} over the toy shop, "
        f"{EPOCHS['sft'][1]:g} over your own)",
        group=SFT,
    )
    sft_steps: int | None = option(int, "optimizer steps, instead of --sft-epochs", group=SFT)
    dropout: float = option(float, "dropout; preference training has none", 0.0, group=SFT)

    batch_size: int | None = option(
        int,
        "pairs per batch; single responses for SFT and for losses of single responses (default: 32)",
        group=BOTH,
    )
    tokens_per_batch: int | None = option(
        int,
        "as many examples a batch as fit into so many tokens, instead of --batch-size: "
        "batches of even cost and memory",
        group=BOTH,
    )
    accumulate: int = option(
        int, "batches an optimizer step: the same gradient as one large batch, in less memory", 1, group=BOTH
    )
    optimizer: str | None = option(
        str,
        "adamw, or muon for the matrices inside the blocks, which learns faster from random "
        "weights and knows a few examples by heart sooner (default: muon for SFT on the toy shop "
        f"below {WIDE} channels, else adamw)",
        None,
        ("adamw", "muon"),
        group=BOTH,
    )
    seed: int = option(
        int,
        "of weights, order, dropout and samples: one seed, one result on one CPU (a GPU adds "
        "up in an order of its own)",
        0,
        group=BOTH,
    )
    device: str = option(
        str, "where to compute; auto takes cuda, else cpu", "auto", ("auto", "cpu", "cuda", "mps"), group=BOTH
    )
    dtype: str = option(
        str,
        "bfloat16 multiplies in half precision (meant for cuda) and keeps float32 weights",
        "float32",
        ("float32", "bfloat16"),
        group=BOTH,
    )
    compile: bool = option(
        bool, "translate the model with torch.compile first; gains nothing on a CPU", False, group=BOTH
    )
    checkpoint_activations: bool = option(
        bool,
        "keep only what stands between the blocks and compute their insides again for the "
        "gradient: less memory, a third more time",
        False,
        group=BOTH,
    )
    eval_every: int | None = option(
        int, "steps between two looks at the validation data (default: five a stage)", group=BOTH
    )
    eval_examples: int = option(
        int,
        "held-out examples of a kind that each look, and the closing table, take in at most",
        256,
        group=BOTH,
    )
    max_new_tokens: int | None = option(
        int,
        "longest answer to a held-out prompt, in tokens (default: twice the longest held-out "
        "response, 512 at most)",
        group=BOTH,
    )
    save_every: int = option(int, "steps between two checkpoints", 100, group=BOTH)
    log_to: str = option(
        str,
        "tensorboard writes the metrics to the run's folder tensorboard/ as well (pip install tensorboard)",
        "none",
        ("none", "tensorboard"),
        group=BOTH,
    )

    loss_options: dict[str, Any] = field(default_factory=dict)
    id: str = ""  # of the run, in all its files, so that a file of another run is recognised
    start: str = "SFT"  # the name of the model that preference training starts from, in tables

    @property
    def goes_on(self) -> bool:
        """Whether there is no SFT in this run: it goes on from a model."""
        return self.stage in ("dpo", "online")

    @property
    def source(self) -> str:
        """What is trained on, for messages."""
        if self.world and self.world != "shop":
            return f"the world {self.world.rsplit(':', 1)[-1]}"
        return self.data or self.sft_data or "the toy shop"
