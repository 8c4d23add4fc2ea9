"""A plot of the regret relative to the reference, with a panel for each scenario."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import fmean

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from benchmarks.regret.peers import PEERS
from benchmarks.regret.thresholds import OPTIMA, REFERENCE, UNIFORM, Results, without_traces

COLUMNS = 4


def draw(results: Results, path: Path) -> None:
    """Draw the mean regret divided by that of sliding_window_ts (or of uniform if that did not play), by horizon.

    A point is the geometric mean over the numbers of arms; 1 % of uniform's regret is added to both, as in the
    ranking. Lower is better. Policies of other libraries are dashed. Recorded traces have one horizon each and are left
    out, unless there is nothing else.
    """
    results = without_traces(results) or results
    names = list(next(iter(results.values())))
    reference = REFERENCE if REFERENCE in names else UNIFORM
    scenarios = list(dict.fromkeys(cell[0] for cell in results))
    rows = math.ceil(len(scenarios) / COLUMNS)
    columns = min(COLUMNS, len(scenarios))
    figure, axes = pyplot.subplots(rows, columns, figsize=(3.4 * columns, 2.8 * rows), squeeze=False, sharey=True)
    colours = pyplot.get_cmap("tab20")
    for axis, scenario in zip(axes.flat, scenarios, strict=False):
        horizons = sorted({cell[1] for cell in results if cell[0] == scenario})
        for index, name in enumerate(names):
            values = [_relative(results, scenario, horizon, name, reference) for horizon in horizons]
            width, order = (3, 3) if name == OPTIMA else (1, 2)
            style = "--" if name in PEERS else "-"
            axis.plot(horizons, values, style, marker="o", markersize=3, color=colours(index % 20), label=name,
                      linewidth=width, zorder=order)  # fmt: skip
        axis.axhline(1, color="grey", linewidth=0.5)
        axis.set(title=scenario, xscale="log", yscale="log", xlabel="pulls")
        axis.set_xticks(horizons, [str(horizon) for horizon in horizons], minor=False)
        axis.minorticks_off()
    unused = axes.flat[len(scenarios) :]
    for axis in unused:
        axis.set_axis_off()
    for row in axes:
        row[0].set_ylabel(f"regret / {reference}'s")
    entries = axes.flat[0].get_legend_handles_labels()
    if unused.size:
        unused[0].legend(*entries, loc="center", fontsize="x-small", ncols=2)
    else:
        figure.legend(*entries, loc="outside right center", fontsize="small")
    figure.set_layout_engine("constrained")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _relative(results: Results, scenario: str, horizon: int, name: str, reference: str) -> float:
    logs = []
    for cell, by_player in results.items():
        if cell[:2] == (scenario, horizon):
            floor = 0.01 * fmean(by_player[UNIFORM])
            logs.append(math.log((fmean(by_player[name]) + floor) / (fmean(by_player[reference]) + floor)))
    return math.exp(fmean(logs))
