"""The paper's tasks: files in the published formats, prompts and answers for CoCa, and the usual metrics."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.worker.data.tasks.published import CAPTIONS, PICTURES, write_all
from worker.data import Context, build
from worker.data.examples import Example
from worker.data.pictures import CANVAS, stack_on_canvas
from worker.data.shuffled import Shuffled
from worker.data.tasks import caption_scores, vqa_v2
from worker.data.tasks.base import TaskData
from worker.data.tokens import TextCodec
from worker.errors import DataError
from worker.models.open_clip.inputs import OpenClipInputs

INPUTS = OpenClipInputs({"vision_cfg": {"image_size": 8}, "text_cfg": {"context_length": 24, "vocab_size": 49408}})
TOKENIZE, DECODE = INPUTS.tokenizer(), INPUTS.detokenizer()
TASKS = ("vqa_v2", "snli_ve", "nlvr2", "coco_captions")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all(tmp_path_factory.mktemp("datasets"))


def task(name: str, folder: Path, **options: Any) -> TaskData:
    data = build(name, {"folder": folder.name, **options}, Context(folder.parent, lambda: INPUTS))
    assert isinstance(data, TaskData)
    return data


def prompt_and_answer(row: dict[str, torch.Tensor]) -> tuple[str, str]:
    """Decode a row's prompt and answer; the end token belongs to the answer."""
    words = row["text"].tolist()
    words = words[: words.index(49407) + 1]
    first = row["answer"].tolist().index(True)
    assert row["answer"].nonzero().flatten().tolist() == list(range(first, len(words)))
    return DECODE(words[:first]), DECODE(words[first:])


def written(texts: dict[int, str]) -> dict[int, list[int]]:
    """Return these texts as a model would generate them, by row."""
    return {row: _tokens(text) for row, text in texts.items()}


def _tokens(text: str) -> list[int]:
    row: list[int] = TOKENIZE([text])[0].tolist()
    return row[1 : row.index(49407)]


@pytest.mark.parametrize("name", TASKS)
def test_rows_are_a_batch_in_every_split(name: str, folder: Path) -> None:
    data = task(name, folder, augment=True)
    for rows in (data.train, data.held_out, data.questions):
        batch = data.collate(rows.__getitems__([0, 1, 2]))
        assert batch["image"].shape == (3, 3, 8, 8)
        assert batch["text"].shape == batch["answer"].shape == (3, 24)
        assert batch["paired"].tolist() == [name == "coco_captions"] * 3
    # What loader processes get; an item depends on nothing but its index.
    copy = pickle.loads(pickle.dumps(data.train))
    for index in (0, 5, 10**6):
        assert torch.equal(copy[index]["image"], data.train[index]["image"])
    assert all(bool(row["image"].isfinite().all()) for row in data.held_out.__getitems__([0, 1]))
    with pytest.raises(IndexError, match="numbered 0 to"):
        data.held_out[len(data.held_out)]


def test_vqa_asks_the_question_and_shows_each_of_the_ten_answers_in_turn(folder: Path) -> None:
    data = task("vqa_v2", folder)
    count = 2 * PICTURES
    assert len(data.held_out) == len(data.questions) == count
    # Measured with the commonest answer, in the words that count.
    assert {prompt_and_answer(row) for row in data.held_out.__getitems__(range(count))} == {
        ("what color is the dog ?", "brown"),
        ("how many dogs are there ?", "2"),
    }
    shown = [prompt_and_answer(data.train[index]) for index in range(30 * count)]
    colors = [answer for question, answer in shown if question.startswith("what")]
    assert len(colors) == 30 * PICTURES
    for answer, share in (("brown", 0.4), ("dark brown", 0.3), ("tan", 0.2), ("dog", 0.1)):
        assert colors.count(answer) / len(colors) == pytest.approx(share, abs=0.1)


def test_vqa_is_judged_by_agreement_in_all_and_by_answer_type(folder: Path) -> None:
    data = task("vqa_v2", folder)
    kinds = [data.kinds[int(row["kind"])] for row in data.questions.__getitems__(range(2 * PICTURES))]
    colors, numbers = ([row for row, kind in enumerate(kinds) if kind == wanted] for wanted in ("other", "number"))
    answers = dict(zip(colors, ["brown", "dark brown", "tan", "dog"], strict=True))
    answers |= dict(zip(numbers, ["2", "2", "3", ""], strict=True))
    found = data.judge(written(answers))
    # 4, 3, 2 and 1 of ten agree.
    assert found["accuracy/other"] == pytest.approx((1.0 + 0.9 + 0.6 + 0.3) / 4)
    assert found["accuracy/number"] == pytest.approx(0.5)
    assert found["accuracy"] == pytest.approx((2.8 + 2.0) / 8)
    assert "accuracy/yes_no" not in found


def test_an_answer_that_clip_spells_apart_still_agrees() -> None:
    judge = vqa_v2._judge(TextCodec.from_inputs(INPUTS))
    for answer in ("2.5", "10:30", "1,000", "t-shirt", "don't", "men's", "10", "b&w", "u.s.", "a.m.", "naïve"):
        for rest in ("other", answer):
            example = Example(("",), "what ?", (answer,) * 5 + (rest,) * 5, "1")
            text = DECODE(_tokens(vqa_v2.answer_text(example, 0)))
            assert judge([example], [text])["accuracy"] == 1.0, answer


def test_snli_ve_asks_of_the_hypothesis_alone(folder: Path) -> None:
    data = task("snli_ve", folder, questions="test")
    assert (len(data.held_out), len(data.questions)) == (3 * PICTURES, 3 * PICTURES)
    rows = [prompt_and_answer(row) for row in data.questions.__getitems__(range(3 * PICTURES))]
    assert set(rows) == {
        ("an animal is moving . :", "yes"),
        ("an animal is old . :", "maybe"),
        ("an animal is asleep . :", "no"),
    }
    assert (data.writing.most, len(data.writing.choices)) == (1, 3)
    answers = {row: answer if row else {"yes": "no"}.get(answer, "yes") for row, (_, answer) in enumerate(rows)}
    assert data.judge(written(answers)) == {"accuracy": pytest.approx(1 - 1 / (3 * PICTURES))}
    # Of the pictures that are judged none is seen in training, nor by the probe.
    assert not {e.key for e in data.questions.examples} & {e.key for e in data.held_out.examples}


def test_nlvr2_shows_the_left_picture_above_the_right_one(folder: Path) -> None:
    data = task("nlvr2", folder)
    row = data.held_out[0]
    assert prompt_and_answer(row)[0] == "the left image shows two dogs . :"
    top, bottom = row["image"][0, :3].mean(), row["image"][0, -3:].mean()
    # img1 is 20 shades lighter.
    assert float(bottom - top) == pytest.approx(20 / 255 / 0.268, abs=0.02)
    canvas = stack_on_canvas([Image.new("RGB", (4, 3), "red"), Image.new("RGB", (3, 9), "blue")])
    assert canvas.size == (CANVAS, CANVAS)
    assert [canvas.getpixel((x, y)) for x in (0, CANVAS - 1) for y in (0, CANVAS // 2 - 1)] == [(255, 0, 0)] * 4
    assert [canvas.getpixel((x, y)) for x in (0, CANVAS - 1) for y in (CANVAS // 2, CANVAS - 1)] == [(0, 0, 255)] * 4


def test_nlvr2_is_consistent_where_a_sentence_is_right_of_all_its_pairs(folder: Path) -> None:
    data = task("nlvr2", folder, questions="test1")
    rows = [prompt_and_answer(row)[1] for row in data.questions.__getitems__(range(2 * PICTURES))]
    # The pairs of one sentence stand together.
    assert rows == ["true", "false"] * PICTURES
    answers = dict(enumerate(["true"] * 2 + rows[2:]))
    assert data.judge(written(answers)) == {
        "accuracy": pytest.approx(1 - 1 / (2 * PICTURES)),
        "consistency": pytest.approx(1 - 1 / PICTURES),
    }
    # Of a sentence that is measured by half nothing is known.
    assert data.judge(written({0: "true"})) == {"accuracy": 1.0}


def test_coco_trains_on_all_captions_of_train_and_restval(folder: Path) -> None:
    data = task("coco_captions", folder, questions="test")
    assert isinstance(data.train, Shuffled)
    shown = [prompt_and_answer(data.train[index]) for index in range(20 * 2 * PICTURES)]
    assert {prompt for prompt, _ in shown} == {""}
    assert {caption for _, caption in shown} == {DECODE(_tokens(caption)) for caption in CAPTIONS}
    assert "a man's dog , running !" in {caption for _, caption in shown}
    assert len(data.questions) == PICTURES
    keys = {example.key for example in data.questions.examples}
    assert keys == {f"val2014/COCO_val2014_{image:012d}.jpg" for image in range(21, 21 + PICTURES)}


def test_captions_are_judged_as_cocos_evaluation_does(folder: Path) -> None:
    data = task("coco_captions", folder)
    # All n-grams are in all references of one picture: BLEU is 1. In every picture's references they are too, which
    # CIDEr takes for saying nothing.
    perfect = data.judge(written(dict.fromkeys(range(PICTURES), "the dog is running")))
    assert perfect == {"bleu_4": pytest.approx(1.0), "cider": pytest.approx(0.0)}
    references = [["a red bus drives by"], ["two cats sleep on a sofa"]]
    # Each n-gram is in one of two pictures' references: alike in all n, and 10 is CIDEr's own scale.
    assert caption_scores.scores(["A red bus drives by.", "Two cats sleep on a sofa!"], references) == {
        "cider": pytest.approx(10.0),
        "bleu_4": pytest.approx(1.0),
    }
    # 4 of 5 words, 3 of 4, 2 of 3 and 1 of 2 n-grams are right of one caption, all of the other, which has 6 words.
    found = caption_scores.scores(["a red bus drives fast", "two cats sleep on a sofa"], references)
    precisions = [(4 + 6) / 11, (3 + 5) / 9, (2 + 4) / 7, (1 + 3) / 5]
    assert found["bleu_4"] == pytest.approx(torch.tensor(precisions).log().mean().exp().item(), rel=1e-4)


def test_texts_are_tokenized_by_the_packages_own_program() -> None:
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    texts = [*CAPTIONS, "It costs $2.50 (two) — naïve café", "don't"]
    theirs = PTBTokenizer().tokenize({number: [{"caption": text}] for number, text in enumerate(texts)})
    assert caption_scores.tokenized(texts) == [theirs[number][0] for number in range(len(texts))]
    assert caption_scores.tokenized(["", "a\nb", ""]) == ["", "a b", ""]


def test_without_java_captions_are_refused_at_the_start(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match=r"no java on the PATH: install a Java runtime .*default-jre-headless"):
        task("coco_captions", folder)


def test_what_is_too_long_loses_the_end_of_its_question_and_keeps_its_answer(folder: Path) -> None:
    data = task("snli_ve", folder)
    row = data._codec.row("word " * 50 + ": ", "yes")
    prompt, text_of_answer = prompt_and_answer(row)
    assert (prompt, text_of_answer) == (" ".join(["word"] * 21), "yes")


def test_a_teacher_gets_pictures_of_its_own_but_must_read_the_same_texts(folder: Path) -> None:
    def data(**teacher: Any) -> TaskData:
        config = {**INPUTS.config, **teacher}
        context = Context(folder.parent, lambda: INPUTS, lambda: OpenClipInputs(config, {"mean": [0.1, 0.2, 0.3]}))
        built = build("snli_ve", {"folder": folder.name, "augment": True}, context)
        assert isinstance(built, TaskData)
        return built

    row = data(vision_cfg={"image_size": 12}).train[3]
    assert (row["image"].shape, row["teacher/image"].shape) == ((3, 8, 8), (3, 12, 12))
    text = {"context_length": 20, "vocab_size": 49408}
    with pytest.raises(
        ValueError, match=r"the same tokenizer for a task .*, but a text has 20 tokens for the teacher and"
    ):
        data(text_cfg=text)


@pytest.mark.parametrize(
    ("name", "path", "change", "message"),
    [
        ("vqa_v2", "vqa_v2/v2_mscoco_val2014_annotations.json", None, "does not exist; docs/reproduce-the-paper.md"),
        ("vqa_v2", "vqa_v2/v2_OpenEnded_mscoco_train2014_questions.json", '{"questions": [{"question_id": 1000}]}',
         "its entry 1 has no 'question'|its entry 1 has no 'image_id'"),
        ("vqa_v2", "coco/val2014/COCO_val2014_000000000011.jpg", None, "the picture coco/val2014/.* does not exist"),
        ("snli_ve", "snli_ve/snli_ve_dev.jsonl", "[1, 2]\n{",
         "its entry 1 cannot be read .list indices|line 2 of .* is not JSON"),
        ("nlvr2", "nlvr2/train.json", "", "has no example that can be used"),
        ("nlvr2", "nlvr2/images/dev/dev-11-0-img1.png", "no picture", "cannot be decoded"),
        ("coco_captions", "coco/dataset_coco.json", '{"images": []}', "has no example"),
    ],
)  # fmt: skip
def test_what_is_not_as_published_is_a_sentence(
    name: str, path: str, change: str | None, message: str, tmp_path: Path
) -> None:
    folder = write_all(tmp_path / "datasets")
    file = folder / path
    file.unlink() if change is None else file.write_text(change)
    with pytest.raises((ValueError, DataError), match=message):
        read_through(name, folder)


def read_through(name: str, folder: Path) -> None:
    rows = task(name, folder).held_out
    rows.__getitems__(range(len(rows)))
