"""Tar shards as a stream: no sample twice, none skipped, and a resumed stream continues exactly."""

from __future__ import annotations

import io
import logging
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import open_clip
import pytest
import torch
import transformers
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from tests.worker.data.pictures import Numbers, plain, tokenize, write, write_collages
from worker.data import Context, build
from worker.data.base import Batch, Cursor, DataModule, Inputs
from worker.data.digits.text import decode
from worker.data.loader import first_batches, fixed_batch, training_batches
from worker.data.webdataset import Shards, WebDataset
from worker.errors import DataError, RecipeError
from worker.models.hf.inputs import HfInputs
from worker.models.open_clip.inputs import OpenClipInputs

SHARDS, EACH = 5, 8
TEXT = {"context_length": 12, "vocab_size": 49408}


def _sample(number: int) -> dict[str, Any]:
    return {"__key__": f"{number:04d}", "png": plain(number), "txt": str(number)}


def _data(directory: Path, inputs: Any = None, **options: Any) -> DataModule:
    parameters = {"train": "{000..004}.tar", "held_out": "held-out.tar", **options}
    # These data are not judged by texts, so their inputs need no detokenizer.
    return build("webdataset", parameters, Context(directory, lambda: cast(Inputs, inputs or Numbers())))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five shards of eight numbered samples, and a held-out one."""
    directory = tmp_path_factory.mktemp("shards")
    for shard in range(SHARDS):
        write(directory / f"{shard:03d}.tar", map(_sample, range(shard * EACH, (shard + 1) * EACH)))
    write(directory / "held-out.tar", map(_sample, range(200, 206)))
    return directory


def numbers(items: Iterator[tuple[Batch, Cursor]], count: int) -> list[int]:
    return [int(item["text"][1]) for item, _ in islice(items, count)]


def of(batch: Batch) -> list[int]:
    assert torch.equal(batch["image"], batch["text"][:, 1].float()), "a picture goes with its own text"
    return batch["text"][:, 1].tolist()


@pytest.mark.parametrize(("lanes", "shuffle"), [(1, 10), (2, 4), (4, 4), (7, 8), (3, 0)])
def test_every_epoch_has_every_sample_once_however_many_read_it(shards: Path, lanes: int, shuffle: int) -> None:
    """Lanes take turns in an endless sequence of shards: that many lanes have read that many epochs."""
    stream = _data(shards, shuffle=shuffle).train
    assert isinstance(stream, Shards)
    seen = [numbers(stream.items(lane, lanes, None), SHARDS * EACH) for lane in range(lanes)]
    # Each lane read so many shards, and together they read every shard as often as there are lanes.
    assert Counter(number for lane in seen for number in lane) == dict.fromkeys(range(SHARDS * EACH), lanes)
    first_epoch = [n for lane in range(lanes) for n in seen[lane][: EACH * len(range(lane, SHARDS, lanes))]]
    assert sorted(first_epoch) == list(range(SHARDS * EACH))
    assert (seen[0] == sorted(seen[0])) == (shuffle == 0 and lanes == 1)


def test_orders_differ_by_seed_and_epoch_and_are_the_same_again(shards: Path) -> None:
    def order(seed: int) -> list[int]:
        stream = _data(shards, seed=seed, shuffle=10).train
        assert isinstance(stream, Shards)
        return numbers(stream.items(0, 1, None), 2 * SHARDS * EACH)

    one, other = order(1), order(2)
    assert one == order(1)
    assert one != other
    first, second = one[: SHARDS * EACH], one[SHARDS * EACH :]
    assert sorted(first) == sorted(second)
    assert first != second


@pytest.mark.parametrize("shuffle", [0, 1, 7, 1000])
def test_a_lane_goes_on_from_any_cursor_with_what_would_have_followed(shards: Path, shuffle: int) -> None:
    stream = _data(shards, shuffle=shuffle).train
    assert isinstance(stream, Shards)
    unbroken = list(islice(stream.items(1, 2, None), 60))
    for stop in (1, 6, 7, 8, 13, 39, 40, 41):
        went_on = numbers(stream.items(1, 2, unbroken[stop - 1][1]), 60 - stop)
        assert went_on == [int(item["text"][1]) for item, _ in unbroken[stop:]], stop


@pytest.mark.parametrize("stop", [0, 1, 5])
def test_every_rank_goes_on_with_its_own_batches(shards: Path, stop: int) -> None:
    data = _data(shards, shuffle=10)

    def batches(rank: int, start: int = 0, cursors: Any = None) -> Any:
        return training_batches(data, batch_size=3, rank=rank, world=2, start=start, workers=0, cursors=cursors)

    ranks = []
    for rank in range(2):
        unbroken = [of(batch) for batch in islice(batches(rank), 20)]
        killed = batches(rank)
        before = [of(batch) for batch in islice(killed, stop)]
        resumed = batches(rank, stop, killed.cursors)
        assert before + [of(batch) for batch in islice(resumed, 20 - stop)] == unbroken
        ranks.append([number for batch in unbroken for number in batch])
    assert ranks[0] != ranks[1]


def test_loader_processes_go_on_in_turn_where_a_job_stopped(shards: Path) -> None:
    """Two processes, one batch each in turn, from a position at which it is the second's turn."""
    data = _data(shards, shuffle=10)
    stream = data.train
    assert isinstance(stream, Shards)
    size, start, count = 3, 5, 4
    # What two lanes of rank 1 of 2 give: the first has had three batches, the second two.
    lanes = [list(islice(stream.items(lane, 4, None), size * 6)) for lane in (2, 3)]
    expected = [
        [int(item["text"][1]) for item, _ in lanes[at % 2][at // 2 * size :][:size]] for at in range(start + count)
    ]
    cursors = {0: lanes[0][3 * size - 1][1], 1: lanes[1][2 * size - 1][1]}
    loaded = training_batches(data, batch_size=size, rank=1, world=2, start=start, workers=2, cursors=cursors)
    assert [of(batch) for batch in islice(loaded, count)] == expected[start:]
    # What was only prefetched is not behind.
    assert loaded.cursors == {0: lanes[0][5 * size - 1][1], 1: lanes[1][4 * size - 1][1]}


def test_what_is_looked_at_before_training_is_each_ranks_first_batches(shards: Path) -> None:
    data = _data(shards, shuffle=10)
    for rank in range(2):
        batches = training_batches(data, batch_size=4, rank=rank, world=2, start=0, workers=0)
        early = first_batches(data, count=2, size=4, rank=rank, world=2)
        assert [of(batch) for batch in early] == [of(batch) for batch in islice(batches, 2)]


def test_held_out_samples_are_rows_and_judged_by_the_words_they_predict(shards: Path) -> None:
    data = _data(shards, held_out_items=4)
    assert len(data.held_out) == len(data.questions) == 4
    batch = fixed_batch(data, data.held_out, 1, 4)
    assert of(batch) == [201, 202, 203, 200]
    logits = torch.zeros(4, 1, 300)
    logits[:, 0, 202] = 1
    assert isinstance(data, WebDataset)
    assert data.metrics(logits, batch) == {"accuracy": (1.0, 4.0)}


def test_two_towers_are_judged_by_the_pictures_that_find_their_texts(shards: Path) -> None:
    data = _data(shards)
    assert isinstance(data, WebDataset)
    similarities = torch.eye(4)
    similarities[0, 1] = 2
    assert data.metrics(similarities, fixed_batch(data, data.held_out, 0, 4)) == {"accuracy": (3.0, 4.0)}


FAULTY: list[dict[str, Any]] = [
    {"__key__": "0", "png": plain(0), "txt": "0"},
    {"__key__": "1", "png": b"no picture", "txt": "1"},
    {"__key__": "2", "png": plain(2)},
    {"__key__": "3", "txt": "3"},
    {"__key__": "4", "png": plain(4), "json": {"caption": "4", "url": "elsewhere"}},
    {"__key__": "5", "png": plain(5), "json": {"title": "5"}},
    {"__key__": "6", "jpg": plain(6), "txt": b"\xff\xfe"},
    {"__key__": "7", "png": plain(7), "txt": "7"},
]


def test_faulty_samples_are_skipped_counted_and_logged(
    shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "faulty.tar", FAULTY)
    options = {"train": str(tmp_path / "faulty.tar"), "held_out": str(shards / "held-out.tar"), "shuffle": 0}
    stream = _data(shards, **options).train
    assert isinstance(stream, Shards)
    with caplog.at_level(logging.WARNING):
        assert numbers(stream.items(0, 1, None), 9) == [0, 4, 7] * 3
    assert [record.getMessage().replace(str(tmp_path), "DIR") for record in caplog.records] == [
        "the shard DIR/faulty.tar has a sample 1 with a png that cannot be decoded; skipped so far by this process: "
        "1 with a png that cannot be decoded",
        "the shard DIR/faulty.tar has a sample 6 whose txt is not text in UTF-8; skipped so far by this process: "
        "2 with a png that cannot be decoded, 2 without any of txt, json, 2 without any of jpg, jpeg, png, webp, "
        "2 whose json is not a JSON object with the field 'caption', 2 whose txt is not text in UTF-8",
    ]
    strict = _data(shards, **options, faulty="fail")
    batches = training_batches(strict, batch_size=2, rank=0, world=1, start=0, workers=0)
    with pytest.raises(DataError, match=r"faulty\.tar has a sample 1 with a png that cannot be decoded$"):
        next(batches)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([{"__key__": "0", "tiff": b"?", "txt": "0"}], "no shard has a sample with a picture and a text"),
        ([{"__key__": "0", "png": b"?", "txt": "0"}], "no shard has a sample whose picture and text can be read"),
    ],
)
def test_shards_of_which_nothing_can_be_read_are_an_error(
    shards: Path, tmp_path: Path, samples: list[dict[str, Any]], message: str
) -> None:
    write(tmp_path / "none.tar", samples)
    data = _data(shards, train=str(tmp_path / "none.tar"))
    with pytest.raises(DataError, match=message):
        next(training_batches(data, batch_size=2, rank=0, world=1, start=0, workers=0))


def test_a_shard_that_is_cut_off_or_gone_is_one_sentence(shards: Path, tmp_path: Path) -> None:
    write(tmp_path / "whole.tar", map(_sample, range(8)))
    (tmp_path / "cut.tar").write_bytes((tmp_path / "whole.tar").read_bytes()[:2000])
    (tmp_path / "gone.tar").touch()
    for name, message in (("cut", "unexpected end of data"), ("gone", "No such file")):
        data = _data(shards, train=str(tmp_path / f"{name}.tar"))
        if name == "gone":
            (tmp_path / "gone.tar").unlink()
        with pytest.raises(DataError, match=rf"the shard .*{name}\.tar cannot be read: .*{message}"):
            next(training_batches(data, batch_size=8, rank=0, world=1, start=0, workers=0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": "{003..012}.tar"}, r"train names 10 shards, of which 8 do not exist: .*005.tar.* and 5 more$"),
        ({"train": ""}, r"train names no shard; expected a pattern such as shards/\{000..009\}.tar"),
        ({"train": []}, "train.*at least 1 item"),
        ({"train": "{000..004.tar"}, "train is not a valid pattern of shards"),
        ({"train": ["000.tar", "{000..001}.tar"]}, "train names the shard .*000.tar twice"),
        ({"held_out": "004.tar"}, "the shard .*004.tar is both in train and in held_out"),
        ({"shufle": 3}, "wrong options for the webdataset data: shufle: Extra inputs.*the options are train, held_out"),
        ({"faulty": "ignore"}, "faulty: Input should be 'skip' or 'fail'"),
        ({"tokenizer": "tests.worker.data.pictures:tokenise"}, "has no function 'tokenise'; did you mean 'tokenize'"),
    ],
)
def test_wrong_options_are_one_sentence(shards: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, RecipeError), match=message):
        _data(shards, **options)


def test_pictures_and_texts_go_through_the_models_own_preprocessing_and_tokenizer(shards: Path, tmp_path: Path) -> None:
    pixels = torch.randint(0, 255, (30, 30, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "jpeg")
    caption = "A bird, seen from behind."
    write(tmp_path / "0.tar", [{"__key__": "0", "jpg": file.getvalue(), "json": {"caption": caption}}])
    config = {"vision_cfg": {"image_size": 16}, "text_cfg": TEXT}
    inputs = OpenClipInputs(config, {"mean": [0.1, 0.2, 0.3]})
    data = _data(tmp_path, inputs, train="0.tar", held_out=str(shards / "held-out.tar"))
    (batch,) = first_batches(data, count=1, size=1)
    transform = image_transform_v2(PreprocessCfg(size=16, mean=(0.1, 0.2, 0.3)), is_train=False)
    assert torch.equal(batch["image"][0], transform(Image.open(file)))
    assert torch.equal(batch["text"], open_clip.SimpleTokenizer(context_length=12)([caption]))
    assert batch["paired"].tolist() == [True]
    # Crops are other ones in every epoch, and the same again after a resume.
    cropped = _data(tmp_path, inputs, train="0.tar", held_out=str(shards / "held-out.tar"), augment=True).train
    assert isinstance(cropped, Shards)
    first, second, third = (item["image"] for item, _ in islice(cropped.items(0, 1, None), 3))
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(next(cropped.items(0, 1, (2, 0, 0)))[0]["image"], third)


def test_a_model_of_transformers_brings_its_processor_and_tokenizer(tmp_path: Path) -> None:
    processor = transformers.BlipImageProcessor(size={"height": 8, "width": 8}, image_mean=[0.1, 0.2, 0.3])
    processor.save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "7", "205"]), encoding="utf-8"
    )
    transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    text = {"vocab_size": 7, "max_position_embeddings": 5, "pad_token_id": 0, "bos_token_id": 2, "sep_token_id": 3}
    config = transformers.BlipConfig(text_config=text, vision_config={"image_size": 8})
    inputs = HfInputs(str(tmp_path), config)
    write(tmp_path / "0.tar", [_sample(7)])
    write(tmp_path / "1.tar", [_sample(205)])
    data = _data(tmp_path, inputs, train="0.tar", held_out="1.tar")
    (batch,) = first_batches(data, count=1, size=1)
    assert batch["image"].shape == (1, 3, 8, 8)
    assert batch["text"].tolist() == [[2, 5, 3, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0]]
    assert fixed_batch(data, data.held_out, 0, 1)["text"].tolist() == [[2, 6, 3, 0, 0]]
    with pytest.raises(ValueError, match="no random crops; remove the option augment"):
        _data(tmp_path, inputs, train="0.tar", held_out="1.tar", augment=True)
    with pytest.raises(ValueError, match="has no tokenizer that can be loaded"):
        _data(tmp_path, HfInputs(str(tmp_path / "none"), config), train="0.tar", held_out="1.tar")


def test_pictures_in_shards_are_read_as_a_viewer_shows_them(shards: Path, tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(np.full((2, 2), 10 * 257, dtype=np.uint16)).save(file, "png")
    write(tmp_path / "0.tar", [{"__key__": "0", "png": file.getvalue(), "txt": "10"}])
    data = _data(tmp_path, train="0.tar", held_out=str(shards / "held-out.tar"))
    assert of(first_batches(data, count=1, size=1)[0]) == [10]


def test_a_model_with_a_vocabulary_of_its_own_names_its_tokenizer(shards: Path, tmp_path: Path) -> None:
    inputs = OpenClipInputs({"vision_cfg": {"image_size": 16}, "text_cfg": {"context_length": 15, "vocab_size": 29}})
    pattern = write_collages(tmp_path, 2, 3)
    options = {"train": pattern, "held_out": str(shards / "held-out.tar")}
    with pytest.raises(
        ValueError, match=r"open_clip's tokenizer has 49408 tokens, but the model only 29; name the tokenizer"
    ):
        _data(tmp_path, inputs, **options)
    data = _data(tmp_path, inputs, tokenizer="tests.worker.data.pictures:tokenize", **options)
    (batch,) = first_batches(data, count=1, size=4)
    assert batch["image"].shape == (4, 3, 16, 16)
    assert all(torch.equal(row, tokenize([decode(row)])[0]) for row in batch["text"])
