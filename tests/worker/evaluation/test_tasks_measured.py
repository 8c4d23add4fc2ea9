"""The paper's tasks in the worker: teacher and student generate answers, which the tasks' metrics judge."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.worker.data.tasks.published import write_all
from worker.engine.process_group import ProcessGroup
from worker.errors import RecipeError
from worker.evaluation.probe import Probe
from worker.recipe.recipe import read_recipe
from worker.setup.build import Components, build
from worker.setup.models import load_models

WORDS = {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
COCA: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 8, "patch_size": 4, "layers": 2, "width": 16, "head_width": 8,
                   "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
    "text_cfg": {**WORDS, "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": WORDS,
    "custom_text": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the models' configurations and the datasets."""
    place = tmp_path_factory.mktemp("place")
    write_all(place / "datasets")
    (place / "coca.json").write_text(json.dumps(COCA))
    clip = {name: section for name, section in COCA.items() if name != "multimodal_cfg"}
    clip["text_cfg"] = WORDS
    (place / "clip.json").write_text(json.dumps(clip | {"vision_cfg": COCA["vision_cfg"] | {"output_tokens": False}}))
    return place


def assembled(
    place: Path, process_group: ProcessGroup, task: str, fields: dict[str, Any], model: str = "coca"
) -> tuple[Components, Probe]:
    path = place / "recipe.yaml"
    path.write_text(
        f"teacher: {{model: 'open_clip:{model}.json', weights: random}}\nstudent: {{keep: {{image: 1, text: 1}}}}\n"
        f"data: {{name: {task}, batch_size: 4, options: {{folder: datasets}}}}\n"
        "probe: {batches: 1, batch_size: 3}\n"
    )
    content = read_recipe(path, fields)
    components = build(content, load_models(content), process_group)
    return components, components.probe(content.probe)


@pytest.mark.parametrize(
    ("task", "names"),
    [
        ("vqa_v2", {"accuracy", "accuracy/number", "accuracy/other"}),
        ("snli_ve", {"accuracy"}),
        ("nlvr2", {"accuracy", "consistency"}),
        ("coco_captions", {"cider", "bleu_4"}),
    ],
)
def test_teacher_and_student_are_judged_by_the_tasks_own_metrics(
    task: str, names: set[str], place: Path, process_group: ProcessGroup
) -> None:
    fields = {"loss.task": {"worker.models.task_losses:answer": 1.0, "contrastive": 0.1}}
    _, probe = assembled(place, process_group, task, fields)
    evaluation = probe.evaluate()
    assert set(probe.teacher_metrics()) == set(evaluation.metrics) == names
    assert all(value >= 0 for value in evaluation.metrics.values())
    assert "task/answer" in evaluation.terms
    assert evaluation.total_loss > 0


def test_the_recipe_decides_on_the_questions_and_no_row_counts_twice(
    place: Path, process_group: ProcessGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    components, probe = assembled(place, process_group, "snli_ve", {"probe.questions": 7})
    judged: list[list[int]] = []

    def judge(texts: Mapping[int, Sequence[int]]) -> dict[str, float]:
        judged.append(sorted(texts))
        return {}

    monkeypatch.setattr(components.data, "judge", judge)
    probe.evaluate()
    # Whole batches of three; of twelve rows.
    assert judged == [list(range(9))]
    _, everything = assembled(place, process_group, "snli_ve", {"probe.batch_size": 5})
    monkeypatch.setattr(everything.data, "judge", judge)
    everything.evaluate()
    assert judged[1:] == [list(range(12))]


def test_a_model_that_generates_no_text_is_refused_before_it_is_trained(
    place: Path, process_group: ProcessGroup
) -> None:
    with pytest.raises(
        RecipeError, match="measured on generated text, and a CustomTextCLIP generates none; use a CoCa or a BLIP"
    ):
        assembled(place, process_group, "snli_ve", {}, model="clip")
