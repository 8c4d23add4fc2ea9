"""A worker's output directory, and who the worker is: both outlive its processes."""

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
from worker.recipe import recipe as recipes
from worker.recipe.recipe import Recipe
from worker.training import checkpoint
from worker.training.checkpoint import Mark

RECIPE_FILE = "recipe.yaml"
"""The recipe with the command line's changes in it, as a resumed job reads it."""
RUN_FILE = "run.json"


@dataclass(frozen=True)
class Workplace:
    """An output directory that this process works in, and no other. Rank 0 alone has one.

    Attributes:
        run: The run's name.
        joined: Whether the run was given by name: then it is not this worker's to end.
        worker: The worker's id.
        found: Name and mark of the checkpoint to go on from; None to begin with round 0.
        made: The files and directories that this process made when it began, in that order; `clear` removes no other.
    """

    directory: Path
    run: str
    joined: bool
    worker: str
    journal: Journal
    found: tuple[str, Mark] | None = None
    made: tuple[Path, ...] = ()

    @property
    def checkpoints(self) -> Path:
        """Where this worker's checkpoints are."""
        return self.directory / "checkpoints"

    @classmethod
    def new(cls, directory: Path, run: str, recipe: Recipe, *, joined: bool) -> Workplace:
        """Begin a new worker's directory: one that is not there yet, is empty, or holds nothing but a worker's id.

        Nothing that was there before is changed, whether the start succeeds or not.

        Raises:
            WorkerError: It holds anything else, is in use, or cannot be written to.
        """
        made: list[Path] = []
        try:
            _check_unused(directory)
            # A start that fails takes away its own directory, not the `runs` above it, where others may be by then.
            directory.parent.mkdir(parents=True, exist_ok=True)
            made += [] if directory.exists() else [directory]
            directory.mkdir(exist_ok=True)
            fresh = [] if (directory / ID_FILE).exists() else [directory / ID_FILE]
            _lock(directory)
            # Only now: until then it may be another process's, which was faster.
            made += fresh
            _check_unused(directory)
            if not _identity(directory):
                (directory / ID_FILE).write_text(secrets.token_hex(8) + "\n", encoding="ascii")
            for name, content in (
                (RUN_FILE, json.dumps({"run": run, "joined": joined}) + "\n"),
                (RECIPE_FILE, recipes.written(recipe)),
                (JOURNAL_FILE, ""),
            ):
                # "x": somebody else's file of that name is an error, at whatever moment it appears.
                with (directory / name).open("x", encoding="utf-8") as file:
                    made.append(directory / name)
                    file.write(content)
        except BaseException as error:
            _remove(made)
            if not isinstance(error, OSError):
                raise
            raise WorkerError(f"--output-dir {directory} cannot be written to: {error.strerror}") from error
        return cls._at(directory, None, tuple(made))

    def clear(self) -> None:
        """Take back a start that nothing came of: whoever mends its cause may use the directory again."""
        if self.journal.bare and not self.checkpoints.exists():
            _remove(self.made)

    def keep(self, recipe: Recipe) -> None:
        """Keep the recipe, now that its numbers are chosen, for a process that resumes this one."""
        recipes.write(recipe, self.directory / RECIPE_FILE)

    @classmethod
    def again(cls, directory: Path) -> Workplace:
        """The directory of a worker that was interrupted.

        Raises:
            WorkerError: No worker was interrupted there, or one is still at work.
        """
        if (directory / "summary.json").exists():
            raise WorkerError(f"the job in {directory} has ended, and its student is there; nothing is left to resume")
        if not (directory / RUN_FILE).exists() or not (directory / ID_FILE).exists():
            raise WorkerError(f"{directory} holds no worker's output: there is nothing to resume")
        _lock(directory)
        place = cls._at(directory, checkpoint.newest(directory / "checkpoints"))
        mark = place.found[1] if place.found else None
        if mark is not None and (mark.run, mark.worker) != (place.run, place.worker):
            raise WorkerError(
                f"the checkpoints in {directory} are of worker {mark.worker} in run {mark.run}, but the directory is "
                f"of worker {place.worker} in run {place.run}; put back the ones that belong there"
            )
        return place

    @classmethod
    def _at(cls, directory: Path, found: tuple[str, Mark] | None, made: tuple[Path, ...] = ()) -> Workplace:
        named = json.loads((directory / RUN_FILE).read_text(encoding="ascii"))
        worker = _identity(directory)
        return cls(directory, named["run"], named["joined"], worker, Journal(directory / JOURNAL_FILE), found, made)


def kept_recipe(directory: Path) -> Recipe:
    """The recipe that the worker of a directory was started with; for every rank.

    Raises:
        WorkerError: There is none, because no worker was.
    """
    # A user's own directory may hold a recipe of that name.
    if not (directory / RECIPE_FILE).exists() or not (directory / RUN_FILE).exists():
        raise WorkerError(f"{directory} holds no worker's output: there is nothing to resume")
    return recipes.read(directory / RECIPE_FILE, {})


def _check_unused(directory: Path) -> None:
    """Raise WorkerError if a directory holds anything but a worker's id."""
    names = sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []
    if JOURNAL_FILE in names and RUN_FILE in names:
        raise WorkerError(
            f"{directory} already holds a worker's output; choose another --output-dir, or go on with that worker: "
            f"--resume {directory}"
        )
    others = [name for name in names if name != ID_FILE]
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        raise WorkerError(
            f"--output-dir {directory} already holds {', '.join(others[:3])}{more}, and a worker writes into a "
            "directory of its own: choose one that is empty or not there yet"
        )
    _identity(directory)


def _identity(directory: Path) -> str:
    """The worker's id that a directory holds, or "". Raises WorkerError if the file of that name holds no id."""
    path = directory / ID_FILE
    content = path.read_text(encoding="utf-8", errors="replace").strip() if path.exists() else ""
    if content and not re.fullmatch(NAME, content):
        raise WorkerError(f"{path} holds no worker's id ({EXPECTED}); choose another --output-dir")
    return content


def _remove(made: Iterable[Path]) -> None:
    """Remove files and directories that were made here, the last first; a directory only if nothing else is in it."""
    for path in reversed(list(made)):
        with suppress(OSError):
            path.rmdir() if path.is_dir() else path.unlink()


def _lock(directory: Path) -> None:
    # The handle is never closed: that would unlock it.
    lock(directory, f"another process is at work in {directory}; end it first")
