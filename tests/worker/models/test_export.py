"""Exported students are complete models of open_clip and contain nothing of the worker."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from worker.models.open_clip.loader import OpenClipModel, load, save
from worker.models.weights import STUDENT_FILE

DIGITS = Path(__file__).parents[3] / "deploy" / "models" / "digits-coca"

STRANGER = """
import json, sys
from pathlib import Path
import open_clip, torch
from safetensors.torch import load_file
directory = Path(sys.argv[1])
config = json.loads((directory / "open_clip_config.json").read_text())["model_cfg"]
(directory / "student-config.json").write_text(json.dumps(config))
open_clip.add_model_config(directory / "student-config.json")
model = open_clip.create_model("student-config", load_weights=False)
model.load_state_dict(load_file(directory / "student.safetensors"), strict=True)
whole = open_clip.create_model(f"local-dir:{directory}")
assert not any(name.split(".")[0] in ("worker", "protos", "bandit_server") for name in sys.modules)
for either in (model.eval(), whole.eval()):
    logits = either(torch.ones(1, 3, 16, 16), torch.ones(1, 14, dtype=torch.int64))["logits"]
    torch.save(logits.detach(), directory / "logits.pt")
    print(float(logits.double().sum()))
"""


@pytest.fixture(scope="module")
def student() -> OpenClipModel:
    teacher = load(f"open_clip:{DIGITS}")
    return teacher.cut({"image": 2}, teacher.adapter)


def test_open_clip_alone_loads_the_student_back(student: OpenClipModel, tmp_path: Path) -> None:
    assert student.export(student.model.state_dict(), tmp_path / "out") == tmp_path / "out" / STUDENT_FILE
    done = subprocess.run(
        [sys.executable, "-I", "-c", STRANGER, str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    model = student.model.eval()
    with torch.no_grad():
        ours = model(torch.ones(1, 3, 16, 16), torch.ones(1, 14, dtype=torch.int64))["logits"]
    assert [float(line) for line in done.stdout.split()] == pytest.approx([float(ours.double().sum())] * 2, rel=1e-5)


def test_exported_weights_are_bit_for_bit_the_students(student: OpenClipModel, tmp_path: Path) -> None:
    student.export(student.model.state_dict(), tmp_path)
    written = load_file(tmp_path / STUDENT_FILE)
    state = student.model.state_dict()
    assert set(written) == set(state)
    assert all(torch.equal(value, state[name]) for name, value in written.items())


@pytest.mark.parametrize("name", ["module.logit_scale", "projections.image.weight"])
def test_names_that_are_not_open_clips_are_refused_and_nothing_is_written(
    student: OpenClipModel, tmp_path: Path, name: str
) -> None:
    with pytest.raises(ValueError, match=name):
        student.export({**student.model.state_dict(), name: torch.ones(1)}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_failed_write_leaves_the_old_file_and_no_rubbish(student: OpenClipModel, tmp_path: Path) -> None:
    student.export(student.model.state_dict(), tmp_path)
    before = (tmp_path / STUDENT_FILE).read_bytes()
    with pytest.raises(TypeError):
        save(student.model.state_dict(), {**student.config, "tags": {1, 2}}, tmp_path, weights=STUDENT_FILE)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["open_clip_config.json", STUDENT_FILE]
    assert (tmp_path / STUDENT_FILE).read_bytes() == before


def test_export_replaces_an_older_one(student: OpenClipModel, tmp_path: Path) -> None:
    for scale in (1.0, 2.0):
        state = {name: value * scale for name, value in student.model.state_dict().items()}
        student.export(state, tmp_path)
        assert torch.equal(load_file(tmp_path / STUDENT_FILE)["logit_scale"], state["logit_scale"])
