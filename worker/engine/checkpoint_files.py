"""DeepSpeed's own checkpoint files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address

from worker.engine import tensor_file


class CheckpointFiles(TorchCheckpointEngine):  # type: ignore[misc]
    """How DeepSpeed's checkpoint files are written and read: through to the disk, and without unpickling code.

    DeepSpeed's own reader unpickles whatever a file holds. Beside tensors and plain values its files hold objects of
    the four classes below, and nothing else is read.
    """

    classes = (ZeroStageEnum, LossScaler, DynamicLossScaler, fragment_address)

    def __init__(self) -> None:
        super().__init__()
        self.written: list[Path] = []

    def save(self, state_dict: Any, path: str) -> None:
        tensor_file.write(state_dict, Path(path))
        self.written.append(Path(path))

    def load(self, path: str, map_location: Any = None) -> Any:
        return tensor_file.read(Path(path), map_location, self.classes)
