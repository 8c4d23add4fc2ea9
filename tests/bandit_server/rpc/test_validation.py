"""Validation of requests: bad ones are refused with a sentence."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from bandit_server.errors import Invalid
from bandit_server.rpc import validation
from protos.optima.v1 import bandit_pb2 as pb
from tests.bandit_server.run.play import FALLBACK, POLICY, TAIL, measured, spec

HUGE = "x" * 10_000_000


def refused(check: Callable[[], object]) -> str:
    """Run a check that must fail, and return its sentence, which must be short enough for a gRPC status."""
    with pytest.raises(Invalid) as error:
        check()
    sentence = str(error.value)
    assert len(sentence) < 1000
    return sentence


def raw_spec(*arms: pb.Arm, policy: str = "optima", **fields: object) -> pb.RunSpec:
    arms = arms or (pb.Arm(name="image", modules=["visual"]), pb.Arm(name="text", modules=["text"]))
    message = pb.RunSpec(arms=arms, policy=pb.PolicySpec(name=policy), steps_per_round=10)
    message.MergeFrom(pb.RunSpec(**fields))  # type: ignore[arg-type]
    return message


# --- names and texts


@pytest.mark.parametrize("good", ["a", "run-1.2_B", "x" * 64, "...", "-"])
def test_names_have_letters_digits_and_three_signs(good: str) -> None:
    validation.check_name(good, "run")


@pytest.mark.parametrize("bad", ["", "x" * 65, "a b", "a/b", "a\n", "ä", "run{0}", "<b>", "\0"])
def test_other_names_are_refused_with_what_is_expected(bad: str) -> None:
    sentence = refused(lambda: validation.check_name(bad, "run"))
    assert sentence.startswith("run ")
    assert "expected 1 to 64 of the characters A-Z a-z 0-9 . _ -" in sentence


def test_a_name_of_ten_megabytes_is_cut_and_its_length_reported() -> None:
    sentence = refused(lambda: validation.check_name(HUGE, "run"))
    assert "… (10000000 characters)" in sentence


@pytest.mark.parametrize(
    "check",
    [
        lambda: validation.check_caller(pb.Caller(run=HUGE, worker="w", process="p")),
        lambda: validation.check_caller(pb.Caller(run="r", worker=HUGE, process="p")),
        lambda: validation.check_caller(pb.Caller(run="r", worker="w", process=HUGE)),
        lambda: validation.check_caller(pb.Caller(run="r", worker="w", process="p", incarnation=HUGE)),
        lambda: validation.check_text(HUGE, "actor"),
        lambda: validation.check_choice(HUGE, POLICY),
        lambda: validation.normalized_spec(raw_spec(policy=HUGE)),
        lambda: validation.normalized_spec(raw_spec(policy=f"fixed:{HUGE}")),
        lambda: validation.normalized_spec(raw_spec(pb.Arm(name=HUGE, modules=["m"]))),
        lambda: validation.normalized_spec(raw_spec(pb.Arm(name="a", modules=[HUGE]))),
        lambda: validation.normalized_spec(spec_with_options({HUGE: 1.0})),
        lambda: validation.check_info(pb.WorkerInfo(device=HUGE)),
        lambda: validation.check_info(pb.WorkerInfo(recipe=HUGE)),
        lambda: validation.check_info(pb.WorkerInfo(total_loss=math.nan)),
        lambda: validation.check_info(pb.WorkerInfo(versions={"torch": HUGE})),
        lambda: validation.check_info(pb.WorkerInfo(teacher_metrics={HUGE: 0.5})),
        lambda: validation.check_measurement(measured(terms={HUGE: 0.5})),
    ],
)
def test_ten_megabytes_anywhere_get_a_short_sentence(check: Callable[[], object]) -> None:
    refused(check)


def test_a_text_is_one_printable_line() -> None:
    validation.check_text("", "actor")
    validation.check_text("Grüße, 世界 · 100 %", "actor")
    for bad in ("two\nlines", "bell\a", "esc\x1b[31m", "x" * 257):
        assert "actor is " in refused(lambda bad=bad: validation.check_text(bad, "actor"))  # type: ignore[misc]


# --- callers and rounds


def test_a_caller_names_run_worker_and_process() -> None:
    validation.check_caller(pb.Caller(run="r", worker="w", process="p", incarnation="i"))
    assert refused(lambda: validation.check_caller(pb.Caller(worker="w", process="p"))).startswith("run ''")
    assert refused(lambda: validation.check_caller(pb.Caller(run="r", process="p"))).startswith("worker ''")
    assert refused(lambda: validation.check_caller(pb.Caller(run="r", worker="w"))).startswith("caller.process ''")


def test_worker_and_process_may_be_absent_together_where_they_are_optional() -> None:
    validation.check_caller(pb.Caller(run="r"), optional=True)
    refused(lambda: validation.check_caller(pb.Caller(run="r", worker="w"), optional=True))
    refused(lambda: validation.check_caller(pb.Caller(run="r", process="p"), optional=True))


@pytest.mark.parametrize("bad", [-1, -(2**63), 2**40, 2**63 - 1])
def test_a_round_is_numbered_from_zero(bad: int) -> None:
    validation.check_round(0)
    validation.check_round(2**40 - 1)
    assert refused(lambda: validation.check_round(bad)).startswith(f"round is {bad}; expected a number from 0")


def test_chosen_by_must_be_set() -> None:
    for by in (POLICY, FALLBACK, TAIL):
        validation.check_choice("image", by)
    assert "chosen_by is not set" in refused(lambda: validation.check_choice("image", pb.CHOSEN_BY_UNSPECIFIED))
    assert "chosen_by is not set" in refused(lambda: validation.check_choice("image", 9))  # type: ignore[arg-type]


# --- specs


def spec_with_options(options: dict[str, float], policy: str = "optima") -> pb.RunSpec:
    return pb.RunSpec(
        arms=[pb.Arm(name="image", modules=["visual"])],
        policy=pb.PolicySpec(name=policy, options=options),
        steps_per_round=10,
    )


def test_unset_enums_of_a_spec_get_their_defaults() -> None:
    unset = raw_spec()
    normal = validation.normalized_spec(unset)
    assert (normal.reward, normal.train) == (pb.REWARD_KIND_RELATIVE, pb.TRAIN_MODE_FORCED)
    assert unset.reward == pb.REWARD_KIND_UNSPECIFIED
    assert validation.normalized_spec(normal) == normal


@pytest.mark.parametrize(
    ("bad_spec", "sentence"),
    [
        (raw_spec(policy="greedy"), "spec.policy: the server offers no policy 'greedy'; it offers optima, "),
        (
            raw_spec(policy="thompson"),
            "the server offers no policy 'thompson'; it offers optima, uniform, round_robin, sliding_window_ts, joint, "
            "fixed:<arm>",
        ),
        (
            spec_with_options({"window": 2.5}, policy="sliding_window_ts"),
            "spec.policy: option window is 2.5; expected a whole number from 1 to 10000",
        ),
        (raw_spec(policy=""), "spec.policy: the server offers no policy ''; it offers"),
        (
            raw_spec(policy="fixed:nose"),
            "spec.policy: policy fixed:<arm> must name one of the arms image, text, not 'nose'",
        ),
        (raw_spec(policy="fixed:joint"), "must name one of the arms image, text, not 'joint'"),
        (spec_with_options({"memory": 1.0}), "spec.policy: option memory is 1; expected a number between 0 and 1"),
        (
            spec_with_options({"widnow": 5.0}),
            "spec.policy: policy optima has no option 'widnow'; its options are exploration, memory, retry, settle",
        ),
        (spec_with_options({"memory": math.nan}), "spec.policy.options['memory'] is nan; expected a finite number"),
        (raw_spec(tail=-0.1), "spec.tail is -0.1; expected a share of the rounds, in [0, 1]"),
        (raw_spec(tail=1.1), "spec.tail is 1.1"),
        (raw_spec(tail=math.nan), "spec.tail is nan"),
        (pb.RunSpec(arms=raw_spec().arms, policy=raw_spec().policy), "spec.steps_per_round is 0"),
        (raw_spec(reward=17), "spec.reward or spec.train has a value that this server does not know"),
        (raw_spec(train=17), "spec.reward or spec.train has a value that this server does not know"),
    ],
)
def test_a_wrong_spec_gets_a_sentence(bad_spec: pb.RunSpec, sentence: str) -> None:
    assert sentence in refused(lambda: validation.normalized_spec(bad_spec))


@pytest.mark.parametrize(
    ("arms", "sentence"),
    [
        ([], "spec.arms has 0 arms; expected 1 to 256"),
        ([pb.Arm(name=f"a{i}", modules=["m"]) for i in range(257)], "spec.arms has 257 arms"),
        ([pb.Arm(name="a", modules=["m"])] * 2, "spec.arms has two arms named a; expected unique names"),
        ([pb.Arm(name="a b", modules=["m"])], "arm 'a b' is not a valid name"),
        ([pb.Arm(name="a")], "arm a has 0 modules; expected 1 to 4096"),
        ([pb.Arm(name="a", modules=["m"] * 4097)], "arm a has 4097 modules"),
        ([pb.Arm(name="a", modules=["m\n"])], "a module of arm a is 'm\\n'"),
    ],
)
def test_wrong_arms_get_a_sentence(arms: list[pb.Arm], sentence: str) -> None:
    bad_spec = pb.RunSpec(arms=arms, policy=pb.PolicySpec(name="optima"), steps_per_round=10)
    assert sentence in refused(lambda: validation.normalized_spec(bad_spec))


def test_joint_is_reserved_for_the_union_of_all_other_arms() -> None:
    image, text = raw_spec().arms
    validation.normalized_spec(raw_spec(image, text, pb.Arm(name="joint", modules=["text", "visual"])))
    validation.normalized_spec(raw_spec(pb.Arm(name="joint", modules=["visual"])))
    for modules in (["visual"], ["visual", "text", "more"]):
        bad_spec = raw_spec(image, text, pb.Arm(name="joint", modules=modules))
        sentence = refused(lambda bad_spec=bad_spec: validation.normalized_spec(bad_spec))  # type: ignore[misc]
        assert sentence == "the name joint is reserved for an arm with exactly the modules of all other arms"


@pytest.mark.parametrize("policy", ["optima", "uniform", "round_robin", "joint", "fixed:text"])
def test_every_policy_is_accepted_by_its_name(policy: str) -> None:
    assert validation.normalized_spec(raw_spec(policy=policy)).policy.name == policy


# --- measurements


@pytest.mark.parametrize("field", ["before", "after", "total_loss", "train_loss"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_refused_with_how_to_report_it(field: str, value: float) -> None:
    sentence = refused(lambda: validation.check_measurement(measured(**{field: value})))
    assert sentence == f"measurement.{field} is {value}; report a round whose loss is not finite as DIVERGED"


@pytest.mark.parametrize("field", ["seconds", "probe_seconds"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 1e300])
def test_seconds_are_finite_and_not_negative(field: str, value: float) -> None:
    sentence = refused(lambda: validation.check_measurement(measured(**{field: value})))
    assert sentence.startswith(f"measurement.{field} is {value}; expected seconds")


@pytest.mark.parametrize("field", ["terms", "metrics"])
def test_terms_and_metrics_are_finite_and_few(field: str) -> None:
    one: dict[str, Any] = {field: {"image.layers": math.nan}}
    sentence = refused(lambda: validation.check_measurement(measured(**one)))
    assert sentence == f"measurement.{field}['image.layers'] is nan; expected a finite number"
    many: dict[str, Any] = {field: {f"t{i}": 1.0 for i in range(257)}}
    sentence = refused(lambda: validation.check_measurement(measured(**many)))
    assert "has 257 entries; expected at most 256" in sentence


def test_an_outcome_must_be_set() -> None:
    assert "measurement.outcome is not set" in refused(lambda: validation.check_measurement(pb.Measurement(before=1.0)))
    validation.check_measurement(pb.Measurement(outcome=pb.OUTCOME_DIVERGED))
    validation.check_measurement(measured())


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_a_heartbeat_has_a_finite_speed(value: float) -> None:
    heartbeat = pb.HeartbeatRequest(caller=pb.Caller(run="r", worker="w", process="p"), steps_per_second=value)
    assert refused(lambda: validation.check_heartbeat(heartbeat)).startswith(f"steps_per_second is {value}")


def test_a_heartbeat_is_checked_in_all_its_fields() -> None:
    caller = pb.Caller(run="r", worker="w", process="p")
    validation.check_heartbeat(
        pb.HeartbeatRequest(caller=caller, round=3, steps_per_second=1.5, versions={"torch": "2.14"})
    )
    for bad in (
        pb.HeartbeatRequest(),
        pb.HeartbeatRequest(caller=caller, round=-1),
        pb.HeartbeatRequest(caller=caller, versions={"torch": "\n"}),
    ):
        refused(lambda bad=bad: validation.check_heartbeat(bad))  # type: ignore[misc]


# --- journals


def record(measurement: pb.Measurement | None = None, numbered: bool = True, **pull: object) -> pb.JournalRecord:
    message = pb.Pull(**{"round": 0, "arm": "image", "chosen_by": POLICY, **pull})  # type: ignore[arg-type]
    return pb.JournalRecord(pull=message, numbered=numbered, measurement=measurement)


@pytest.mark.parametrize(
    ("bad_record", "sentence"),
    [
        (record(round=-1), "round is -1"),
        (record(arm="a b"), "arm 'a b' is not a valid name"),
        (record(chosen_by=pb.CHOSEN_BY_UNSPECIFIED), "chosen_by is not set"),
        (record(worker="other"), "a record is of worker 'other'; expected records of w only"),
        (record(number=2**63), f"a record has pull number {2**63}"),
        (record(measured(before=math.nan)), "measurement.before is nan"),
        (
            record(chosen_by=FALLBACK),
            "the record of round 0 has no measurement; only a pull that the policy chose may be without one",
        ),
        (record(chosen_by=TAIL, arm="joint"), "has no measurement; only a pull that the policy chose"),
    ],
)
def test_a_wrong_record_gets_a_sentence(bad_record: pb.JournalRecord, sentence: str) -> None:
    request = pb.RestoreRunRequest(caller=pb.Caller(run="r", worker="w", process="p"), records=[bad_record])
    assert sentence in refused(lambda: validation.check_records(request))


def test_records_of_all_kinds_are_accepted() -> None:
    records = [
        record(),
        record(measured(), worker="w"),
        record(measured(), chosen_by=FALLBACK, numbered=False),
        record(measured(), chosen_by=TAIL, arm="joint"),
    ]
    validation.check_records(pb.RestoreRunRequest(caller=pb.Caller(run="r", worker="w", process="p"), records=records))


def test_a_call_restores_at_most_two_thousand_records() -> None:
    request = pb.RestoreRunRequest(records=[record()] * 2001)
    assert refused(lambda: validation.check_records(request)) == "2001 records in one call; expected at most 2000"


def test_the_specs_of_the_tests_are_valid_and_normalized() -> None:
    assert validation.normalized_spec(spec()) == spec()
