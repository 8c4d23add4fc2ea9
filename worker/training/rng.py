"""The state of every random number generator of this process: Python's, NumPy's and torch's, of CPU and device."""

import random
from typing import Any

import numpy as np
import torch


def state() -> dict[str, Any]:
    """What `restore` takes; plain values and tensors, so that it can be read back without running anything."""
    kind, keys, at, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), at, has_gauss, gauss],
        "torch": torch.get_rng_state(),
        "device": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def restore(saved: dict[str, Any]) -> None:
    """Go on drawing as the process that saved the state would have."""
    version, internal, gauss = saved["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = saved["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(saved["torch"])
    if saved["device"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(saved["device"])
