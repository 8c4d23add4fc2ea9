"""The paper's own models, whole: CoCa-Large of 639 million parameters, and its student of 12 layers, on a CPU.

Not part of ``make test``: it takes minutes, and 12 GB of memory.

    python -m pytest -m slow tests/integration/test_full_size.py -s
"""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from tests.job import Job
from tests.launch import ROOT
from tests.worker.data.tasks.published import write_all

RECIPE = ROOT / "deploy" / "recipes" / "coca_l14_to_tiny12.yaml"
SMALL = {
    # Random weights have the same size, and nothing is downloaded.
    "teacher.model": "open_clip:coca_ViT-L-14",
    "teacher.weights": "random",
    "data.options.folder": "datasets",
    "data.batch_size": 2,
    "data.workers": 0,
    "probe": "{batches: 1, batch_size: 2, evaluate_every: 1, questions: 2}",
    "steps": 0,
    "rounds": 1,
    "steps_per_round": 2,
    # On a CPU bf16 is slower than fp32.
    "teacher.dtype": "fp32",
    "deepspeed": "{zero_optimization: {stage: 0}}",
    "tracking": "{}",
    # With random weights a caption has no end.
    "data.options.most": 3,
}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_papers_recipe_plays_a_round_at_full_size(address: str, tmp_path: Path) -> None:
    write_all(tmp_path / "job" / "datasets")
    flags = [part for field, value in SMALL.items() for part in ("--set", f"{field}={value}")]
    job = Job(tmp_path / "job", address, *flags, recipe=RECIPE.read_text(encoding="utf-8"))
    try:
        job.wait(seconds=1500)
    finally:
        job.close()
    print(job.log_text)
    records, summary = job.records(), job.summary()
    assert [record["steps"] for record in records] == [2]
    assert records[0]["arm"] in {"image", "text", "multimodal"}
    assert records[0]["after"] > 0
    assert set(summary["teacher_metrics"]) == set(summary["metrics_end"]) == {"cider", "bleu_4"}
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"{summary['seconds']:.0f} s, at most {peak:.1f} GB")
    assert peak < 12
