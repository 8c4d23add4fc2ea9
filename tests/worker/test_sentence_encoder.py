"""The page docs/sentence-encoder.md works as it stands, with a small teacher in the place of the real one.

Its files are written out, its recipe passes the dry run in every mode, and a real job distils a student that
sentence-transformers loads.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer

from tests.launch import ROOT
from tests.ranks import RankProcesses
from worker.distill.losses import normalised_mse
from worker.distill.objective import LossWeights, Objective
from worker.distill.plan import Planner
from worker.engine.process_group import ProcessGroup
from worker.errors import RecipeError
from worker.recipe.recipe import read_recipe
from worker.setup.build import build
from worker.setup.dry_run import report
from worker.setup.models import load_models
from worker.setup.shape_check import Widths, compare_shapes

pytestmark = pytest.mark.deepspeed

PAGE = (ROOT / "docs" / "sentence-encoder.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^```(?:python|yaml)\n# (\S+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
WORDS = ["a", "the", "file", "line", "reads", "writes", "returns", "every", "name", "of", "in", "to", "without"]
MODES = ("forced", "active", "all")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The reader's directory, with a small teacher and texts; the current one."""
    place = tmp_path_factory.mktemp("encoder")
    for name, content in FILES.items():
        (place / name).write_text(content, encoding="utf-8")
    _write_teacher(place / "all-MiniLM-L6-v2")
    generator = torch.Generator().manual_seed(0)
    (place / "texts").mkdir()
    for name, count in (("train", 60), ("held-out", 30)):
        rows = [torch.randint(len(WORDS), (2 + index % 7,), generator=generator).tolist() for index in range(count)]
        lines = [" ".join(WORDS[word] for word in row) for row in rows]
        (place / "texts" / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.syspath_prepend(str(place))
        yield place
    sys.modules.pop("sentence_loss", None)


def _write_teacher(directory: Path) -> None:
    """Write a model of the teacher's kind and layout, with random weights."""
    (directory / "1_Pooling").mkdir(parents=True)
    vocabulary = directory / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]), encoding="utf-8")
    transformers.BertTokenizer(str(vocabulary)).save_pretrained(directory)
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=6,
                                     num_attention_heads=2, max_position_embeddings=32,
                                     initializer_range=0.3)  # fmt: skip
    transformers.BertModel(config).save_pretrained(directory)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    files = {
        "modules.json": [
            {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for index, (path, kind) in enumerate(modules)
        ],
        "sentence_bert_config.json": {"max_seq_length": 16, "do_lower_case": False},
        "1_Pooling/config.json": {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True},
    }
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize("mode", MODES)
def test_layers_alone_are_trained_in_every_mode(process_group: ProcessGroup, here: Path, mode: str) -> None:
    """Without logits and losses; as ``--dry-run`` does."""
    recipe = read_recipe(here / "encoder.yaml", {"train": mode})
    models = load_models(recipe)
    components = build(recipe, models, process_group)
    checks = {check.arm: check for check in components.dry_run.check_arms(repeats=0)}
    assert list(checks) == ["lower", "middle", "upper", "joint"]
    for arm in ("lower", "middle", "upper"):
        assert checks[arm].terms == (f"layers/{arm}",)
    assert checks["joint"].terms == ("layers/lower", "layers/middle", "layers/upper")
    assert [layer.teacher for layer in checks["joint"].layers] == [f"encoder.layer.{number}" for number in (1, 3, 5)]
    text = report(models, list(checks.values()))
    assert "loss           layers/lower, layers/middle, layers/upper" in text
    # Mean pooling reads nothing of BERT's own pooler.
    assert checks["upper"].silent == ("pooler.dense.weight", "pooler.dense.bias")
    recipe = recipe.fixed(steps_per_round=1, probe_batches=1, evaluate_every=1)
    probe = components.probe(recipe.probe.model_copy(update={"batch_size": 4, "questions": 4}))
    assert probe.teacher_metrics() == {}
    evaluation = probe.evaluate()
    assert evaluation.metrics == {}
    assert evaluation.total_loss == pytest.approx(sum(evaluation.terms.values()))


def test_the_sentence_is_compared_beside_the_tokens_and_padding_is_not(here: Path) -> None:
    from sentence_loss import tokens_and_sentence  # type: ignore[import-not-found]

    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 5, 4, generator=generator)
    mask = torch.tensor([[1, 1, 0, 0, 0], [1] * 5, [1, 1, 1, 0, 0]]).bool()
    loss = tokens_and_sentence(student, teacher, mask)
    means = [
        torch.stack([row[kept].mean(0) for row, kept in zip(rows, mask, strict=True)]) for rows in (student, teacher)
    ]
    tokens = (student - teacher)[mask].square().sum() / teacher[mask].square().sum()
    assert torch.allclose(loss, tokens + (1 - torch.cosine_similarity(means[0], means[1])).mean())
    assert tokens_and_sentence(teacher, teacher, mask).abs() < 1e-6


def test_outputs_are_compared_by_their_names(here: Path) -> None:
    """``matched`` in a recipe names what the forward pass returns; what is pooled has no padding."""
    upper = {"path": ["encoder.layer.2", "pooler"], "layers": "encoder.layer.2",
             "teacher_path": ["encoder.layer.[345]", "pooler"], "teacher_layers": "encoder.layer.[345]",
             "matched": ["last_hidden_state", "pooler_output"], "mask": "attention_mask"}  # fmt: skip
    lower = {"path": ["embeddings", "encoder.layer.[01]"], "layers": "encoder.layer.[01]",
             "teacher_path": ["embeddings", "encoder.layer.[012]"],
             "teacher_layers": "encoder.layer.[012]"}  # fmt: skip
    overrides = {"train": "active", "loss": {}, "modules": {"lower": lower, "upper": upper},
                 "student.keep": {"lower": 2, "upper": 1}}  # fmt: skip
    models = load_models(read_recipe(here / "encoder.yaml", overrides))
    batch = {
        "input_ids": torch.tensor([[2, 5, 6, 3], [2, 7, 3, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
    }
    objective = Objective(models.adapter, models.pairs, LossWeights())
    assert compare_shapes(models, batch, forced=False, objective=objective) == Widths()
    with torch.no_grad():
        student, teacher = (modular.run(["upper"], batch) for modular in (models.student, models.teacher))
    plan = Planner(models.adapter.modules, "model", "active").arm(["upper"])
    terms = objective.terms(plan, models.student.model, student, teacher, batch)
    mask = batch["attention_mask"].bool()
    pairs = [(student.hidden["encoder.layer.2"], teacher.hidden["encoder.layer.5"], mask)]
    ours, theirs = student.boundary["upper"], teacher.boundary["upper"]
    pairs += [(ours["last_hidden_state"], theirs["last_hidden_state"], mask)]
    expected = [
        *(normalised_mse(*pair) for pair in pairs),
        normalised_mse(ours["pooler_output"], theirs["pooler_output"], None),
    ]
    assert torch.allclose(terms["layers/upper"], torch.stack(expected).mean())
    upper["matched"] = ["pooled_output"]
    models = load_models(read_recipe(here / "encoder.yaml", overrides))
    with pytest.raises(
        RecipeError,
        match="`matched` of a module names 'pooled_output', which the forward pass of BertModel does not return; did "
        "you mean 'pooler_output'",
    ):
        compare_shapes(models, batch, forced=False)


def test_a_real_job_distils_a_student_that_sentence_transformers_loads(here: Path, address: str) -> None:
    process = RankProcesses(
        str(ROOT / "worker" / "train.py"),
        "--bandit-addr", address, "--recipe", "encoder.yaml", "--output-dir", "out",
        "--rounds", "3", "--steps-per-round", "2", "--set", "data.batch_size=4",
        "--set", "probe={batches: 1, batch_size: 4, evaluate_every: 3}",
        log=here / "log", directory=here, environment={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.wait(200) == 0, process.log_text
    assert re.search(r"^run \S+: student before training total loss \d\.\d{4}$", process.log_text, re.MULTILINE)
    assert process.log_text.count("returns neither logits nor a loss, so only layers are compared") == 1
    assert "loss: layers/lower, layers/middle, layers/upper\n" in process.log_text
    summary = json.loads((here / "out" / "summary.json").read_text(encoding="utf-8"))
    assert summary["metrics_end"] == {}
    student, teacher = (SentenceTransformer(str(here / name), device="cpu") for name in ("out", "all-MiniLM-L6-v2"))
    assert [type(module).__name__ for module in student] == ["Transformer", "Pooling", "Normalize"]
    inner: Any = student[0].auto_model
    assert len(inner.encoder.layer) == 3
    assert student.max_seq_length == teacher.max_seq_length == 16
    # What it computes is the mean over the tokens of the exported model's own hidden states, normalised.
    bare: Any = transformers.BertModel.from_pretrained(here / "out")
    bare.eval()
    tokens = transformers.AutoTokenizer.from_pretrained(here / "out")("the file reads a line", return_tensors="pt")
    with torch.no_grad():
        expected = torch.nn.functional.normalize(bare(**tokens).last_hidden_state.mean(1), dim=-1)
    vectors = student.encode(["the file reads a line", "a"], convert_to_tensor=True, show_progress_bar=False)
    assert torch.allclose(vectors[:1], expected, atol=1e-6)
