"""`optima simulate`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

import click

from bandit_server.bandit.policy.published import POLICIES
from bandit_server.bandit.simulation.scenarios import SCENARIOS
from bandit_server.bandit.simulation.simulate import Outcome, simulate


@click.command("simulate")
@click.option("--policy", default="optima", show_default=True, metavar="NAME", help=f"{', '.join(POLICIES)}.")
@click.option("--scenario", default="rotting", show_default=True, metavar="NAME", help=f"{', '.join(SCENARIOS)}.")
@click.option("--horizon", default=500, show_default=True, type=click.IntRange(1), help="Number of pulls.")
@click.option("--arms", default=7, show_default=True, type=click.IntRange(2), help="Number of arms.")
@click.option("--seeds", default=20, show_default=True, type=click.IntRange(1), help="Number of random problems.")
@click.option("--first-seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of the first problem.")
@click.option("--option", "options", multiple=True, metavar="NAME=VALUE", help="Option of the policy; may be repeated.")
def simulate_command(
    policy: str, scenario: str, horizon: int, arms: int, seeds: int, first_seed: int, options: Sequence[str]
) -> None:
    """Play a policy on simulated problems, and print its regret.

    Regret is the total reward that the best possible choices would have earned more. It is also printed for `uniform`,
    which chooses at random, on the same problems.
    """
    if policy not in POLICIES:
        raise click.ClickException(f"there is no policy {policy!r}; there are {', '.join(POLICIES)}")
    policy_options = dict(_parse_option(option) for option in options)
    problem_seeds = range(first_seed, first_seed + seeds)
    try:
        outcomes = [simulate(policy, scenario, horizon, arms, seed, policy_options) for seed in problem_seeds]
        uniform = [simulate("uniform", scenario, horizon, arms, seed) for seed in problem_seeds]
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{scenario}: {horizon} pulls of {arms} arms, seeds {problem_seeds[0]} to {problem_seeds[-1]}\n")
    _print_regrets({policy: outcomes, "uniform": uniform})
    _print_shares(outcomes)


def _parse_option(text: str) -> tuple[str, float]:
    name, separator, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not separator or not math.isfinite(number):
        raise click.ClickException(f"--option {text}: expected NAME=VALUE, the value a finite number")
    return name, number


def _print_regrets(outcomes_by_policy: dict[str, list[Outcome]]) -> None:
    width = max(len("REGRET OF"), *map(len, outcomes_by_policy))
    click.echo(f"{'REGRET OF':{width}}  {'MEAN':>9}  {'ST. ERROR':>9}  {'WORST SEED':>10}")
    for name, outcomes in outcomes_by_policy.items():
        regrets = [outcome.regret for outcome in outcomes]
        error = f"{stdev(regrets) / math.sqrt(len(regrets)):9.4g}" if len(regrets) > 1 else f"{'':9}"
        click.echo(f"{name:{width}}  {fmean(regrets):9.4g}  {error}  {max(regrets):10.4g}")


def _print_shares(outcomes: Sequence[Outcome]) -> None:
    """Print each rank's share of the pulls; rank 1 is the arm with the highest reward at the time of the pull."""
    total = sum(map(sum, (outcome.ranks for outcome in outcomes)))
    shares = [sum(rank) / total for rank in zip(*(outcome.ranks for outcome in outcomes), strict=True)]
    click.echo("\nSHARE OF PULLS, by the arm's rank at the time of the pull, best arm first")
    click.echo("  ".join(f"{share:.1%}" for share in shares))
