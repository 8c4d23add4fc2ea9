"""Statistics of regrets: a table of means, a ranking, and `optima` against its thresholds.

All comparisons are paired: in a cell all players have the same drawings and the same noise. s.e. is the standard error
of a mean, the standard deviation over seeds divided by √seeds; intervals are mean ± 1.96 s.e. Recorded traces are
reported like scenarios, but count neither in the ranking nor for the thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from benchmarks.traces import PREFIX

# Scenario, horizon, arms.
Cell = tuple[str, int, int]
# The regret on each seed, by cell and player.
Results = Mapping[Cell, Mapping[str, Sequence[float]]]

OPTIMA = "optima"
REFERENCE = "sliding_window_ts"
UNIFORM = "uniform"
ROUND_ROBIN = "round_robin"
# This fraction of `uniform`'s regret is added before logarithms are taken, so that no cell has unlimited weight.
_OFFSET = 0.01
# A mean regret up to this multiple of the reference's counts as equal.
_MARGIN = 1.05


def standard_error(values: Sequence[float]) -> float | None:
    """Return the standard error of the mean; None for a single value."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def cell_statistics(results: Results) -> list[dict[str, Any]]:
    """Return mean, standard error, worst seed, optima's paired wins and all regrets of every cell and player."""
    return [
        {
            "scenario": cell[0],
            "horizon": cell[1],
            "arms": cell[2],
            "players": {
                name: {
                    "mean": fmean(regrets),
                    "standard_error": standard_error(regrets),
                    "worst": max(regrets),
                    "optima_wins": _wins(by_player[OPTIMA], regrets) if OPTIMA in by_player else None,
                    "regrets": list(regrets),
                }
                for name, regrets in by_player.items()
            },
        }
        for cell, by_player in results.items()
    ]


def without_traces(results: Results) -> Results:
    """Return the results of the scenarios, without recorded traces."""
    return {cell: by_player for cell, by_player in results.items() if not cell[0].startswith(PREFIX)}


def ranking(results: Results) -> list[dict[str, Any]]:
    """Rank the players by the geometric mean over cells of (mean regret + 1 % of uniform's mean regret)."""
    results = without_traces(results)
    names = next(iter(results.values()), {})
    scores = {
        name: math.exp(fmean(math.log(fmean(cell[name]) + _OFFSET * fmean(cell[UNIFORM])) for cell in results.values()))
        for name in names
    }
    return [{"player": name, "score": scores[name]} for name in sorted(scores, key=scores.__getitem__)]


def compare_with_thresholds(results: Results) -> dict[str, Any]:
    """Compare optima with the reference, `uniform` and `round_robin`.

    Returns:
        below_reference, compared: The number of cells in which optima's mean regret is below the reference's, and the
            number of cells in which both played.
        above_reference: The cells where the interval of (optima − 1.05·reference), paired, lies wholly above 0.
        worst_above_uniform: The cells where optima's worst seed is above uniform's mean.
        coupled: For each cell of that scenario, (round robin − optima): mean, standard error, optima's wins.
        A value is None if a player that it needs did not play.
    """
    played = {cell: by_player for cell, by_player in without_traces(results).items() if OPTIMA in by_player}
    compared = [(cell, by[OPTIMA], by[REFERENCE]) for cell, by in played.items() if REFERENCE in by]
    coupled = [
        (cell, by[OPTIMA], by[ROUND_ROBIN]) for cell, by in played.items() if ROUND_ROBIN in by and cell[0] == "coupled"
    ]
    return {
        "compared": len(compared) or None,
        "below_reference": sum(fmean(optima) < fmean(other) for _, optima, other in compared) if compared else None,
        "above_reference": [cell for cell, optima, other in compared if _above(optima, other)] if compared else None,
        "worst_above_uniform": [cell for cell, by in played.items() if max(by[OPTIMA]) > fmean(by[UNIFORM])]
        if played
        else None,
        "coupled": [
            {
                "cell": cell,
                "mean": fmean(other) - fmean(optima),
                "standard_error": standard_error([b - a for a, b in zip(optima, other, strict=True)]),
                "optima_wins": _wins(optima, other),
            }
            for cell, optima, other in coupled
        ]
        or None,
    }


def report(results: Results) -> str:
    """Return everything but the single regrets as text."""
    names = list(next(iter(results.values())))
    seeds = len(next(iter(next(iter(results.values())).values())))
    width = max(map(len, names))
    lines = []
    for cell in cell_statistics(results):
        lines.append(f"{cell['scenario']}, {cell['horizon']} pulls of {cell['arms']} arms")
        lines.append(f"  {'':{width}}  {'mean':>9}  {'s.e.':>9}  {'worst':>9}  optima wins")
        for name, row in sorted(cell["players"].items(), key=lambda item: item[1]["mean"]):
            error = "" if row["standard_error"] is None else f"{row['standard_error']:.3g}"
            wins = "" if name == OPTIMA or row["optima_wins"] is None else f"{row['optima_wins']}/{seeds}"
            lines.append(f"  {name:{width}}  {row['mean']:9.4g}  {error:>9}  {row['worst']:9.4g}  {wins:>11}")
    cells = len(without_traces(results))
    if not cells:
        return "\n".join([*lines, "", "recorded traces only: no ranking and no thresholds"])
    lines += ["", "Ranking: geometric mean over cells of (mean regret + 1 % of uniform's)"]
    lines += [f"  {place['player']:{width}}  {place['score']:9.4g}" for place in ranking(results)]
    return "\n".join([*lines, "", *_comparison_lines(compare_with_thresholds(results), cells, seeds)])


def _comparison_lines(comparison: Mapping[str, Any], count: int, seeds: int) -> list[str]:
    lines = []
    if comparison["compared"]:
        below, compared = comparison["below_reference"], comparison["compared"]
        lines.append(f"optima's mean is below {REFERENCE}'s in {below} of {compared} cells ({below / compared:.0%})")
        above = comparison["above_reference"]
        lines.append(f"wholly above {REFERENCE}'s + 5 %: {len(above)} of {compared} cells{_cell_names(above)}")
    else:
        lines.append(f"not compared: needs both {OPTIMA} and {REFERENCE}")
    if comparison["worst_above_uniform"] is not None:
        worst = comparison["worst_above_uniform"]
        lines.append(f"worst seed above uniform's mean: {len(worst)} of {count} cells{_cell_names(worst)}")
    for row in comparison["coupled"] or []:
        error = "" if row["standard_error"] is None else f" ± {1.96 * row['standard_error']:.3g}"
        lines.append(
            f"{_cell_names([row['cell']])[2:]}: {ROUND_ROBIN}'s regret − optima's = {row['mean']:.3g}{error}, "
            f"optima wins {row['optima_wins']} of {seeds}"
        )
    return lines


def _cell_names(cells: Sequence[Cell]) -> str:
    return ": " + ", ".join(f"{scenario} T={horizon} K={arms}" for scenario, horizon, arms in cells) if cells else ""


def _wins(optima: Sequence[float], other: Sequence[float]) -> int:
    return sum(a < b for a, b in zip(optima, other, strict=True))


def _above(optima: Sequence[float], other: Sequence[float]) -> bool:
    differences = [a - _MARGIN * b for a, b in zip(optima, other, strict=True)]
    error = standard_error(differences)
    return error is not None and fmean(differences) - 1.96 * error > 0
