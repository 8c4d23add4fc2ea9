"""DeepSpeed's monitors: TensorBoard, W&B and CSV files."""

from __future__ import annotations

from typing import Any


def create_monitor(name: str, config: dict[str, Any]) -> Any:
    """Create a monitor: an object whose ``write_events`` takes a list of (curve, value, step).

    Args:
        name: ``tensorboard``, ``wandb`` or ``csv``.
        config: The monitor's section of DeepSpeed's configuration.

    Raises:
        ImportError: The monitor's package is not installed.
    """
    # Imported here because the packages are optional.
    from deepspeed.monitor.config import get_monitor_config
    from deepspeed.monitor.csv_monitor import csvMonitor
    from deepspeed.monitor.tensorboard import TensorBoardMonitor
    from deepspeed.monitor.wandb import WandbMonitor

    settings = get_monitor_config({"csv_monitor" if name == "csv" else name: {"enabled": True, **config}})
    if name == "csv":
        return csvMonitor(settings.csv_monitor)
    return TensorBoardMonitor(settings.tensorboard) if name == "tensorboard" else WandbMonitor(settings.wandb)
