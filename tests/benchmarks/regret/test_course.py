"""The picture of who plays what when, run as its user does."""

from pathlib import Path

from tests.benchmarks.command import benchmark


def test_it_tells_and_draws_how_each_player_played(tmp_path: Path) -> None:
    picture = tmp_path / "course.png"
    command = ["--policies", "round_robin", "river_ucb", "--horizon", "60", "--arms", "3", "--plot", str(picture)]
    lines = benchmark("regret.course", *command).splitlines()
    assert lines[0] == "coupled, 60 pulls of 3 arms, seed 0"
    assert lines[1].startswith("  round_robin: gained ")
    assert lines[1].endswith("pulls 20, 20, 20")
    assert sum(int(count) for count in lines[2].rpartition("pulls ")[2].split(", ")) == 60
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_scenario_that_cannot_be_drawn_gets_a_sentence() -> None:
    assert "horizon" in benchmark("regret.course", "--horizon", "0", status=2)
