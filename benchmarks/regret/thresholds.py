"""What regrets say: a table of means, a ranking, and where `optima` stands against what it must beat.

Everything is paired: in a cell all players meet the same drawings and the same noise. s.e. is the standard error of a
mean, the standard deviation over seeds divided by √seeds; intervals are mean ± 1.96 s.e. Recorded traces are told like
scenarios, but count neither in the ranking nor against the bar.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from benchmarks.traces import PREFIX

# Scenario, horizon, arms.
Cell = tuple[str, int, int]
# By cell and player, the regret on each seed.
Results = Mapping[Cell, Mapping[str, Sequence[float]]]

OURS = "optima"
REFERENCE = "sliding_window_ts"
BLIND = "uniform"
PLAIN = "round_robin"
# Of `uniform`'s regret: added before logarithms are taken, so that no cell counts without bound.
_SHARE = 0.01
# How much worse than the reference is still alike.
_MARGIN = 1.05


def standard_error(values: Sequence[float]) -> float | None:
    """Of the mean; None for a single value."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def cells(results: Results) -> list[dict[str, Any]]:
    """Of every cell and player: mean, standard error, worst seed, optima's paired wins, and all regrets."""
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
                    "optima_wins": _wins(by_player[OURS], regrets) if OURS in by_player else None,
                    "regrets": list(regrets),
                }
                for name, regrets in by_player.items()
            },
        }
        for cell, by_player in results.items()
    ]


def drawn(results: Results) -> Results:
    """Without recorded traces."""
    return {cell: by_player for cell, by_player in results.items() if not cell[0].startswith(PREFIX)}


def ranking(results: Results) -> list[dict[str, Any]]:
    """The players, best first, by the geometric mean over cells of (mean regret + 1 % of uniform's mean regret)."""
    results = drawn(results)
    names = next(iter(results.values()), {})
    scores = {
        name: math.exp(fmean(math.log(fmean(cell[name]) + _SHARE * fmean(cell[BLIND])) for cell in results.values()))
        for name in names
    }
    return [{"player": name, "score": scores[name]} for name in sorted(scores, key=scores.__getitem__)]


def bar(results: Results) -> dict[str, Any]:
    """Where optima stands; what needs a player that did not play is None.

    Keys:
        below_reference, compared: In how many cells optima's mean regret is below the reference's, and of how many.
        above_reference: The cells where the interval of (optima − 1.05·reference), paired, lies wholly above 0.
        worst_above_uniform: The cells where optima's worst seed is above uniform's mean.
        coupled: In that scenario's cells, (round robin − optima): mean, standard error, optima's wins.
    """
    played = {cell: by_player for cell, by_player in drawn(results).items() if OURS in by_player}
    compared = [(cell, by[OURS], by[REFERENCE]) for cell, by in played.items() if REFERENCE in by]
    coupled = [(cell, by[OURS], by[PLAIN]) for cell, by in played.items() if PLAIN in by and cell[0] == "coupled"]
    return {
        "compared": len(compared) or None,
        "below_reference": sum(fmean(ours) < fmean(theirs) for _, ours, theirs in compared) if compared else None,
        "above_reference": [cell for cell, ours, theirs in compared if _above(ours, theirs)] if compared else None,
        "worst_above_uniform": [cell for cell, by in played.items() if max(by[OURS]) > fmean(by[BLIND])]
        if played
        else None,
        "coupled": [
            {
                "cell": cell,
                "mean": fmean(theirs) - fmean(ours),
                "standard_error": standard_error([b - a for a, b in zip(ours, theirs, strict=True)]),
                "optima_wins": _wins(ours, theirs),
            }
            for cell, ours, theirs in coupled
        ]
        or None,
    }


def report(results: Results) -> str:
    """Everything but the single regrets, for people."""
    names = list(next(iter(results.values())))
    seeds = len(next(iter(next(iter(results.values())).values())))
    width = max(map(len, names))
    lines = []
    for cell in cells(results):
        lines.append(f"{cell['scenario']}, {cell['horizon']} pulls of {cell['arms']} arms")
        lines.append(f"  {'':{width}}  {'mean':>9}  {'s.e.':>9}  {'worst':>9}  optima wins")
        for name, told in sorted(cell["players"].items(), key=lambda item: item[1]["mean"]):
            error = "" if told["standard_error"] is None else f"{told['standard_error']:.3g}"
            wins = "" if name == OURS or told["optima_wins"] is None else f"{told['optima_wins']}/{seeds}"
            lines.append(f"  {name:{width}}  {told['mean']:9.4g}  {error:>9}  {told['worst']:9.4g}  {wins:>11}")
    if not drawn(results):
        return "\n".join([*lines, "", "recorded traces only: no ranking, no bar"])
    lines += ["", "Ranking: geometric mean over cells of (mean regret + 1 % of uniform's)"]
    lines += [f"  {place['player']:{width}}  {place['score']:9.4g}" for place in ranking(results)]
    return "\n".join([*lines, "", *_bar_lines(bar(results), len(drawn(results)), seeds)])


def _bar_lines(found: Mapping[str, Any], count: int, seeds: int) -> list[str]:
    lines = []
    if found["compared"]:
        below, compared = found["below_reference"], found["compared"]
        lines.append(f"optima's mean is below {REFERENCE}'s in {below} of {compared} cells ({below / compared:.0%})")
        above = found["above_reference"]
        lines.append(f"wholly above {REFERENCE}'s + 5 %: {len(above)} of {compared} cells{_names(above)}")
    else:
        lines.append(f"not compared: needs both {OURS} and {REFERENCE}")
    if found["worst_above_uniform"] is not None:
        worst = found["worst_above_uniform"]
        lines.append(f"worst seed above uniform's mean: {len(worst)} of {count} cells{_names(worst)}")
    for told in found["coupled"] or []:
        error = "" if told["standard_error"] is None else f" ± {1.96 * told['standard_error']:.3g}"
        lines.append(
            f"{_names([told['cell']])[2:]}: {PLAIN}'s regret − optima's = {told['mean']:.3g}{error}, "
            f"optima wins {told['optima_wins']} of {seeds}"
        )
    return lines


def _names(found: Sequence[Cell]) -> str:
    return ": " + ", ".join(f"{scenario} T={horizon} K={arms}" for scenario, horizon, arms in found) if found else ""


def _wins(ours: Sequence[float], theirs: Sequence[float]) -> int:
    return sum(a < b for a, b in zip(ours, theirs, strict=True))


def _above(ours: Sequence[float], theirs: Sequence[float]) -> bool:
    differences = [a - _MARGIN * b for a, b in zip(ours, theirs, strict=True)]
    error = standard_error(differences)
    return error is not None and fmean(differences) - 1.96 * error > 0
