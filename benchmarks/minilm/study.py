"""The study: what its jobs are, what they cost, and how near their students come to the teacher."""

from __future__ import annotations

import json
import platform
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.minilm.corpus import write_corpus
from benchmarks.minilm.judge import compare, encode
from benchmarks.minilm.run import DEFAULT, ROUNDS, Study, costs, distil, joint_rounds, spent, untrained
from benchmarks.minilm.teacher import find_teacher
from worker.distill.arms import JOINT

PACKAGES = ("optima-distill", "torch", "deepspeed", "transformers", "sentence-transformers")
RATES = {DEFAULT: 1e-3, JOINT: 1e-3}
"""The learning rate of each method: the best of `GRID` by cosine on the tuning sentences. The default comes first: it
decides how much a joint job may cost."""
GRID = (1e-3, 5e-4, 2e-3)
SEEDS, TUNING_SEED = (1, 2), 100
PROBE, TUNING, JUDGED = 400, 600, 1500
"""Held-out sentences for the probe, the choice of the rates, and the results; none is in two of these."""
STRIDE = 7919
"""Sentences of one package are neighbours in the corpus; a stride that has no factor with their number mixes them."""

Results = dict[str, Any]


def fill(file: Path, cache: Path, *, tune: bool) -> Results:
    """Do the runs that a file of results lacks, save each in it, and return all results.

    Args:
        file: The results, as JSON.
        cache: Where the teacher and the sentences are kept.
        tune: Whether to do the runs from which the rates are chosen, instead of those that are reported.
    """
    results: Results = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"runs": {}}

    def save() -> None:
        results["versions"] = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
        file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")

    texts = cache / "texts"
    if not (texts / "held-out.txt").exists():
        results["corpus"] = write_corpus(texts)
    judged, tuning = _split(texts)
    sentences = tuning if tune else judged
    with tempfile.TemporaryDirectory(prefix="optima-minilm-") as directory:
        study = Study(Path(directory), find_teacher(cache), texts)
        vectors = encode(study.teacher, sentences)
        before = "before, tuning" if tune else "before"
        if before not in results:
            results[before] = compare(encode(untrained(study), sentences), vectors)
            save()
        if "costs" not in results:
            results["costs"] = costs(study)
            save()
        for method, rate, seed in _jobs(tune=tune):
            name = _name(method, rate, seed)
            if name in results["runs"]:
                continue
            rounds = ROUNDS
            if method == JOINT:
                paid = results["runs"][_name(DEFAULT, rate if tune else RATES[DEFAULT], seed)]["seconds"]
                rounds = joint_rounds(paid, results["costs"])
            student, pulls = distil(study, method, rate, seed, rounds)
            seconds = round(spent(pulls, results["costs"], probed=method != JOINT), 2)
            scores = compare(encode(student, sentences), vectors)
            results["runs"][name] = {"pulls": pulls, "seconds": seconds, **scores}
            save()
            print(f"{name}: {results['runs'][name]}", file=sys.stderr, flush=True)
    return results


def _jobs(*, tune: bool) -> Iterator[tuple[str, float, int]]:
    """Yield method, learning rate and seed of each job, in order."""
    if tune:
        yield from ((method, rate, TUNING_SEED) for rate in GRID for method in RATES)
    else:
        yield from ((method, rate, seed) for seed in SEEDS for method, rate in RATES.items())


def _name(method: str, rate: float, seed: int) -> str:
    return f"{method}, lr {rate:g}, seed {seed}"


def _split(texts: Path) -> tuple[list[str], list[str]]:
    """Write the probe's sentences; return those for the results and those for the choice of rates."""
    lines = (texts / "held-out.txt").read_text(encoding="utf-8").splitlines()
    count = min(PROBE + TUNING + JUDGED, len(lines))
    mixed = [lines[index * STRIDE % len(lines)] for index in range(count)]
    (texts / "probe.txt").write_text("\n".join(mixed[:PROBE]) + "\n", encoding="utf-8")
    return mixed[PROBE + TUNING :], mixed[PROBE : PROBE + TUNING]


def table(results: Results) -> str:
    """Return the results as a table in Markdown."""
    lines = ["| student | rounds by arm | CPU seconds | cosine | ten neighbours |", "|---|---|---|---|---|"]
    rows = {name: results[name] for name in ("before", "before, tuning") if name in results} | results["runs"]
    for name, row in rows.items():
        pulls = ", ".join(f"{arm} {count}" for arm, count in sorted(row.get("pulls", {}).items()))
        lines.append(
            f"| {name} | {pulls} | {row.get('seconds', 0):.0f} | {row['cosine']:.3f} | {row['neighbours']:.1%} |"
        )
    return "\n".join(lines)
