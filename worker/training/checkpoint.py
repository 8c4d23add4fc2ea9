"""Checkpoints: written atomically, the last few kept, and read only if complete.

    checkpoints/
      round-000012-step-0003/   the round to continue, and how many of its steps are done
        engine/                 DeepSpeed's files, with the loop's state in them
        rank-00000.pt           the state of one rank: random numbers, the copy for a rollback
        complete.json           written last: size and SHA-256 of every file, and whose checkpoint it is
      draft/                    the checkpoint being written; a killed process leaves it behind

The files are flushed to the disk before ``complete.json`` is written, and that before the directory is renamed: after a
kill or a power cut at any moment, the previous checkpoint is there. All ranks must see the same directory. Nothing in
it is unpickled as code: only tensors, plain values and four classes of DeepSpeed are read
(worker/engine/checkpoint_files.py).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from worker.engine import tensor_file
from worker.engine.engine import Engine
from worker.engine.process_group import ProcessGroup
from worker.errors import CheckpointError
from worker.files import sync_directory
from worker.recipe.sections import CheckpointRecipe
from worker.training import rng
from worker.training.loop_state import LoopState

LARGEST_SHARE = 0.02
"""Share of a job's time that regular checkpoints may take."""
MARK = "complete.json"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Mark:
    """The content of complete.json.

    Attributes:
        run: The run's name.
        worker: The worker's id.
        ranks: The number of ranks of the job; only a job with as many can continue.
        files: Size in bytes and SHA-256 by path within the checkpoint.
    """

    run: str
    worker: str
    ranks: int
    files: dict[str, tuple[int, str]]


@dataclass
class Checkpoints:
    """The checkpoints of one worker.

    Attributes:
        directory: Where they are; created with the first one.
        recipe: When to write, and how many to keep.
        process_group: The job's ranks, which save and load together.
        run: The run's name.
        worker: The worker's id.
    """

    directory: Path
    recipe: CheckpointRecipe
    process_group: ProcessGroup
    run: str
    worker: str

    def __post_init__(self) -> None:
        self._next = time.monotonic() + self.recipe.every_seconds

    @property
    def due(self) -> bool:
        """Whether it is time for another checkpoint, by this process's clock."""
        return time.monotonic() >= self._next

    def save(self, engine: Engine, state: LoopState) -> None:
        """Write a checkpoint and remove the oldest beyond the recipe's number; collective.

        Raises:
            CheckpointError: It cannot be written, for example because the disk is full.
        """
        began = time.monotonic()
        try:
            self._save(engine, state)
        except OSError as error:
            raise CheckpointError(
                f"cannot write a checkpoint to {self.directory}: {error.strerror or error}; the previous one is intact"
            ) from error
        # On a slow disk checkpoints are rarer.
        cost = time.monotonic() - began
        wait = max(self.recipe.every_seconds, cost / LARGEST_SHARE) if self.recipe.every_seconds else 0.0
        self._next = time.monotonic() + wait

    def load(self, engine: Engine, name: str, ranks: int) -> LoopState:
        """Load a checkpoint into the engine and return the loop's state; collective, before the first forward pass.

        Args:
            engine: A new engine of the same recipe.
            name: The checkpoint's name, from `newest`.
            ranks: The number of ranks that wrote it.

        Raises:
            CheckpointError: The number of ranks has changed, or a file holds objects that no checkpoint does.
        """
        if ranks != self.process_group.world_size:
            raise CheckpointError(
                f"the checkpoint {self.directory / name} is of {ranks} rank(s), and this job has "
                f"{self.process_group.world_size}: launch it with --num_accelerators {ranks}"
            )
        common = engine.load(self.directory / name / "engine")
        state = LoopState.from_saved(common, tensor_file.read(self.directory / name / self._rank_file))
        device = self.process_group.device
        state.rows = [{term: value.to(device) for term, value in row.items()} for row in state.rows]
        return state

    @property
    def _rank_file(self) -> str:
        return f"rank-{self.process_group.rank:05d}.pt"

    def _save(self, engine: Engine, state: LoopState) -> None:
        draft = self.directory / "draft"
        if self.process_group.is_rank0:
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
        self.process_group.barrier()
        state.random = rng.state()
        rank_file = draft / self._rank_file
        tensor_file.write(state.of_rank(), rank_file)
        written = [rank_file, *engine.save(draft / "engine", state.common())]
        local = {path.relative_to(draft).as_posix(): (path.stat().st_size, _digest(path)) for path in written}
        files = {
            name: entry for entries in self.process_group.all_gather_objects(local) for name, entry in entries.items()
        }
        if self.process_group.is_rank0:
            _write_mark(draft, Mark(self.run, self.worker, self.process_group.world_size, files))
            final = self.directory / f"round-{state.round:06d}-step-{state.step:04d}"
            shutil.rmtree(final, ignore_errors=True)
            draft.rename(final)
            sync_directory(self.directory)
            for old in _newest_first(self.directory)[self.recipe.keep :]:
                shutil.rmtree(old, ignore_errors=True)
        self.process_group.barrier()


def newest(directory: Path) -> tuple[str, Mark] | None:
    """Return name and mark of the newest complete checkpoint; remove damaged newer ones, with a warning each.

    Called on rank 0, before all ranks load.
    """
    for path in _newest_first(directory):
        try:
            return path.name, _checked(path)
        except CheckpointError as error:
            log.warning(
                "the damaged checkpoint %s is not used: %s; it is removed, and the one before it is tried", path, error
            )
            # If it stayed, it would count as one of the last few and displace a complete one.
            shutil.rmtree(path, ignore_errors=True)
    return None


def _newest_first(directory: Path) -> list[Path]:
    """Return the checkpoints, the newest first."""
    return sorted(directory.glob("round-*-step-*"), reverse=True)


def _checked(path: Path) -> Mark:
    """Return a checkpoint's mark, after checking all files; raise CheckpointError if one is missing or damaged."""
    try:
        mark = Mark(**json.loads((path / MARK).read_text(encoding="utf-8")))
        for name, (size, digest) in mark.files.items():
            actual = (path / name).stat().st_size
            if actual != size:
                raise CheckpointError(f"{name} has {actual} bytes instead of {size}")
            if _digest(path / name) != digest:
                raise CheckpointError(f"{name} is damaged")
    except FileNotFoundError as error:
        raise CheckpointError(f"{Path(error.filename).name} is missing") from None
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"it cannot be read ({error})") from None
    return mark


def _write_mark(draft: Path, mark: Mark) -> None:
    """Write the mark, and flush it and the directories to the disk."""
    with (draft / MARK).open("w", encoding="utf-8") as file:
        json.dump(asdict(mark), file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    for directory in (draft / "engine", draft):
        sync_directory(directory)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
