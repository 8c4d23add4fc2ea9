"""Plots of the study: held-out loss and metric against cost, and the shares of the arms over time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt

from benchmarks.quality.grid import STUDENTS, Cell

COLOURS = {
    "joint": "#555555",
    "task + logits only": "#b0b0b0",
    "round robin": "#3b7dd8",
    "uniform": "#7fb2ea",
    "optima": "#d1495b",
    "optima per cost": "#e8a33d",
}
ARM_COLOURS = {
    "i": "#4c9f70", "t": "#8d6cab", "m": "#e07a3f", "c": "#e8c547", "l": "#8d6cab", "u": "#a63d40", "j": "#999999",
}  # fmt: skip
"""Colours of arms by their first letter."""
BINS = 14


def plot(runs: Mapping[Cell, Mapping[str, Any]], file: Path) -> None:
    """Draw a row for each problem and budget that has runs of `optima` and joint.

    A row shows loss, metric, and the shares of the arms over the rounds of `optima`.
    """
    problems: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for cell, record in runs.items():
        problems.setdefault(f"{cell.problem}, {cell.budget:g} s", {}).setdefault(cell.method, []).append(record)
    problems = {name: methods for name, methods in problems.items() if {"joint", "optima"} <= methods.keys()}
    if not problems:
        return
    figure, axes = plt.subplots(len(problems), 3, figsize=(13, 3.3 * len(problems)), squeeze=False)
    for row, (problem, methods) in zip(axes, problems.items(), strict=True):
        for method, colour in COLOURS.items():
            if method in methods:
                _curves(row[:2], methods[method], method, colour)
        row[0].set(title=problem, ylabel="held-out distillation loss", yscale="log")
        row[1].set(title="task metric", ylabel="held-out share right")
        for axis in row[:2]:
            axis.set_xlabel("cost, calibrated CPU seconds")
            axis.grid(alpha=0.25)
        row[0].legend(fontsize=8)
        if "optima" in methods:
            _arms(row[2], [run["arms"] for run in methods["optima"]], STUDENTS[problem.split("/")[1]].arms)
    figure.tight_layout()
    figure.savefig(file, dpi=90)
    plt.close(figure)


def _curves(axes: Any, runs: list[Mapping[str, Any]], name: str, colour: str) -> None:
    """Draw the mean over seeds on a common grid of costs, and a dot for each result.

    The line goes through the points at which the same few items were judged; a result is judged on more items.
    """
    curves, results = [], []
    for run in runs:
        costs = {round(result["cost"], 2) for result in run["results"]}
        curves.append(np.asarray([point for point in run["curve"] if point[0] not in costs]))
        results.append(np.asarray([point for point in run["curve"] if point[0] in costs]))
    ends = np.stack(results)
    grid = np.linspace(0, min(curve[-1, 0] for curve in curves), 60)
    for axis, column in zip(axes, (1, 2), strict=True):
        values = np.stack([np.interp(grid, curve[:, 0], curve[:, column]) for curve in curves])
        axis.plot(grid, values.mean(0), color=colour, label=name)
        axis.plot(ends[..., 0].mean(0), ends[..., column].mean(0), "o", color=colour, markersize=4)
        axis.fill_between(grid, values.min(0), values.max(0), color=colour, alpha=0.12, linewidth=0)


def _arms(axis: Any, sequences: list[str], arms: Mapping[str, str]) -> None:
    """Draw the arms' shares over the rounds of all runs, stacked."""
    names = {**arms, "j": "joint"}
    shares = np.zeros((len(names), BINS))
    for sequence in sequences:
        for index, letter in enumerate(sequence):
            shares[list(names).index(letter), index * BINS // len(sequence)] += 1
    shares /= shares.sum(0).clip(min=1)
    colours = [ARM_COLOURS[letter] for letter in names]
    axis.stackplot((np.arange(BINS) + 0.5) / BINS, shares, labels=list(names.values()), colors=colours, alpha=0.85)
    axis.set(title="what optima trains", xlabel="share of its rounds", ylabel="share", xlim=(0, 1), ylim=(0, 1))
    axis.legend(fontsize=8, loc="lower left")
