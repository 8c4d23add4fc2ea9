"""The study: corpus, teacher, jobs, and the word error rates of all models on voices and sentences held out."""

from __future__ import annotations

import json
import platform
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.speech.corpus import write_corpus
from benchmarks.speech.data import Recordings
from benchmarks.speech.judge import judge
from benchmarks.speech.run import Study, distil, untrained
from benchmarks.speech.teacher import make_model, make_processor, pretrain

PACKAGES = ("optima-distill", "torch", "deepspeed", "transformers")
PROBE = 100
"""Held-out recordings for the probe; the others are judged."""

Results = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """The size of a study.

    Attributes:
        utterances: By list of the corpus.
        width: Of the teacher.
        steps: Optimizer steps by which the teacher is trained.
        rounds: Rounds of a job.
        jobs: Layers of the student's decoder, method and seed of each job.
    """

    utterances: dict[str, int]
    width: int
    steps: int
    rounds: int
    jobs: tuple[tuple[int, str, int], ...]


FULL = Size({"train": 2000, "held-out": 500}, 64, 1200, 40,
            (*((layers, "forced", seed) for layers in (2, 1) for seed in (1, 2)),
             (2, "joint", 1), (2, "labels alone", 1), (1, "labels alone", 1)))  # fmt: skip
QUICK = Size({"train": 60, "held-out": 120}, 32, 20, 2, ((1, "forced", 1),))


def fill(file: Path, cache: Path, size: Size) -> Results:
    """Do what a file of results lacks, save each result in it, and return all.

    Args:
        file: The results, as JSON.
        cache: Where corpus and teacher are kept.
        size: The size of the study.
    """
    results: Results = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"models": {}}
    models = results["models"]

    def save(name: str, row: Results) -> None:
        models[name] = row
        results["versions"] = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
        file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(f"{name}: {row}", file=sys.stderr, flush=True)

    # As the jobs, whose launcher says so.
    torch.set_num_threads(1)
    corpus, teacher = cache / "corpus", cache / "teacher"
    if not (corpus / "train.tsv").exists():
        began = time.monotonic()
        write_corpus(corpus, size.utterances)
        results["corpus_seconds"] = round(time.monotonic() - began, 1)
    lines = (corpus / "held-out.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
    for name, rows in (("probe", lines[:PROBE]), ("judged", lines[PROBE:])):
        (corpus / f"{name}.tsv").write_text("".join(rows), encoding="utf-8")
    if not (teacher / "model.safetensors").exists():
        results["teacher_seconds"] = _train_teacher(teacher, corpus, size)
    judged = Recordings(corpus / "judged.tsv", transformers.WhisperProcessor.from_pretrained(teacher))
    if "teacher" not in models:
        save("teacher", judge(teacher, judged))
    with tempfile.TemporaryDirectory(prefix="optima-speech-") as directory:
        study = Study(Path(directory), teacher, corpus, rounds=size.rounds)
        for layers, method, seed in size.jobs:
            before, after = f"{layers} layers, before", f"{layers} layers, {method}, seed {seed}"
            if before not in models:
                save(before, judge(untrained(study, layers), judged))
            if after not in models:
                student, course = distil(study, layers, method, seed)
                save(after, {**judge(student, judged), **course})
    return results


def _train_teacher(directory: Path, corpus: Path, size: Size) -> float:
    """Train the teacher, save it and return the seconds that took."""
    began = time.monotonic()
    torch.manual_seed(0)
    texts = [line.split("\t")[2] for line in (corpus / "train.tsv").read_text(encoding="utf-8").splitlines()]
    processor = make_processor(texts)
    model = make_model(processor, width=size.width, layers=4)
    pretrain(Recordings(corpus / "train.tsv", processor), model, steps=size.steps)
    processor.save_pretrained(directory)
    model.save_pretrained(directory)
    return round(time.monotonic() - began, 1)


def table(results: Results) -> str:
    """Return the results as a table in Markdown."""
    lines = ["| model | decoder's parameters | word error rate | CPU seconds to transcribe | wall seconds of the job |",
             "|---|---|---|---|---|"]  # fmt: skip
    for name, row in results["models"].items():
        lines.append(
            f"| {name} | {row['decoder_parameters']:,} | {row['word_error_rate']:.1%} | {row['cpu_seconds']:.1f} "
            f"| {row.get('wall_seconds', '')} |"
        )
    return "\n".join(lines)
