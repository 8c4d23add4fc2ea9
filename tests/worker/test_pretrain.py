"""The shipped teachers have their recorded accuracy, and their command works."""

import json
from pathlib import Path

import pytest
import torch

from worker.data.digits.dataset import build_digits
from worker.models.open_clip.loader import load
from worker.pretrain.__main__ import KNOWN, main
from worker.pretrain.coca import Coca
from worker.pretrain.training import evaluate

TEACHER = KNOWN["coca"]


def test_shipped_teacher_reproduces_its_recorded_accuracy() -> None:
    recorded = json.loads((TEACHER / "metrics.json").read_text())
    data = build_digits({})
    assert recorded["held_out_questions"] == len(data.questions)
    measured = evaluate(Coca(load(f"open_clip:{TEACHER}").model, {}), data, data.questions)
    assert measured["accuracy"] == pytest.approx(recorded["held_out"]["accuracy"], abs=0.002)
    assert measured["accuracy"] >= 0.95


@pytest.mark.parametrize("model", KNOWN)
def test_shipped_teachers_are_small(model: str) -> None:
    assert (KNOWN[model] / "model.safetensors").stat().st_size <= 8 * 2**20


def test_student_cut_from_the_teacher_starts_clearly_worse() -> None:
    teacher = load(f"open_clip:{TEACHER}")
    student = teacher.cut({"image": 2, "text": 4, "multimodal": 4}, teacher.adapter).model
    data = build_digits({"question_items": 1000})
    assert (
        evaluate(Coca(student, {}), data, data.questions)["accuracy"]
        < evaluate(Coca(teacher.model, {}), data, data.questions)["accuracy"] - 0.10
    )


def test_command_trains_and_writes_a_model_that_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = json.loads((TEACHER / "open_clip_config.json").read_text())["model_cfg"]
    for section in ("vision_cfg", "text_cfg", "multimodal_cfg"):
        config[section]["layers"] = 1
    (tmp_path / "tiny.json").write_text(json.dumps(config))
    out = tmp_path / "out"
    flags = ["--model", str(tmp_path / "tiny.json"), "--output", str(out), "--steps", "2", "--batch", "8"]
    main([*flags, "--seed", "3"])
    trained = load(f"open_clip:{out}").model.state_dict()
    report = json.loads((out / "metrics.json").read_text())
    assert "step 2/2" in capsys.readouterr().out
    assert report["seed"] == 3
    assert report["steps"] == 2
    assert "--seed 3" in report["command"]
    assert set(report["versions"]) == {"torch", "open_clip_torch", "scikit-learn", "numpy", "python"}
    assert all(bool(torch.isfinite(value).all()) for value in trained.values())


@pytest.mark.parametrize("name", ["model.safetensors", "open_clip_config.json", "metrics.json"])
def test_command_writes_over_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(SystemExit, match=f"already holds a {name}; choose another --output"):
        main(["--output", str(tmp_path), "--steps", "1"])
    assert (tmp_path / name).read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1
