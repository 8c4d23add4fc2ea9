"""DeepSpeed's checkpoint files, written and read by our own rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address

from worker.engine import tensor_file


class CheckpointFiles(TorchCheckpointEngine):  # type: ignore[misc]
    """Flushes DeepSpeed's checkpoint files to the disk, and reads them without unpickling code.

    DeepSpeed's own reader unpickles anything. Besides tensors and plain values its files hold objects of the four
    ``classes`` below; a file with any other object is refused.

    Attributes:
        written: The files written so far.
    """

    classes = (ZeroStageEnum, LossScaler, DynamicLossScaler, fragment_address)

    def __init__(self) -> None:
        super().__init__()
        self.written: list[Path] = []

    def save(self, state_dict: Any, path: str) -> None:
        """Write one file; DeepSpeed calls this."""
        tensor_file.write(state_dict, Path(path))
        self.written.append(Path(path))

    def load(self, path: str, map_location: Any = None) -> Any:
        """Read one file; DeepSpeed calls this."""
        return tensor_file.read(Path(path), map_location, self.classes)
