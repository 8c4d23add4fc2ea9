"""Small datasets in exactly the files and formats in which VQA v2, SNLI-VE, NLVR2 and COCO Captions are published."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

PICTURES = 4
"""Of each split; numbered from 1 in train, 11 in the first held-out split, 21 in the second."""
FIRST = {"train": 1, "dev": 11, "test": 21}
CAPTIONS = ("A man's dog, running!", "a dog runs on grass.", "A brown dog.", "the dog is running", "Dog")


def write_all(folder: Path) -> Path:
    """Every dataset; returns the folder."""
    for write in (write_vqa, write_snli_ve, write_nlvr2, write_coco):
        write(folder)
    return folder


def write_vqa(folder: Path) -> None:
    """Two questions a picture, one about colours and one to count."""
    for name, first in (("train2014", FIRST["train"]), ("val2014", FIRST["dev"])):
        questions, annotations = [], []
        for image in range(first, first + PICTURES):
            picture(folder / f"coco/{name}/COCO_{name}_{image:012d}.jpg", image)
            for number, (question, kind, answers) in enumerate(
                [
                    ("What color is the dog?", "other", ["brown"] * 4 + ["Dark brown"] * 3 + ["tan"] * 2 + ["dog"]),
                    ("How many dogs are there?", "number", ["2"] * 10),
                ]
            ):
                asked = {"image_id": image, "question": question, "question_id": image * 1000 + number}
                questions.append(asked)
                annotations.append(annotation(asked, kind, answers))
        where = folder / "vqa_v2"
        _json(where / f"v2_OpenEnded_mscoco_{name}_questions.json",
              {"info": {}, "task_type": "Open-Ended", "data_type": "mscoco", "data_subtype": name, "license": {},
               "questions": questions})  # fmt: skip
        _json(
            where / f"v2_mscoco_{name}_annotations.json",
            {"info": {}, "data_type": "mscoco", "data_subtype": name, "license": {}, "annotations": annotations[::-1]},
        )


def annotation(asked: dict[str, Any], kind: str, answers: Sequence[str]) -> dict[str, Any]:
    return {
        "question_type": " ".join(asked["question"].split()[:2]).lower(),
        "multiple_choice_answer": max(answers, key=answers.count),
        "answers": [{"answer": a, "answer_confidence": "yes", "answer_id": n + 1} for n, a in enumerate(answers)],
        "image_id": asked["image_id"],
        "answer_type": kind,
        "question_id": asked["question_id"],
    }


def write_snli_ve(folder: Path, labels: Sequence[str] = ("entailment", "neutral", "contradiction")) -> None:
    for name, first in FIRST.items():
        lines = []
        for image in range(first, first + PICTURES):
            picture(folder / f"flickr30k/flickr30k-images/{image:08d}.jpg", image)
            for number, label in enumerate(labels):
                lines.append({
                    "Flickr30K_ID": f"{image:08d}", "annotator_labels": [label], "captionID": f"{image:08d}.jpg#0",
                    "gold_label": label, "pairID": f"{image:08d}.jpg#0r{number}c",
                    "sentence1": "A dog runs.", "sentence1_binary_parse": "", "sentence1_parse": "",
                    "sentence2": f"An animal is {('moving', 'old', 'asleep')[number]}.",
                    "sentence2_binary_parse": "", "sentence2_parse": "",
                })  # fmt: skip
        _lines(folder / f"snli_ve/snli_ve_{name}.jsonl", lines)


def write_nlvr2(folder: Path) -> None:
    """A sentence about two pairs of pictures a set; those of train lie in numbered folders."""
    for name, first in (("train", 1), ("dev", 11), ("test1", 21)):
        lines = []
        for group in range(first, first + PICTURES):
            for pair, label in ((0, "True"), (2, "False")):
                line: dict[str, Any] = {
                    "identifier": f"{name}-{group}-{pair}-1", "sentence": "The left image shows two dogs.",
                    "label": label, "left_url": "http://a/b.jpg", "right_url": "http://a/c.jpg", "writer": "61",
                    "synset": "dog", "query": "two dogs38", "validation": {"61": label},
                }  # fmt: skip
                place = folder / "nlvr2/images" / name
                if name == "train":
                    line["directory"] = group % 2
                    place /= str(group % 2)
                for side in (0, 1):
                    picture(place / f"{name}-{group}-{pair}-img{side}.png", 40 * (group + pair) + 20 * side)
                lines.append(line)
        _lines(folder / f"nlvr2/{name}.json", lines)


def write_coco(folder: Path) -> None:
    """The published splits: restval and some others lie in val2014."""
    images: list[dict[str, Any]] = []
    splits = [("train", "train2014", 1), ("restval", "val2014", 5), ("val", "val2014", 11), ("test", "val2014", 21)]
    for split, where, first in splits:
        for image in range(first, first + PICTURES):
            name = f"COCO_{where}_{image:012d}.jpg"
            picture(folder / "coco" / where / name, image)
            sentences = [
                {"tokens": text.lower().split(), "raw": text, "imgid": len(images), "sentid": 5 * len(images) + number}
                for number, text in enumerate(CAPTIONS)
            ]
            images.append({"filepath": where, "sentids": [one["sentid"] for one in sentences], "filename": name,
                           "imgid": len(images), "split": split, "sentences": sentences, "cocoid": image})  # fmt: skip
    _json(folder / "coco/dataset_coco.json", {"images": images, "dataset": "coco"})


def picture(path: Path, shade: int) -> None:
    """A plain one, of a shade that tells it from others; a photograph's shape."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        Image.new("RGB", (16, 12), (shade % 256,) * 3).save(path)


def _json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def _lines(path: Path, lines: Sequence[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
