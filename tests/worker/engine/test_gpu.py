"""Training on a GPU."""

import json

import pytest
import torch

from tests.launch import launch


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, and torch finds none here")
def test_training_on_a_gpu_is_bf16_over_nccl_from_pinned_memory_with_fused_attention() -> None:
    process = launch("tests/worker/jobs/on_gpu.py")
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    (line,) = [line for line in output.splitlines() if "GPU " in line]
    assert json.loads(line.split("GPU ", 1)[1]) == {
        "backend": "nccl",
        "device": "cuda",
        "dtype": "torch.bfloat16",
        "pinned": True,
        "teachers alike": [True, True, True],
        "on the host": ["cpu"],
        "rolled back": True,
        "copied to": "cuda",
        "saved from": "cpu",
        "finite": True,
    }
