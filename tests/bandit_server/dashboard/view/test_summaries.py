"""Summaries of runs and workers, and the explanations of settings."""

import inspect

import pytest

from bandit_server.bandit.policy import SERVED
from bandit_server.dashboard.view import summaries
from bandit_server.dashboard.view.summaries import describe_settings, run_summary, worker_summary
from protos.optima.v1 import bandit_pb2 as pb


@pytest.mark.parametrize(("reports", "planned", "done"), [(29, 30, False), (30, 30, True), (5, 0, False)])
def test_a_worker_that_has_played_all_its_rounds_is_done(reports: int, planned: int, done: bool) -> None:
    assert worker_summary(pb.WorkerStatus(worker="w", reports=reports), 0.0, planned)["done"] is done


def test_a_loss_that_was_measured_once_has_not_fallen_yet() -> None:
    once = pb.RunSummary(first_loss=2.5, last_loss=2.5, recent_losses=[2.5])
    twice = pb.RunSummary(first_loss=2.5, last_loss=0.5, recent_losses=[2.5, 0.5])
    assert run_summary(once)["decrement"] is None
    assert run_summary(twice)["decrement"] == 0.8


def test_every_setting_of_a_run_is_explained() -> None:
    spec = pb.RunSpec(
        policy=pb.PolicySpec(name="optima", options={"window": 30, "unheard": 0.98}),
        seed=7,
        reward=pb.REWARD_KIND_ABSOLUTE,
        cost_aware=True,
        train=pb.TRAIN_MODE_ACTIVE,
        tail=0.3,
        steps_per_round=10,
        rounds=1200,
    )
    settings = dict(describe_settings(spec))
    assert settings["Policy"].startswith("optima: prefers arms with high recent rewards")
    assert settings["Options"] == "unheard: 0.98; window: 30 most recent pulls of the run count"
    assert settings["Reward"].startswith("absolute")
    assert settings["Reward"].endswith("divided by the arm's relative cost in seconds")
    assert settings["Training mode"].startswith("active:")
    assert settings["Rounds"] == "1,200 per worker, 10 optimizer steps each"
    assert settings["Joint tail"].startswith("the last 30 % of")
    assert settings["Seed"] == "7"


def test_an_unset_option_is_not_made_up() -> None:
    settings = dict(describe_settings(pb.RunSpec(policy=pb.PolicySpec(name="uniform"), steps_per_round=1)))
    assert settings["Options"] == "defaults"
    assert settings["Rounds"].startswith("no planned end")
    assert settings["Joint tail"] == "none"
    assert settings["Reward"].startswith("relative")


@pytest.mark.parametrize(
    ("name", "explanation"), [("fixed:image", "always the arm image"), ("mine", "unknown to this version")]
)
def test_other_policies_are_explained_too(name: str, explanation: str) -> None:
    assert explanation in dict(describe_settings(pb.RunSpec(policy=pb.PolicySpec(name=name))))["Policy"]


def test_every_policy_of_a_server_and_its_options_are_explained() -> None:
    for name, policy in SERVED.items():
        assert name in summaries.POLICIES
        assert {*[*inspect.signature(policy).parameters][1:]} <= {*summaries.OPTIONS}, name
