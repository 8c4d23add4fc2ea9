"""Checkpoints: whole or not there at all, the last few kept, and only what is whole is ever read.

    checkpoints/
      round-000012-step-0003/   the round to go on with, and how many of its steps are taken
        engine/                 DeepSpeed's files, with the loop's state in them
        rank-00000.pt           what one rank alone knows: random numbers, the round's start
        complete.json           written last: size and SHA-256 of every file, and whose checkpoint it is
      draft/                    the one that is being written; a killed process leaves it behind

The files are on the disk before ``complete.json`` is, and that is before the folder gets its name: whatever moment a
kill or a power cut comes at, the one before is there. All ranks must see the same folder. Nothing in it is unpickled as
code: tensors, plain values and four classes of DeepSpeed are read, nothing else (worker/engine/checkpoint_files.py).
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
from worker.engine.process_group import Ranks
from worker.errors import CheckpointError
from worker.files import sync_directory
from worker.recipe.sections import CheckpointRecipe
from worker.training import rng as randomness
from worker.training.loop_state import LoopState

LARGEST_SHARE = 0.02
"""Of a job's time that regular checkpoints may take."""
MARK = "complete.json"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Mark:
    """What a whole checkpoint says of itself.

    Attributes:
        run: The run's name.
        worker: The worker's id.
        ranks: Processes of the job; only as many can go on.
        files: Size in bytes and SHA-256 by path within the checkpoint.
    """

    run: str
    worker: str
    ranks: int
    files: dict[str, tuple[int, str]]


@dataclass
class Checkpoints:
    """One worker's checkpoints.

    Attributes:
        directory: Where they are; made with the first one.
        recipe: When to write, and how many to keep.
        ranks: The job's processes, who save and load together.
    """

    directory: Path
    recipe: CheckpointRecipe
    ranks: Ranks
    run: str
    worker: str

    def __post_init__(self) -> None:
        self._next = time.monotonic() + self.recipe.every_seconds

    @property
    def due(self) -> bool:
        """Whether, by this process's clock, it is time for another one."""
        return time.monotonic() >= self._next

    def save(self, engine: Engine, state: LoopState) -> None:
        """Write a checkpoint and remove those that are too many; collective.

        Raises:
            CheckpointError: It cannot be written, for example because the disk is full.
        """
        began = time.monotonic()
        try:
            self._save(engine, state)
        except OSError as error:
            raise CheckpointError(
                f"no checkpoint can be written to {self.directory}: {error.strerror or error}; the one before is intact"
            ) from error
        # A slow disk makes them rarer.
        cost = time.monotonic() - began
        wait = max(self.recipe.every_seconds, cost / LARGEST_SHARE) if self.recipe.every_seconds else 0.0
        self._next = time.monotonic() + wait

    def load(self, engine: Engine, name: str, ranks: int) -> LoopState:
        """Take up the checkpoint of that name, written by so many ranks; collective, before the first forward pass.

        Raises:
            CheckpointError: There are more or fewer ranks now, or a file holds what none of ours would.
        """
        if ranks != self.ranks.world:
            raise CheckpointError(
                f"the checkpoint {self.directory / name} is of {ranks} rank(s), and only so many can go on with it; "
                f"now there are {self.ranks.world} (launch it with --num_accelerators {ranks})"
            )
        common = engine.load(self.directory / name / "engine")
        state = LoopState.of(common, tensor_file.read(self.directory / name / self._own_file))
        state.rows = [{term: value.to(self.ranks.device) for term, value in row.items()} for row in state.rows]
        return state

    @property
    def _own_file(self) -> str:
        return f"rank-{self.ranks.rank:05d}.pt"

    def _save(self, engine: Engine, state: LoopState) -> None:
        draft = self.directory / "draft"
        if self.ranks.rank == 0:
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
        self.ranks.wait()
        state.random = randomness.state()
        own = draft / self._own_file
        tensor_file.write(state.own(), own)
        written = [own, *engine.save(draft / "engine", state.common())]
        mine = {path.relative_to(draft).as_posix(): (path.stat().st_size, _digest(path)) for path in written}
        everyones = {name: found for files in self.ranks.collect(mine) for name, found in files.items()}
        if self.ranks.rank == 0:
            _finish(draft, Mark(self.run, self.worker, self.ranks.world, everyones))
            whole = self.directory / f"round-{state.round:06d}-step-{state.step:04d}"
            shutil.rmtree(whole, ignore_errors=True)
            draft.rename(whole)
            sync_directory(self.directory)
            for old in _all(self.directory)[self.recipe.keep :]:
                shutil.rmtree(old, ignore_errors=True)
        self.ranks.wait()


def newest(directory: Path) -> tuple[str, Mark] | None:
    """Name and mark of the newest checkpoint that is whole; damaged newer ones are removed, with a word each.

    For the rank that leads, before the others load.
    """
    for path in _all(directory):
        try:
            return path.name, _checked(path)
        except CheckpointError as error:
            log.warning("the checkpoint %s is not used: %s; the one before it is", path, error)
            # Left where it is, it would count as one of the last few, and crowd out a whole one.
            shutil.rmtree(path, ignore_errors=True)
    return None


def _all(directory: Path) -> list[Path]:
    """The checkpoints, the newest first."""
    return sorted(directory.glob("round-*-step-*"), reverse=True)


def _checked(path: Path) -> Mark:
    """The mark of a checkpoint whose files are what it says. Raises CheckpointError, saying what is wrong."""
    try:
        mark = Mark(**json.loads((path / MARK).read_text(encoding="utf-8")))
        for name, (size, digest) in mark.files.items():
            found = (path / name).stat().st_size
            if found != size:
                raise CheckpointError(f"{name} has {found} bytes instead of {size}")
            if _digest(path / name) != digest:
                raise CheckpointError(f"{name} is damaged")
    except FileNotFoundError as error:
        raise CheckpointError(f"{Path(error.filename).name} is missing") from None
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"it cannot be read ({error})") from None
    return mark


def _finish(draft: Path, mark: Mark) -> None:
    """Write the mark, and see to it that everything is on the disk."""
    with (draft / MARK).open("w", encoding="utf-8") as file:
        json.dump(asdict(mark), file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    for directory in (draft / "engine", draft):
        sync_directory(directory)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
