"""Does it pay? The same student from the same teacher, by different methods, at equal training cost:

    python -m benchmarks.quality --quick --json q.json
    python -m benchmarks.quality --recipes questions/uneven/little --methods joint optima --json FILE --plot FILE

Cost is calibrated CPU seconds of each kind of step times the steps, with what a method has to measure; so a noisy
machine decides nothing. Runs that FILE has are not done again, and several commands may share one. `--report` only
prints what is there: all tables, and with `--tune` what the tuning seeds said. docs/does-it-pay.md has what came of it.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.quality import report
from benchmarks.quality.grid import FIRST_REPORTED, METHODS, Cell, cells, tuned
from benchmarks.quality.records import Records
from benchmarks.quality.thresholds import bars

QUICK = ("joint", "round robin", "optima")
QUICK_RECIPE, QUICK_SEEDS, QUICK_BUDGET = "questions/uneven/little", range(300, 302), 12.0
TUNING = [
    *itertools.product((3e-3, 6e-3, 1.5e-3, 7.5e-4), (10.0, 30.0, 3.0, 1.0)),
    # All methods did best in a corner of that, so it was widened there.
    *((1.2e-2, 30.0), (6e-3, 100.0), (1.2e-2, 100.0), (1.2e-2, 10.0), (3e-3, 100.0)),
    *((lr, 0.0) for lr in (3e-3, 6e-3, 1.5e-3, 7.5e-4, 3.75e-4)),
]
"""The grid for every method: the peak learning rate, and the weight of the layer terms (0 for the method without)."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    asked = _parser().parse_args(arguments)
    records = Records(asked.json)
    try:
        wanted = _wanted(asked, records)
        if not asked.report:
            # First what nobody does, then what others have not finished.
            for wait in (False, True):
                for cell in wanted:
                    _do(cell, records, wait=wait)
        found = {cell: told for cell in wanted if (told := records.read("runs", cell.name)) is not None}
    except ValueError as error:
        sys.exit(f"error: {error}")
    if asked.tune:
        print(report.tuning(found))
        return
    print(*filter(None, (bars(found), report.tables(found))), sep="\n\n")
    if asked.plot:
        from benchmarks.quality.plot import plot

        plot(found, asked.plot)
    if asked.quick and (fault := report.lost(found)):
        sys.exit(f"error: {fault}")


def _do(cell: Cell, records: Records, *, wait: bool) -> None:
    """Run it, unless that is done or another process's to do; `wait` for what becomes of that."""
    with records.claim("runs", cell.name, wait=wait) as mine:
        if not mine:
            return
        # Slow to import, and not needed to report.
        from benchmarks.quality import run as quality_run

        seconds = _seconds(cell, records, quality_run)
        started = time.monotonic()
        found = quality_run.run(cell, seconds, quality_run.alone())
        records.write("runs", cell.name, found)
        _, loss, score = found["curve"][-1]
        took = time.monotonic() - started
        print(f"{cell.name}: loss {loss:.3f}, metric {score:.3f}, {took:.0f} s", file=sys.stderr, flush=True)


def _seconds(cell: Cell, records: Records, runner: Any) -> dict[str, float]:
    """What the cell's kinds of work cost: measured once for all of a student's runs. A joint step costs what it does
    under `forced`, also without layer terms, whose share is below what can be measured; the rest is relative to it."""
    usual, kind = f"{cell.student}/forced", f"{cell.student}/{METHODS[cell.method].train}"
    for name, method in ((usual, "joint"), (kind, cell.method)):
        with records.claim("calibrations", name, wait=True) as mine:
            if mine:
                seconds = runner.calibrated(replace(cell, method=method), runner.alone())
                records.write("calibrations", name, seconds)
    known = records.all("calibrations")
    pace = known[usual]["step/joint"] / known[kind]["step/joint"]
    return {name: value * pace for name, value in known[kind].items()}


def _wanted(asked: argparse.Namespace, records: Records) -> list[Cell]:
    """The runs that the command is about, the most valuable first; for a report all that are there."""
    settings = tuned(records.all("runs"))
    if asked.quick:
        return list(cells([QUICK_RECIPE], QUICK, QUICK_SEEDS, QUICK_BUDGET, settings))
    if asked.report:
        there = sorted(map(Cell.of, records.all("runs")), key=lambda cell: (-cell.budget, cell.rank))
        if asked.tune:
            return [cell for cell in there if cell.tunes]
        return [c for c in there if c.seed >= FIRST_REPORTED and (c.lr, c.weight) == settings[c.method]]
    seeds = range(asked.first_seed, asked.first_seed + asked.seeds)
    plain = list(cells(asked.recipes, asked.methods, seeds, asked.budget, settings))
    if not asked.tune:
        return plain
    return [
        replace(cell, lr=lr, weight=weight)
        for lr, weight in TUNING
        for cell in plain
        if METHODS[cell.method].layers == (weight > 0)
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="the records, old and new")
    parser.add_argument("--recipes", nargs="+", default=[QUICK_RECIPE], metavar="TASK/STUDENT/AMOUNT")
    parser.add_argument("--methods", nargs="+", default=list(QUICK), metavar="METHOD", help=f"of {', '.join(METHODS)}")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="how many (default: %(default)s)")
    parser.add_argument("--first-seed", type=int, default=FIRST_REPORTED, metavar="S", help="(default: %(default)s)")
    parser.add_argument("--budget", type=float, default=24.0, metavar="SECONDS", help="(default: %(default)s)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="loss and metric against cost, and arms over time")
    parser.add_argument("--tune", action="store_true", help="every method on the grid of learning rates and weights")
    parser.add_argument("--report", action="store_true", help="run nothing, report all that FILE has")
    parser.add_argument("--quick", action="store_true", help="one task, two seeds; fails if optima does not win")
    return parser


if __name__ == "__main__":
    main()
