"""Does it pay? The same student from the same teacher, by different methods, at equal training cost.

    python -m benchmarks.quality --quick --json q.json
    python -m benchmarks.quality --recipes questions/uneven/little --methods joint optima --json FILE --plot FILE

The cost is the number of steps of each kind times their calibrated CPU seconds, plus what a method has to measure; so a
noisy machine decides nothing. Runs that are in FILE are not done again, and several commands may share a FILE.
``--report`` prints the tables of all runs in FILE, and with ``--tune`` those of the tuning seeds. Results are in
docs/does-it-pay.md.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.quality import report
from benchmarks.quality.grid import FIRST_REPORTED, METHODS, Cell, cells, tuned
from benchmarks.quality.records import Records
from benchmarks.quality.thresholds import summary

QUICK = ("joint", "round robin", "optima")
QUICK_RECIPE, QUICK_SEEDS, QUICK_BUDGET = "questions/uneven/little", range(300, 302), 12.0
TUNING = [
    *itertools.product((3e-3, 6e-3, 1.5e-3, 7.5e-4), (10.0, 30.0, 3.0, 1.0)),
    # All methods did best in one corner of that grid, so it was extended there.
    *((1.2e-2, 30.0), (6e-3, 100.0), (1.2e-2, 100.0), (1.2e-2, 10.0), (3e-3, 100.0)),
    *((lr, 0.0) for lr in (3e-3, 6e-3, 1.5e-3, 7.5e-4, 3.75e-4)),
]
"""The grid for every method: the peak learning rate, and the weight of the layer terms (0 for the method without)."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = _parser().parse_args(arguments)
    records = Records(options.json)
    try:
        selected = _selected(options, records)
        if not options.report:
            # First the runs that no other process does, then those that others have not finished.
            for wait in (False, True):
                for cell in selected:
                    _run(cell, records, wait=wait)
        runs = {cell: record for cell in selected if (record := records.read("runs", cell.name)) is not None}
    except ValueError as error:
        sys.exit(f"error: {error}")
    if options.tune:
        print(report.tuning(runs))
        return
    print(*filter(None, (summary(runs), report.tables(runs))), sep="\n\n")
    if options.plot:
        from benchmarks.quality.plot import plot

        plot(runs, options.plot)
    if options.quick and (fault := report.not_best(runs)):
        sys.exit(f"error: {fault}")


def _run(cell: Cell, records: Records, *, wait: bool) -> None:
    """Do a run, unless it is finished or another process does it; with ``wait``, wait for that process first."""
    with records.claim("runs", cell.name, wait=wait) as mine:
        if not mine:
            return
        # Slow to import, and not needed for a report.
        from benchmarks.quality.run import run, single_rank

        seconds = _seconds(cell, records)
        started = time.monotonic()
        record = run(cell, seconds, single_rank())
        records.write("runs", cell.name, record)
        _, loss, score = record["curve"][-1]
        elapsed = time.monotonic() - started
        print(f"{cell.name}: loss {loss:.3f}, metric {score:.3f}, {elapsed:.0f} s", file=sys.stderr, flush=True)


def _seconds(cell: Cell, records: Records) -> dict[str, float]:
    """Return the calibrated seconds of the cell's kinds of work, measured once for all runs of a student.

    A joint step is taken to cost what it costs under `forced`, also without layer terms, whose share is too small to
    measure; all other kinds are scaled accordingly.
    """
    from benchmarks.quality.run import calibrated, single_rank

    reference, own = f"{cell.student}/forced", f"{cell.student}/{METHODS[cell.method].train}"
    for name, method in ((reference, "joint"), (own, cell.method)):
        with records.claim("calibrations", name, wait=True) as mine:
            if mine:
                records.write("calibrations", name, calibrated(replace(cell, method=method), single_rank()))
    calibrations = records.all("calibrations")
    scale = calibrations[reference]["step/joint"] / calibrations[own]["step/joint"]
    return {kind: seconds * scale for kind, seconds in calibrations[own].items()}


def _selected(options: argparse.Namespace, records: Records) -> list[Cell]:
    """Return the runs that the command is about, the most informative first; for a report, all finished ones."""
    settings = tuned(records.all("runs"))
    if options.quick:
        return list(cells([QUICK_RECIPE], QUICK, QUICK_SEEDS, QUICK_BUDGET, settings))
    if options.report:
        finished = sorted(map(Cell.from_name, records.all("runs")), key=lambda cell: (-cell.budget, cell.rank))
        if options.tune:
            return [cell for cell in finished if cell.tunes]
        return [c for c in finished if c.seed >= FIRST_REPORTED and (c.lr, c.weight) == settings[c.student, c.method]]
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    plain = list(cells(options.recipes, options.methods, seeds, options.budget, settings))
    if not options.tune:
        return plain
    return [
        replace(cell, lr=lr, weight=weight)
        for lr, weight in TUNING
        for cell in plain
        if METHODS[cell.method].layers == (weight > 0)
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where records are read and added")
    parser.add_argument(
        "--recipes", nargs="+", default=[QUICK_RECIPE], metavar="TASK/STUDENT/AMOUNT",
        help=f"task, student and amount of data of the runs (default: {QUICK_RECIPE})",
    )  # fmt: skip
    # Some names have a comma in them.
    methods = "; ".join(METHODS).replace("%", "%%")
    parser.add_argument("--methods", nargs="+", default=list(QUICK), metavar="METHOD", help=f"one or more of {methods}")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="number of seeds (default: %(default)s)")
    parser.add_argument(
        "--first-seed", type=int, default=FIRST_REPORTED, metavar="S", help="the first seed (default: %(default)s)"
    )
    parser.add_argument(
        "--budget", type=float, default=24.0, metavar="SECONDS",
        help="cost of each run, in calibrated CPU seconds (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--plot", type=Path, metavar="FILE", help="loss and metric against cost, and arms over time")
    parser.add_argument("--tune", action="store_true", help="every method on the grid of learning rates and weights")
    parser.add_argument("--report", action="store_true", help="run nothing, report all runs in FILE")
    parser.add_argument("--quick", action="store_true", help="one task, two seeds; exit status 1 if optima is not best")
    return parser


if __name__ == "__main__":
    main()
