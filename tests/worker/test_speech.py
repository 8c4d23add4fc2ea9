"""The recipe of docs/speech.md works as it stands, with a small teacher and tones in the place of speech."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from benchmarks.speech.corpus import RATE, write_wave
from benchmarks.speech.teacher import make_model, make_processor
from tests.launch import ROOT
from tests.ranks import RankProcesses
from worker.engine.process_group import ProcessGroup
from worker.recipe.recipe import read_recipe
from worker.setup.build import build
from worker.setup.models import load_models

pytestmark = pytest.mark.deepspeed

PAGE = (ROOT / "docs" / "speech.md").read_text(encoding="utf-8")
RECIPES = dict(re.findall(r"^```yaml\n# (\S+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
WORDS = {"en": ["one", "two", "three"], "de": ["eins", "zwei", "drei"]}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reader's directory: recipe, teacher, and a corpus in which every word is a tone."""
    place = tmp_path_factory.mktemp("speech")
    for name, content in RECIPES.items():
        (place / name).write_text(content, encoding="utf-8")
    (place / "corpus").mkdir()
    generator = np.random.default_rng(0)
    times = np.arange(RATE // 3) / RATE
    for split, count in (("train", 12), ("held-out", 8)):
        lines = []
        for number in range(count):
            language = ("en", "de")[number % 2]
            said = generator.integers(3, size=2 + number % 3)
            tones = [np.sin(2 * np.pi * (300 + 200 * word + 900 * (language == "de")) * times) for word in said]
            write_wave(place / "corpus" / f"{split}-{number}.wav", 0.5 * np.concatenate(tones).astype(np.float32))
            text = " ".join(WORDS[language][word] for word in said)
            lines.append(f"{split}-{number}.wav\t{language}\t{text}\n")
        (place / "corpus" / f"{split}.tsv").write_text("".join(lines), encoding="utf-8")
    torch.manual_seed(0)
    processor = make_processor([" ".join(words) for words in WORDS.values()])
    model = make_model(processor, width=16, layers=4)
    model.generation_config.num_beams, model.generation_config.alignment_heads = 2, [[1, 0], [2, 0]]
    processor.save_pretrained(place / "teacher")
    model.save_pretrained(place / "teacher")
    return place


def test_a_frozen_encoder_that_is_kept_makes_forced_active_and_joint_rounds_the_same(
    process_group: ProcessGroup, here: Path
) -> None:
    """The decoder's loss has the same terms, values and gradients; only ``forced`` computes no encoder twice."""
    losses, plans = [], []
    for mode, arm in (("forced", "decoder"), ("active", "decoder"), ("active", "joint")):
        recipe = read_recipe(here / "speech.yaml", {"train": mode, "data.batch_size": 4})
        components = build(recipe, load_models(recipe), process_group)
        assert list(components.models.arms) == ["decoder"]
        plan = components.plan(arm)
        components.engine.activate(plan.trained)
        batch = components.engine.to_device(next(components.batches(recipe.data)))
        loss, terms = components.engine.rehearse([(batch, components.teacher.run(plan.teacher, batch))], plan)
        assert {name for name, value in terms.items() if float(value)} == {"task/tokens", "logits/kl", "layers/decoder"}
        losses.append(float(loss))
        plans.append(plan)
    assert losses[1:] == [losses[0]] * 2
    assert plans[0].student == ("decoder",)
    assert plans[1].student == ("encoder", "decoder")


def test_a_real_job_cuts_the_decoder_and_leaves_the_encoder_as_it_is(here: Path, address: str) -> None:
    process = RankProcesses(
        str(ROOT / "worker" / "train.py"),
        "--bandit-addr", address, "--recipe", "speech.yaml", "--output-dir", "out",
        "--rounds", "2", "--steps-per-round", "2", "--set", "data.batch_size=4",
        "--set", "probe={batches: 1, batch_size: 4, evaluate_every: 2, questions: 4}",
        log=here / "log", directory=here, environment={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.wait(200) == 0, process.log_text
    assert "no arm encoder: all parameters of encoder are frozen" in process.log_text
    summary = json.loads((here / "out" / "summary.json").read_text(encoding="utf-8"))
    assert summary["pulls"] == {"decoder": 2}
    assert 0 <= summary["metrics_end"]["accuracy"] <= 1

    library: Any = transformers
    teacher, student = (
        library.WhisperForConditionalGeneration.from_pretrained(here / name) for name in ("teacher", "out")
    )
    for ours, theirs in zip(student.get_encoder().parameters(), teacher.get_encoder().parameters(), strict=True):
        assert torch.equal(ours, theirs)
    cut, whole = student.get_decoder(), teacher.get_decoder()
    assert (len(cut.layers), len(whole.layers)) == (2, 4)
    for ours, theirs in zip(cut.layers, whole.layers[1::2], strict=True):
        assert not torch.equal(ours.fc1.weight, theirs.fc1.weight)
        assert torch.allclose(ours.fc1.weight, theirs.fc1.weight, atol=0.05)
    assert student.proj_out.weight is cut.embed_tokens.weight

    settings: Any = student.generation_config
    assert settings.lang_to_id == teacher.generation_config.lang_to_id
    assert (settings.num_beams, settings.alignment_heads) == (2, [[0, 0]])
    processor: Any = transformers.WhisperProcessor.from_pretrained(here / "out")
    features = processor.feature_extractor(np.zeros(RATE), sampling_rate=RATE, return_tensors="pt").input_features
    number = processor.tokenizer.convert_tokens_to_ids
    for language in ("en", "de"):
        tokens = student.generate(features, language=language, task="transcribe", return_dict_in_generate=True)
        prompt = ["<|startoftranscript|>", f"<|{language}|>", "<|transcribe|>", "<|notimestamps|>"]
        assert tokens["sequences"][0, :4].tolist() == number(prompt)
    with pytest.raises(ValueError, match="fr"):
        student.generate(features, language="fr", task="transcribe")
