"""Train the teacher of the built-in digits recipe: a small CoCa, from scratch, on this machine's CPU.

    python -m worker.pretrain

Writes ``model.safetensors``, ``open_clip_config.json`` and ``metrics.json`` into ``teachers/digits-coca``. The files in
``deploy/models/digits-coca`` were made by this command. The first texts are mostly captions, because they supervise
every word; the later ones are mostly questions. With an even mix throughout, presence and entailment were still at
chance after 2,500 steps; in this order they passed 95 % by step 2,400.
"""

import json
import math
import platform
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from worker.cli import HELP_FLAGS, run_command
from worker.data.digits.dataset import DigitsData, build_digits
from worker.data.digits.rows import Collages
from worker.data.digits.text import QUESTIONS
from worker.files import replace_text
from worker.models.open_clip.files import CONFIG_FILE, create, read_config
from worker.models.open_clip.loader import save

TEACHER = Path(__file__).resolve().parent.parent / "deploy" / "models" / "digits-coca"
OUTPUT = Path("teachers") / "digits-coca"
WEIGHTS_FILE, METRICS_FILE = "model.safetensors", "metrics.json"
REPORT_EVERY = 250
"""Steps between two lines of progress."""
QUESTION_WORDS_WEIGHT = 0.1
"""Weight of the words of a question in the loss: they are random, unlike its answer."""


@dataclass(frozen=True)
class Options:
    """The command's options; each is a flag of the same name."""

    output: Path = field(default=OUTPUT, metadata={"help": "Directory for weights, configuration and metrics."})
    model: str = field(
        default=str(TEACHER),
        metadata={"help": "The open_clip configuration to train: a JSON file, or a directory with one."},
    )
    start: str = field(
        default="", metadata={"help": "Initial weights, a safetensors file; by default they are random."}
    )
    kinds: str = field(default=",".join(QUESTIONS), metadata={"help": "Kinds of questions, separated by commas."})
    seed: int = field(default=0, metadata={"help": "Seed of weights and data."})
    steps: int = field(default=4000, metadata={"help": "Optimizer steps."})
    batch: int = field(default=64, metadata={"help": "Collages per step."})
    lr: float = field(default=1e-3, metadata={"help": "Peak learning rate."})
    weight_decay: float = field(default=0.1, metadata={"help": "AdamW weight decay of the matrices."})
    captions_first: float = field(
        default=0.2, metadata={"help": "Fraction of steps whose texts are 80 % captions; then 15 %."}
    )
    contrastive: float = field(default=0.05, metadata={"help": "Weight of the contrastive loss."})
    label_smoothing: float = field(default=0.0, metadata={"help": "Label smoothing of the cross-entropy."})
    shift: int = field(
        default=1, metadata={"help": "Training digits are moved by up to this many pixels in each direction."}
    )


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options: Options = run_command(_command(), arguments, "python -m worker.pretrain")
    for name in (WEIGHTS_FILE, CONFIG_FILE, METRICS_FILE):
        # Checked now, not after minutes of training.
        if (options.output / name).exists():
            sys.exit(f"error: {options.output} already holds a {name}; choose another --output")
    torch.manual_seed(options.seed)
    config = read_config(options.model, Path())
    model = create(config)
    if options.start:
        model.load_state_dict(load_file(options.start))
    kinds = options.kinds.split(",")
    data = build_digits({"asked": dict.fromkeys(kinds, 1.0)})
    started = time.perf_counter()
    train(model, data, options)
    seconds = time.perf_counter() - started
    measured = evaluate(model, data, data.questions)
    measured["accuracy/caption"] = evaluate(model, data, data.held_out)["accuracy/caption"]
    report = {
        "command": shlex.join(["python", "-m", "worker.pretrain", *(arguments or sys.argv[1:])]),
        "seed": options.seed,
        "steps": options.steps,
        "seconds": round(seconds, 1),
        "parameters": sum(p.numel() for p in model.parameters()),
        "held_out_questions": len(data.questions),
        "held_out_source_digits": len(data.questions.scans),
        "held_out": measured,
        "versions": {name: version(name) for name in ("torch", "open_clip_torch", "scikit-learn", "numpy")}
        | {"python": platform.python_version()},
    }
    save(model.state_dict(), config, options.output, weights=WEIGHTS_FILE)
    replace_text(options.output / METRICS_FILE, json.dumps(report, indent=2) + "\n")
    print(json.dumps(report["held_out"], indent=2))


def train(model: nn.Module, data: DigitsData, options: Options) -> None:
    """Train with AdamW, warm-up and cosine decay, on captioning cross-entropy and a small contrastive loss."""
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": decayed, "weight_decay": options.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=options.lr, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, options.steps))
    model.train()
    losses: list[float] = []
    started = time.perf_counter()
    for step, batch in enumerate(_batches(options), start=1):
        loss = caption_loss(model, batch, options)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if step % REPORT_EVERY == 0 or step == options.steps:
            unseen = evaluate(model, data, data.questions, most=1000)
            kinds = " ".join(f"{kind} {unseen[f'accuracy/{kind}']:.3f}" for kind in options.kinds.split(","))
            print(
                f"step {step}/{options.steps}  loss {np.mean(losses):.3f}  {time.perf_counter() - started:.0f} s  "
                f"held-out accuracy {unseen['accuracy']:.3f} ({kinds})",
                flush=True,
            )
            losses.clear()


def caption_loss(model: nn.Module, batch: Mapping[str, Tensor], options: Options) -> Tensor:
    """Return the weighted mean cross-entropy of the words plus the weighted contrastive loss, a scalar.

    Every row has the same weight, whatever its number of words: a question has one word to learn, a caption twelve.
    """
    out = model(batch["image"], batch["text"])
    labels = batch["text"][:, 1:]
    weight = torch.where(batch["answer"][:, 1:], 1.0, QUESTION_WORDS_WEIGHT) * (labels != 0)
    words = F.cross_entropy(
        out["logits"].transpose(1, 2), labels, reduction="none", label_smoothing=options.label_smoothing
    )
    paired = batch["paired"]
    similarity = out["logit_scale"] * out["image_features"][paired] @ out["text_features"][paired].T
    target = torch.arange(len(similarity))
    contrastive = (F.cross_entropy(similarity, target) + F.cross_entropy(similarity.T, target)) / 2
    captioning = ((words * weight).sum(dim=1) / weight.sum(dim=1)).mean()
    total: Tensor = captioning + options.contrastive * contrastive
    return total


@torch.no_grad()
def evaluate(
    model: nn.Module, data: DigitsData, rows: Collages, *, most: int | None = None, batch: int = 500
) -> dict[str, float]:
    """Return the exact-match accuracy in eval mode, in total and by kind, on the first ``most`` items."""
    training = model.training
    model.eval()
    totals: dict[str, list[float]] = {}
    count = len(rows) if most is None else min(most, len(rows))
    for first in range(0, count, batch):
        items = rows.batch(np.arange(first, min(first + batch, count)))
        logits = model(items["image"], items["text"])["logits"]
        for name, (right, count_of_kind) in data.metrics(logits, items).items():
            total = totals.setdefault(name, [0.0, 0.0])
            total[0], total[1] = total[0] + right, total[1] + count_of_kind
    model.train(training)
    return {name: right / count_of_kind for name, (right, count_of_kind) in totals.items() if count_of_kind}


def _batches(options: Options) -> Iterator[dict[str, Tensor]]:
    """Yield the batches: first mostly captions, then mostly questions."""
    captions_first, questions_first = (
        build_digits({"seed": options.seed, "mix": _mix(captions, options.kinds), "shift": options.shift}).train
        for captions in (0.8, 0.15)
    )
    for step in range(options.steps):
        rows = captions_first if step < options.captions_first * options.steps else questions_first
        yield rows.batch(np.arange(step * options.batch, (step + 1) * options.batch))


def _rate(step: int, steps: int, warm_up: int = 100) -> float:
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(steps - warm_up, 1)))


def _mix(captions: float, kinds: str) -> dict[str, float]:
    asked = kinds.split(",")
    return {"caption": captions, **dict.fromkeys(asked, (1 - captions) / len(asked))}


def _command() -> click.Command:
    params: list[click.Parameter] = [
        click.Option(
            [f"--{one.name.replace('_', '-')}"],
            type=type(one.default),
            default=one.default,
            show_default=True,
            help=one.metadata["help"],
        )
        for one in fields(Options)
    ]
    summary = (__doc__ or "").partition("\n")[0]
    return click.Command(None, HELP_FLAGS, lambda **flags: Options(**flags), params, help=summary)


if __name__ == "__main__":
    main()
