"""A run's settings in words."""

import inspect

import pytest

from bandit_server.bandit.policy import SERVED
from bandit_server.dashboard import words as told_in
from bandit_server.dashboard.words import options_in_words
from protos.optima.v1 import bandit_pb2 as pb


def test_every_setting_of_a_run_is_told() -> None:
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
    words = dict(options_in_words(spec))
    assert words["Policy"].startswith("optima: recent rewards decide")
    assert words["Options"] == "unheard: 0.98; window: 30 pulls of the run count"
    assert words["Reward"].startswith("absolute")
    assert words["Reward"].endswith("divided by the arm's relative cost in seconds")
    assert words["A round trains"].startswith("active:")
    assert words["Rounds"] == "1,200 for each worker, 10 optimizer steps each"
    assert words["Joint tail"].startswith("the last 30 % of")
    assert words["Seed"] == "7"


def test_an_unset_option_is_not_made_up() -> None:
    words = dict(options_in_words(pb.RunSpec(policy=pb.PolicySpec(name="uniform"), steps_per_round=1)))
    assert words["Options"] == "all at their defaults"
    assert words["Rounds"].startswith("without a planned end")
    assert words["Joint tail"] == "none"
    assert words["Reward"].startswith("relative")


@pytest.mark.parametrize(("name", "told"), [("fixed:image", "always the arm image"), ("mine", "no words for")])
def test_other_policies_have_words_too(name: str, told: str) -> None:
    assert told in dict(options_in_words(pb.RunSpec(policy=pb.PolicySpec(name=name))))["Policy"]


def test_every_policy_of_a_server_and_each_of_its_options_has_words() -> None:
    for name, policy in SERVED.items():
        assert name in told_in.POLICIES
        assert {*[*inspect.signature(policy).parameters][1:]} <= {*told_in.OPTIONS}, name
