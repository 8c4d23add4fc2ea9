"""`optima simulate`."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from bandit_server.bandit.policy.published import POLICIES
from bandit_server.cli import main

SMALL = ("--horizon", "30", "--arms", "3", "--seeds", "3")


def simulated(*arguments: str, status: int = 0) -> str:
    done = CliRunner().invoke(main, ["simulate", *arguments])
    assert done.exit_code == status, done.output
    assert "Traceback" not in done.output
    return done.output


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_can_be_simulated(policy: str) -> None:
    printed = simulated("--policy", policy, *SMALL)
    assert "rotting: 30 pulls of 3 arms, seeds 0 to 2" in printed
    lines = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line}
    mean, _, worst = map(float, lines[policy])
    assert 0 <= mean <= worst
    assert "uniform" in lines
    shares = [float(share.rstrip("%")) for share in printed.splitlines()[-1].split()]
    assert sum(shares) == pytest.approx(100, abs=0.2)


def test_it_prints_the_same_again_and_other_seeds_otherwise() -> None:
    command = ("--policy", "sliding_window_ts", "--scenario", "piecewise", *SMALL)
    assert simulated(*command) == simulated(*command)
    assert simulated(*command, "--first-seed", "9") != simulated(*command)


def test_options_reach_the_policy() -> None:
    command = ("--policy", "sliding_window_ts", "--scenario", "piecewise", "--horizon", "120", "--seeds", "2")
    assert simulated(*command, "--option", "window=100") == simulated(*command)
    assert simulated(*command, "--option", "window=10") != simulated(*command)


def test_a_single_seed_has_no_standard_error() -> None:
    assert "nan" not in simulated("--horizon", "20", "--seeds", "1")


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (("--policy", "best"), 1, "there is no policy 'best'; there are optima, uniform, "),
        (("--scenario", "mine"), 1, "there is no scenario 'mine'; there are piecewise, "),
        (("--option", "window=3"), 1, "policy optima has no option 'window'"),
        (("--policy", "sw_ucb", "--option", "window=2.5"), 1, "option window is 2.5; expected a whole number"),
        (("--option", "window"), 1, "--option window: expected NAME=VALUE, the value a finite number"),
        (("--option", "window=nan"), 1, "--option window=nan: expected NAME=VALUE"),
        (("--horizon", "0"), 2, "'--horizon': 0 is not in the range"),
        (("--arms", "1"), 2, "'--arms': 1 is not in the range"),
        (("--seeds", "x"), 2, "'--seeds': 'x' is not a valid integer"),
        (("--first-seed", "-1"), 2, "'--first-seed': -1 is not in the range"),
    ],
)
def test_bad_input_is_one_sentence(arguments: tuple[str, ...], status: int, sentence: str) -> None:
    assert sentence in simulated(*arguments, status=status)
