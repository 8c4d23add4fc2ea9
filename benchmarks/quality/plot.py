"""Draws the study: held-out loss and metric against cost, and which arms were played when."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt

from benchmarks.quality.grid import Cell

COLOURS = {
    "joint": "#555555",
    "task + logits only": "#b0b0b0",
    "round robin": "#3b7dd8",
    "uniform": "#7fb2ea",
    "optima": "#d1495b",
    "optima per cost": "#e8a33d",
}
ARMS = {"i": ("image", "#4c9f70"), "t": ("text", "#8d6cab"), "m": ("decoder", "#e07a3f"), "j": ("joint", "#999999")}
BINS = 14


def plot(found: Mapping[Cell, Mapping[str, Any]], file: Path) -> None:
    """A row for each problem and budget in which `optima` and joint can be compared: loss, metric, and the shares of
    the arms of `optima` over its rounds."""
    problems: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for cell, told in found.items():
        problems.setdefault(f"{cell.problem}, {cell.budget:g} s", {}).setdefault(cell.method, []).append(told)
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
            _arms(row[2], [run["arms"] for run in methods["optima"]])
    figure.tight_layout()
    figure.savefig(file, dpi=90)
    plt.close(figure)


def _curves(axes: Any, runs: list[Mapping[str, Any]], name: str, colour: str) -> None:
    """The mean over seeds on a common grid of costs, through the points at which the same items were looked at, and a
    dot for each result, which is of more items."""
    looks = [{round(result["cost"], 2) for result in run["results"]} for run in runs]
    curves = [np.asarray([p for p in run["curve"] if p[0] not in seen]) for run, seen in zip(runs, looks, strict=True)]
    ends = np.stack(
        [np.asarray([p for p in run["curve"] if p[0] in seen]) for run, seen in zip(runs, looks, strict=True)]
    )
    costs = np.linspace(0, min(curve[-1, 0] for curve in curves), 60)
    for axis, column in zip(axes, (1, 2), strict=True):
        values = np.stack([np.interp(costs, curve[:, 0], curve[:, column]) for curve in curves])
        axis.plot(costs, values.mean(0), color=colour, label=name)
        axis.plot(ends[..., 0].mean(0), ends[..., column].mean(0), "o", color=colour, markersize=4)
        axis.fill_between(costs, values.min(0), values.max(0), color=colour, alpha=0.12, linewidth=0)


def _arms(axis: Any, sequences: list[str]) -> None:
    """Shares over a run's rounds, stacked."""
    shares = np.zeros((len(ARMS), BINS))
    for sequence in sequences:
        for at, letter in enumerate(sequence):
            shares[list(ARMS).index(letter), at * BINS // len(sequence)] += 1
    shares /= shares.sum(0).clip(min=1)
    names, colours = zip(*ARMS.values(), strict=True)
    axis.stackplot((np.arange(BINS) + 0.5) / BINS, shares, labels=names, colors=colours, alpha=0.85)
    axis.set(title="what optima trains", xlabel="share of its rounds", ylabel="share", xlim=(0, 1), ylim=(0, 1))
    axis.legend(fontsize=8, loc="lower left")
