"""Models that bring their own code run it only if the recipe says so, and their students bring it too."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.worker.models.test_cut_hf import grouped
from worker.errors import RecipeError
from worker.models.sources import load

CODE = {
    "configuration_own.py": '''
from transformers import PretrainedConfig

class OwnConfig(PretrainedConfig):
    model_type = "optima_own"

    def __init__(self, vocab_size=12, hidden_size=8, num_hidden_layers=4, pad_token_id=0, **kwargs):
        self.vocab_size, self.hidden_size, self.num_hidden_layers = vocab_size, hidden_size, num_hidden_layers
        super().__init__(pad_token_id=pad_token_id, **kwargs)
''',
    "layers_own.py": '''
from torch import nn

class Layer(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.mix = nn.Linear(width, width)

    def forward(self, hidden):
        return hidden + self.mix(hidden).tanh()
''',
    "modeling_own.py": '''
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from .configuration_own import OwnConfig
from .layers_own import Layer

class OwnModel(PreTrainedModel):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config.hidden_size) for _ in range(config.num_hidden_layers))
        self.post_init()

    def forward(self, input_ids):
        hidden = self.embed(input_ids)
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden

class OwnForCausalLM(PreTrainedModel):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.model = OwnModel(config)
        self.head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids, **kwargs):
        return CausalLMOutput(logits=self.head(self.model(input_ids)))
''',
}  # fmt: skip
CONFIG = {
    "model_type": "optima_own",
    "architectures": ["OwnForCausalLM"],
    "auto_map": {
        "AutoConfig": "configuration_own.OwnConfig",
        "AutoModel": "modeling_own.OwnModel",
        "AutoModelForCausalLM": "modeling_own.OwnForCausalLM",
    },
}
TOKENS = torch.arange(1, 9)[None]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a model and its code; what transformers copies of it goes to a directory of the test."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    place = tmp_path / "own"
    place.mkdir()
    for name, text in CODE.items():
        (place / name).write_text(text)
    (place / "config.json").write_text(json.dumps(CONFIG))
    torch.manual_seed(0)
    kind: Any = transformers.AutoModelForCausalLM
    model = kind.from_config(
        transformers.AutoConfig.from_pretrained(place, trust_remote_code=True), trust_remote_code=True
    )
    model.save_pretrained(place)
    return place


def test_own_code_runs_only_on_request_and_goes_with_the_student(place: Path, tmp_path: Path) -> None:
    written = json.loads((place / "config.json").read_text())["auto_map"]
    with pytest.raises(
        RecipeError, match=r"runs code of its own \(configuration_own\.py, modeling_own\.py\); read it,"
    ):
        load("hf:own", directory=tmp_path)
    for value in (False, None):
        with pytest.raises(RecipeError, match=r"`options: \{trust_remote_code: true\}`"):
            load("hf:own", directory=tmp_path, options={"trust_remote_code": value})
    trusted = {"trust_remote_code": True}
    teacher: Any = load("hf:own", directory=tmp_path, options=trusted)
    assert type(teacher.model).__name__ == "OwnForCausalLM"
    assert teacher.inputs().within == trusted, "tokenizers may have code of their own too"
    student = teacher.cut({"stack": 3}, grouped({"stack": "model.layers"}))
    student.check_export()
    student.export(student.model.state_dict(), tmp_path / "out")
    assert CODE.keys() <= {path.name for path in (tmp_path / "out").iterdir()}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["auto_map"] == written == CONFIG["auto_map"]
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=True)
    assert torch.equal(loaded(TOKENS).logits, student.model(TOKENS).logits)
    assert len(loaded.model.layers) == 3
    # A student of a class that no name in the configuration says is the one for training.
    content = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**content, "architectures": None}))
    again: Any = load("hf:own", directory=tmp_path, options=trusted, role="student")
    assert type(again.model).__name__ == "OwnForCausalLM"


def test_a_model_of_transformers_with_code_beside_it_needs_no_trust(tmp_path: Path) -> None:
    config = transformers.GPT2Config(vocab_size=12, n_embd=8, n_layer=1, n_head=1, n_positions=8)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "writer")
    content = json.loads((tmp_path / "writer" / "config.json").read_text())
    content["auto_map"] = {"AutoModelForCausalLM": "modeling_other.Other"}
    (tmp_path / "writer" / "config.json").write_text(json.dumps(content))
    assert isinstance(load("hf:writer", directory=tmp_path).model, transformers.GPT2LMHeadModel)
