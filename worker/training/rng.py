"""The states of all random number generators of this process: Python's, NumPy's and torch's, on CPU and device."""

import random
from typing import Any

import numpy as np
import torch


def state() -> dict[str, Any]:
    """Return the states, for `restore`: plain values and tensors, so that they can be read without unpickling code."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss],
        "torch": torch.get_rng_state(),
        "device": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def restore(saved: dict[str, Any]) -> None:
    """Set all generators to saved states: they draw what the saving process would have drawn next."""
    version, internal, gauss = saved["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = saved["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(saved["torch"])
    if saved["device"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(saved["device"])
