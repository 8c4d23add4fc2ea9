"""DeepSpeed's monitors: TensorBoard, W&B and CSV files."""

from __future__ import annotations

from typing import Any


def monitor(name: str, config: dict[str, Any]) -> Any:
    """Make a monitor: an object whose ``write_events`` takes a list of (curve, value, step).

    Args:
        name: ``tensorboard``, ``wandb`` or ``csv``.
        config: Its section of DeepSpeed's configuration.

    Raises:
        ImportError: The monitor's package is not installed.
    """
    # Imported here: the packages are optional.
    from deepspeed.monitor.config import get_monitor_config
    from deepspeed.monitor.csv_monitor import csvMonitor
    from deepspeed.monitor.tensorboard import TensorBoardMonitor
    from deepspeed.monitor.wandb import WandbMonitor

    settings = get_monitor_config({"csv_monitor" if name == "csv" else name: {"enabled": True, **config}})
    if name == "csv":
        return csvMonitor(settings.csv_monitor)
    return TensorBoardMonitor(settings.tensorboard) if name == "tensorboard" else WandbMonitor(settings.wandb)
