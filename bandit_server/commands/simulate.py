"""optima simulate"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

import click

from bandit_server.bandit.policy.published import POLICIES
from bandit_server.bandit.simulation.scenarios import SCENARIOS
from bandit_server.bandit.simulation.simulate import Outcome
from bandit_server.bandit.simulation.simulate import simulate as play


@click.command()
@click.option("--policy", default="optima", show_default=True, metavar="NAME", help=f"{', '.join(POLICIES)}.")
@click.option("--scenario", default="rotting", show_default=True, metavar="NAME", help=f"{', '.join(SCENARIOS)}.")
@click.option("--horizon", default=500, show_default=True, type=click.IntRange(1), help="Pulls in all.")
@click.option("--arms", default=7, show_default=True, type=click.IntRange(2), help="How many arms.")
@click.option("--seeds", default=20, show_default=True, type=click.IntRange(1), help="How many drawings.")
@click.option("--first-seed", default=0, show_default=True, type=click.IntRange(0), help="The first one's seed.")
@click.option("--option", "options", multiple=True, metavar="NAME=VALUE", help="An option of the policy.")
def simulate(
    policy: str, scenario: str, horizon: int, arms: int, seeds: int, first_seed: int, options: Sequence[str]
) -> None:
    """Play a policy on a problem whose answer is known.

    Regret is what the best player would have gained more; the same seeds are played by `uniform`, too, which
    chooses blindly.
    """
    if policy not in POLICIES:
        raise click.ClickException(f"there is no policy {policy!r}; there are {', '.join(POLICIES)}")
    settings = dict(_option(option) for option in options)
    drawn = range(first_seed, first_seed + seeds)
    try:
        outcomes = [play(policy, scenario, horizon, arms, seed, settings) for seed in drawn]
        blind = [play("uniform", scenario, horizon, arms, seed) for seed in drawn]
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{scenario}: {horizon} pulls of {arms} arms, seeds {drawn[0]} to {drawn[-1]}\n")
    _regrets({policy: outcomes, "uniform": blind})
    _shares(outcomes)


def _option(text: str) -> tuple[str, float]:
    name, separator, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not separator or not math.isfinite(number):
        raise click.ClickException(f"--option {text}: expected NAME=VALUE, the value a finite number")
    return name, number


def _regrets(played: dict[str, list[Outcome]]) -> None:
    width = max(len("REGRET OF"), *map(len, played))
    click.echo(f"{'REGRET OF':{width}}  {'MEAN':>9}  {'ST. ERROR':>9}  {'WORST SEED':>10}")
    for name, outcomes in played.items():
        regrets = [outcome.regret for outcome in outcomes]
        error = f"{stdev(regrets) / math.sqrt(len(regrets)):9.4g}" if len(regrets) > 1 else f"{'':9}"
        click.echo(f"{name:{width}}  {fmean(regrets):9.4g}  {error}  {max(regrets):10.4g}")


def _shares(outcomes: Sequence[Outcome]) -> None:
    """Where the pulls went. Rank 1 is the arm that would have paid most at the time of the pull."""
    total = sum(map(sum, (outcome.ranks for outcome in outcomes)))
    shares = [sum(rank) / total for rank in zip(*(outcome.ranks for outcome in outcomes), strict=True)]
    click.echo("\nSHARE OF PULLS, by what the arm would have paid at the time, the best one first")
    click.echo("  ".join(f"{share:.1%}" for share in shares))
