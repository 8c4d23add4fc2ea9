"""Counter-based randomness: whoever asks about the same choice, on any machine, gets the same numbers."""

from __future__ import annotations

import hashlib

import numpy as np


def generator(seed: int, worker: str, round: int, purpose: str) -> np.random.Generator:
    """The random numbers of one choice: Philox (Salmon et al., SC 2011), keyed by everything that names the choice.

    Args:
        seed: The run's.
        worker: Who asks.
        round: Its round.
        purpose: Tells several uses within one choice apart.
    """
    named = f"{seed}/{worker}/{round}/{purpose}".encode()
    key = np.frombuffer(hashlib.blake2b(named, digest_size=16).digest(), dtype="<u8")
    return np.random.Generator(np.random.Philox(key=key))
