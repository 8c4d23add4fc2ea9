"""A worker's output directory and identity: both outlive its processes."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from worker.client.journal import JOURNAL_FILE, Journal
from worker.errors import WorkerError
from worker.files import ID_FILE, lock
from worker.names import EXPECTED, NAME
from worker.recipe.recipe import Recipe, read_written_recipe, write_recipe
from worker.training import checkpoint
from worker.training.checkpoint import Mark

RECIPE_FILE = "recipe.yaml"
"""The recipe, with the changes of the command line, as a resumed job reads it."""
RUN_FILE = "run.json"


@dataclass(frozen=True)
class OutputDir:
    """The output directory of this process, locked against every other process. Only rank 0 has one.

    Attributes:
        directory: Its path.
        run: The run's name.
        joined: Whether the run was named on the command line. Then this worker does not end it.
        worker: The worker's id.
        journal: The worker's journal.
        checkpoint: Name and mark of the checkpoint to continue from; None to begin with round 0.
        created: The files and directories that this process created at its start, in that order; `remove_unused`
            removes no other.
    """

    directory: Path
    run: str
    joined: bool
    worker: str
    journal: Journal
    checkpoint: tuple[str, Mark] | None = None
    created: tuple[Path, ...] = ()

    @property
    def checkpoints(self) -> Path:
        """The directory of this worker's checkpoints."""
        return self.directory / "checkpoints"

    @classmethod
    def create_new(cls, directory: Path, run: str, recipe: Recipe, *, joined: bool) -> OutputDir:
        """Create a new worker's directory, or use one that is empty or holds only a worker's id.

        Nothing that was there before is changed, whether this succeeds or not.

        Args:
            directory: Its path.
            run: The run's name.
            recipe: The worker's recipe.
            joined: Whether the run was named on the command line.

        Raises:
            WorkerError: The directory holds anything else, is in use, or cannot be written to.
        """
        created: list[Path] = []
        try:
            _check_unused(directory)
            # If the start fails, its own directory is removed, but not the `runs` above it: others may use it by then.
            directory.parent.mkdir(parents=True, exist_ok=True)
            created += [] if directory.exists() else [directory]
            directory.mkdir(exist_ok=True)
            id_file = [] if (directory / ID_FILE).exists() else [directory / ID_FILE]
            _lock(directory)
            # Only now: until it is locked, the file may be that of another process, which was faster.
            created += id_file
            _check_unused(directory)
            if not _read_id(directory):
                (directory / ID_FILE).write_text(secrets.token_hex(8) + "\n", encoding="ascii")
            for name, content in (
                (RUN_FILE, json.dumps({"run": run, "joined": joined}) + "\n"),
                (RECIPE_FILE, recipe.to_yaml()),
                (JOURNAL_FILE, ""),
            ):
                # "x": a file of that name that somebody else creates, at whatever moment, is an error.
                with (directory / name).open("x", encoding="utf-8") as file:
                    created.append(directory / name)
                    file.write(content)
        except BaseException as error:
            _remove(created)
            if not isinstance(error, OSError):
                raise
            raise WorkerError(f"--output-dir {directory} cannot be written to: {error.strerror}") from error
        return cls._from_files(directory, None, tuple(created))

    @classmethod
    def reopen(cls, directory: Path) -> OutputDir:
        """Open the directory of an interrupted worker.

        Raises:
            WorkerError: It is not the directory of an interrupted worker, or its worker is still running.
        """
        if (directory / "summary.json").exists():
            raise WorkerError(f"the job in {directory} has ended and its student is there; there is nothing to resume")
        if not (directory / RUN_FILE).exists() or not (directory / ID_FILE).exists():
            raise WorkerError(f"{directory} is not a worker's output directory: there is nothing to resume")
        _lock(directory)
        output = cls._from_files(directory, checkpoint.newest(directory / "checkpoints"))
        mark = output.checkpoint[1] if output.checkpoint else None
        if mark is not None and (mark.run, mark.worker) != (output.run, output.worker):
            output.journal.close()
            raise WorkerError(
                f"the checkpoints in {directory} are of worker {mark.worker} in run {mark.run}, but the directory is "
                f"of worker {output.worker} in run {output.run}; put back the checkpoints that belong to it"
            )
        return output

    def save_recipe(self, recipe: Recipe) -> None:
        """Save the recipe, now that its open numbers are chosen, for a process that resumes this one."""
        write_recipe(recipe, self.directory / RECIPE_FILE)

    def remove_unused(self) -> None:
        """Remove what this process created, if the start failed: the same command can use the directory again."""
        if self.journal.is_unused and not self.checkpoints.exists():
            _remove(self.created)

    @classmethod
    def _from_files(cls, directory: Path, newest: tuple[str, Mark] | None, created: tuple[Path, ...] = ()) -> OutputDir:
        run = json.loads((directory / RUN_FILE).read_text(encoding="ascii"))
        worker = _read_id(directory)
        return cls(directory, run["run"], run["joined"], worker, Journal(directory / JOURNAL_FILE), newest, created)


def read_saved_recipe(directory: Path) -> Recipe:
    """Read the recipe that a directory's worker was started with; for every rank.

    Raises:
        WorkerError: It is not a worker's output directory.
    """
    # A user's own directory may hold a recipe of that name.
    if not (directory / RECIPE_FILE).exists() or not (directory / RUN_FILE).exists():
        raise WorkerError(f"{directory} is not a worker's output directory: there is nothing to resume")
    return read_written_recipe(directory / RECIPE_FILE)


def _check_unused(directory: Path) -> None:
    """Raise WorkerError if a directory holds anything but a worker's id."""
    names = sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []
    if JOURNAL_FILE in names and RUN_FILE in names:
        raise WorkerError(
            f"{directory} already holds a worker's output; choose another --output-dir, or continue that worker with "
            f"--resume {directory}"
        )
    others = [name for name in names if name != ID_FILE]
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        raise WorkerError(
            f"--output-dir {directory} already holds {', '.join(others[:3])}{more}, and a worker needs a directory of "
            "its own; choose one that is empty or does not exist"
        )
    _read_id(directory)


def _read_id(directory: Path) -> str:
    """Read the worker's id of a directory; return "" if it has none.

    Raises:
        WorkerError: The file does not hold a worker's id.
    """
    path = directory / ID_FILE
    content = path.read_text(encoding="utf-8", errors="replace").strip() if path.exists() else ""
    if content and not re.fullmatch(NAME, content):
        raise WorkerError(f"{path} does not hold a worker's id ({EXPECTED}); choose another --output-dir")
    return content


def _remove(created: Iterable[Path]) -> None:
    """Remove files and directories that were created here, the last first; directories only if they are empty."""
    for path in reversed(list(created)):
        with suppress(OSError):
            path.rmdir() if path.is_dir() else path.unlink()


def _lock(directory: Path) -> None:
    # The handle is never closed: that would unlock the directory.
    lock(directory, f"another process is using {directory}; end it first")
