# ruff: noqa: F401
"""What every rank imports that is not ours: `tests.ranks` has it imported once for all of them."""

import gc
import os

# DeepSpeed reads both as it is imported. The first is worker/__init__.py's, which a rank imports itself, as all that is
# ours; the second because a GPU that has been looked for cannot be used after a fork.
os.environ["DEEPSPEED_LOG_LEVEL"] = "warning"
os.environ["DS_ACCELERATOR"] = "cpu"

import deepspeed.runtime.zero.muon.muon_optimizer
import deepspeed.runtime.zero.stage3
import open_clip
import sklearn.datasets

# DeepSpeed collects garbage again and again. These are none, and looking through them takes a third of a second.
gc.freeze()
