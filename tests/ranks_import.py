# ruff: noqa: F401
"""The imports of every rank that are not ours: `tests.ranks` has them imported once for all ranks."""

import gc
import os

# DeepSpeed reads both when it is imported. The first is set as in worker/__init__.py, which every rank imports itself.
# The second keeps DeepSpeed from looking for a GPU, which could not be used after a fork.
os.environ["DEEPSPEED_LOG_LEVEL"] = "warning"
os.environ["DS_ACCELERATOR"] = "cpu"

import deepspeed.runtime.zero.muon.muon_optimizer
import deepspeed.runtime.zero.stage3
import open_clip
import sklearn.datasets

# DeepSpeed collects garbage again and again; without this, each collection would take a third of a second.
gc.freeze()
