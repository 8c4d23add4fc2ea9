"""The digits data: honest split, pure items, right answers, exact judging."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from worker.data import build
from worker.data.digits.dataset import DigitsData, build_digits
from worker.data.digits.rows import MEAN, STD, Collages, sources
from worker.data.digits.text import CONTEXT_LENGTH, DIGITS, KINDS, QUESTIONS, decode

PLACES = ("top left", "top right", "bottom left", "bottom right")


@pytest.fixture(scope="module")
def data() -> DigitsData:
    return build_digits({"seed": 5})


def test_no_source_digit_is_both_trained_on_and_measured_on(data: DigitsData) -> None:
    train, unseen = set(data.train.scans), set(data.held_out.scans)
    assert len(train) == 1400
    assert len(unseen) == 397
    assert not train & unseen
    assert train | unseen == set(range(1797))
    assert set(data.questions.scans) == unseen


def test_split_is_the_same_for_every_seed(data: DigitsData) -> None:
    other = build_digits({"seed": 6})
    assert np.array_equal(other.train.scans, data.train.scans)
    assert np.array_equal(other.questions.scans, data.questions.scans)


def test_little_data_uses_only_so_many_source_digits_of_the_training_split() -> None:
    few = build_digits({"source_digits": 150})
    assert len(few.train.scans) == 150
    assert set(few.train.scans) <= set(sources(train=True))
    assert len(few.questions.scans) == 397


def test_item_is_a_pure_function_of_seed_and_index(data: DigitsData) -> None:
    again = build_digits({"seed": 5})
    scattered = [10**9 + 7, 3, 0, 3]
    for index, item in zip(scattered, again.train.__getitems__(scattered), strict=True):
        for name, tensor in data.train[index].items():
            assert torch.equal(tensor, item[name]), (index, name)
    assert not torch.equal(build_digits({"seed": 6}).train[3]["image"], data.train[3]["image"])
    assert not torch.equal(data.train[4]["image"], data.train[3]["image"])


def test_held_out_items_do_not_depend_on_the_seed(data: DigitsData) -> None:
    other = build_digits({"seed": 6, "source_digits": 150})
    for rows, others in ((data.held_out, other.held_out), (data.questions, other.questions)):
        assert all(torch.equal(a, b) for a, b in zip(rows[17].values(), others[17].values(), strict=True))


def test_index_outside_is_an_error(data: DigitsData) -> None:
    with pytest.raises(IndexError, match="0 to 2047"):
        data.held_out[2048]
    with pytest.raises(IndexError):
        data.held_out[-1]


def test_batch_has_the_promised_shapes(data: DigitsData) -> None:
    batch = data.collate(data.train.__getitems__(range(32)))
    shapes = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in batch.items()}
    assert shapes == {
        "image": ((32, 3, 16, 16), torch.float32),
        "text": ((32, CONTEXT_LENGTH), torch.int64),
        "answer": ((32, CONTEXT_LENGTH), torch.bool),
        "paired": ((32,), torch.bool),
        "kind": ((32,), torch.int64),
    }
    assert int(batch["text"].max()) < data.vocab_size


def test_held_out_images_show_the_real_scans_at_their_places(data: DigitsData) -> None:
    scans = {scan.tobytes() for scan in load_digits().images[sources(train=False)]}
    images = data.questions.batch(np.arange(50))["image"]
    assert torch.equal(images[:, 0], images[:, 1])
    assert torch.equal(images[:, 0], images[:, 2])
    pixels = np.rint((images[:, 0].numpy().astype(np.float64) * STD + MEAN) * 16)
    for row in pixels:
        for top in (0, 8):
            for left in (0, 8):
                assert np.abs(row[top : top + 8, left : left + 8]).tobytes() in scans


def test_training_digits_are_shifted_and_held_out_ones_are_not(data: DigitsData) -> None:
    assert data.train._shifted.shape[1] == 9
    assert data.questions._shifted.shape[1] == 1
    still = build_digits({"seed": 5, "shift": 0}).train.batch(np.arange(200))["image"]
    moved = data.train.batch(np.arange(200))["image"]
    background = -MEAN / STD
    one_down = torch.cat([torch.full((200, 3, 1, 8), background), still[:, :, :7, :8]], dim=2)
    assert any(torch.allclose(a, b) for a, b in zip(one_down, moved[:, :, :8, :8], strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_right(kind: str) -> None:
    data = build_digits({"mix": {kind: 1.0}})
    indices = np.arange(600)
    batch = data.train.batch(indices)
    labels = data.train.labels(indices)
    answers = set()
    for row, digits in enumerate(labels):
        text, answer = batch["text"][row], batch["answer"][row]
        words = decode(text)
        predicted = decode(text * answer)
        names = [DIGITS[digit] for digit in digits]
        row_kind = KINDS[int(batch["kind"][row])]
        assert predicted == _expected(row_kind, words, names), (words, names)
        end = int((text != 0).sum()) - 1
        assert answer[end]
        assert not answer[end + 1 :].any()
        assert not answer[0]
        answers.add(predicted)
    if kind in ("presence", "entailment", "two_pictures"):
        assert answers == {"yes", "no"}
    assert bool((batch["kind"] == KINDS.index(kind)).all())
    assert torch.equal(batch["paired"], batch["kind"] == KINDS.index("caption"))


def _expected(kind: str, words: str, names: list[str]) -> str:
    """The right answer, from the labels and the question's words alone."""
    if kind == "caption":
        return " ".join(f"{place} {name}" for place, name in zip(PLACES, names, strict=True))
    parts = words.split()
    if kind == "position":
        return names[PLACES.index(" ".join(parts[2:4]))]
    if kind == "neighbour":
        relation, cell = parts[2], PLACES.index(" ".join(parts[3:5]))
        if relation == "beside":
            return names[cell ^ 1]
        assert (relation == "below") == (cell < 2)
        return names[cell ^ 2]
    if kind == "presence":
        return "yes" if parts[2] in names else "no"
    if kind == "extreme":
        return (max if parts[2] == "largest" else min)(names, key=DIGITS.index)
    if kind == "two_pictures":
        upper, lower = names[:2], names[2:]
        if parts[0] == "largest":
            highest = [max(DIGITS.index(name) for name in picture) for picture in (upper, lower)]
            return "yes" if highest[0] > highest[1] else "no"
        return "yes" if parts[3] in upper and parts[5] in lower else "no"
    return "yes" if names[PLACES.index(" ".join(parts[:2]))] == parts[3] else "no"


@pytest.mark.parametrize(("kind", "off"), [("presence", 0.03), ("entailment", 0.03), ("two_pictures", 0.05)])
def test_yes_and_no_are_equally_frequent(kind: str, off: float) -> None:
    data = build_digits({"mix": {kind: 1.0}})
    batch = data.train.batch(np.arange(4000))
    yes = sum("yes" in decode(text) for text in batch["text"]) / 4000
    assert yes == pytest.approx(0.5, abs=off)


def test_mix_is_kept_and_questions_hold_no_captions() -> None:
    data = build_digits({"mix": {"caption": 3, "position": 1}})
    kinds = data.train.batch(np.arange(4000))["kind"]
    assert float((kinds == KINDS.index("caption")).float().mean()) == pytest.approx(0.75, abs=0.03)
    asked = data.questions.batch(np.arange(len(data.questions)))["kind"]
    assert set(asked.tolist()) == {KINDS.index(kind) for kind in QUESTIONS}
    other = build_digits({"asked": {"two_pictures": 1}}).questions.batch(np.arange(100))["kind"]
    assert set(other.tolist()) == {KINDS.index("two_pictures")}


def test_metrics_count_a_row_only_if_every_answer_token_is_right(data: DigitsData) -> None:
    batch = _rows(data.held_out, 400)
    labels = batch["text"][:, 1:]
    logits = torch.nn.functional.one_hot(labels, data.vocab_size).float()
    perfect = data.metrics(logits, batch)
    questions = float((batch["kind"] != 0).sum())
    assert perfect["accuracy"] == (questions, questions)
    assert perfect["accuracy/caption"] == (400 - questions, 400 - questions)
    # Words that are not to be predicted do not count …
    asked = batch["answer"][:, 1:]
    babble = torch.where(asked[..., None], logits, -logits)
    assert data.metrics(babble, batch) == perfect
    # … but one wrong answer token makes the row wrong.
    last = asked.float().cumsum(1).argmax(1)
    broken = logits.clone()
    broken[torch.arange(400), last] *= -1
    assert data.metrics(broken, batch)["accuracy"] == (0.0, questions)


def _rows(rows: Collages, count: int) -> dict[str, torch.Tensor]:
    return rows.batch(np.arange(count))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("digit", {}, "did you mean 'digits'"),
        ("digits", {"sed": 1}, "sed"),
        ("digits", {"source_digits": 5}, "source_digits"),
        ("digits", {"mix": {"captions": 1}}, "expected shares"),
        ("digits", {"mix": {}}, "expected shares"),
        ("digits", {"asked": {"position": 0}}, "wrong asked"),
        ("digits", {"mix": {"caption": -1, "position": 2}}, "expected shares"),
        ("digits", {"mix": {"caption": float("nan")}}, "finite"),
    ],
)
def test_wrong_options_are_named(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(name, options)
