"""Regret relative to the reference, a panel for each scenario."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import fmean

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from benchmarks.regret.peers import PEERS
from benchmarks.regret.thresholds import BLIND, OURS, REFERENCE, Results, drawn

COLUMNS = 4


def draw(results: Results, path: Path) -> None:
    """Mean regret divided by sliding_window_ts' (by uniform's, where that did not play), over the horizons.

    A point is the geometric mean over the numbers of arms; 1 % of uniform's regret is added to both, as in the
    ranking. Down is better. Peers are dashed. Recorded traces have one horizon each and are left out, unless there is
    nothing else.
    """
    results = drawn(results) or results
    names = list(next(iter(results.values())))
    reference = REFERENCE if REFERENCE in names else BLIND
    scenarios = list(dict.fromkeys(cell[0] for cell in results))
    rows = math.ceil(len(scenarios) / COLUMNS)
    columns = min(COLUMNS, len(scenarios))
    figure, axes = pyplot.subplots(rows, columns, figsize=(3.4 * columns, 2.8 * rows), squeeze=False, sharey=True)
    colours = pyplot.get_cmap("tab20")
    for axis, scenario in zip(axes.flat, scenarios, strict=False):
        horizons = sorted({cell[1] for cell in results if cell[0] == scenario})
        for at, name in enumerate(names):
            values = [_relative(results, scenario, horizon, name, reference) for horizon in horizons]
            width, above = (3, 3) if name == OURS else (1, 2)
            style = "--" if name in PEERS else "-"
            axis.plot(horizons, values, style, marker="o", markersize=3, color=colours(at % 20), label=name,
                      linewidth=width, zorder=above)  # fmt: skip
        axis.axhline(1, color="grey", linewidth=0.5)
        axis.set(title=scenario, xscale="log", yscale="log", xlabel="pulls")
        axis.set_xticks(horizons, [str(horizon) for horizon in horizons], minor=False)
        axis.minorticks_off()
    spare = axes.flat[len(scenarios) :]
    for axis in spare:
        axis.set_axis_off()
    for row in axes:
        row[0].set_ylabel(f"regret / {reference}'s")
    shown = axes.flat[0].get_legend_handles_labels()
    if spare.size:
        spare[0].legend(*shown, loc="center", fontsize="x-small", ncols=2)
    else:
        figure.legend(*shown, loc="outside right center", fontsize="small")
    figure.set_layout_engine("constrained")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _relative(results: Results, scenario: str, horizon: int, name: str, reference: str) -> float:
    logs = []
    for cell, by_player in results.items():
        if cell[:2] == (scenario, horizon):
            floor = 0.01 * fmean(by_player[BLIND])
            logs.append(math.log((fmean(by_player[name]) + floor) / (fmean(by_player[reference]) + floor)))
    return math.exp(fmean(logs))
