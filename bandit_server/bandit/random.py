"""Counter-based random numbers: any replica draws the same numbers for the same choice."""

from __future__ import annotations

import hashlib

import numpy as np

_WORDS = np.dtype("<u8")


class Randomness:
    """The random numbers of every choice of a run: Philox (Salmon et al., SC 2011), keyed by seed, round and worker.

    Args:
        seed: The seed of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._philox = np.random.Philox(0)
        self._generator = np.random.Generator(self._philox)
        self._state = self._philox.state

    def at(self, worker: str, round: int) -> np.random.Generator:
        """Return a generator at the first random number of a choice. It is valid until the next call."""
        choice = f"{self.seed}/{round}/{worker}".encode()
        key = hashlib.blake2b(choice, digest_size=16).digest()
        # Setting the key is several times faster than making a generator.
        self._state["state"]["key"] = np.frombuffer(key, _WORDS)
        self._philox.state = self._state
        return self._generator
