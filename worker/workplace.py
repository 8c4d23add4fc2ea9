"""A worker's output directory, and who the worker is: both outlive its processes."""

from __future__ import annotations

import json
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from worker import checkpoint
from worker import recipe as recipes
from worker.checkpoint import Mark
from worker.errors import WorkerError
from worker.journal import JOURNAL_FILE, Journal
from worker.lock import ID_FILE, lock
from worker.recipe import Recipe

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
    """

    directory: Path
    run: str
    joined: bool
    worker: str
    journal: Journal
    found: tuple[str, Mark] | None = None

    @property
    def checkpoints(self) -> Path:
        """Where this worker's checkpoints are."""
        return self.directory / "checkpoints"

    @classmethod
    def new(cls, directory: Path, run: str, recipe: Recipe, *, joined: bool) -> Workplace:
        """A directory for a new worker; one that holds nothing but an id gives it that id.

        Raises:
            WorkerError: It holds a worker's output, or cannot be written to.
        """
        if (directory / JOURNAL_FILE).exists():
            raise WorkerError(
                f"{directory} already holds a worker's output; choose another --output-dir, or go on with that worker: "
                f"--resume {directory}"
            )
        try:
            directory.mkdir(parents=True, exist_ok=True)
            _lock(directory)
            recipes.write(recipe, directory / RECIPE_FILE)
            identity = directory / ID_FILE
            if not identity.read_text(encoding="ascii").strip():
                identity.write_text(secrets.token_hex(8) + "\n", encoding="ascii")
            (directory / RUN_FILE).write_text(json.dumps({"run": run, "joined": joined}) + "\n", encoding="ascii")
        except OSError as error:
            raise WorkerError(f"--output-dir {directory} cannot be written to: {error.strerror}") from error
        return cls._at(directory, None)

    def clear(self) -> None:
        """Take back a start that nothing came of: whoever mends its cause may use the directory again."""
        if not self.journal.bare or self.checkpoints.exists():
            return
        for name in (JOURNAL_FILE, RECIPE_FILE, RUN_FILE, ID_FILE):
            (self.directory / name).unlink(missing_ok=True)
        with suppress(OSError):
            self.directory.rmdir()

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
        if not (directory / RUN_FILE).exists():
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
    def _at(cls, directory: Path, found: tuple[str, Mark] | None) -> Workplace:
        named = json.loads((directory / RUN_FILE).read_text(encoding="ascii"))
        worker = (directory / ID_FILE).read_text(encoding="ascii").strip()
        return cls(directory, named["run"], named["joined"], worker, Journal(directory / JOURNAL_FILE), found)


def kept_recipe(directory: Path) -> Recipe:
    """The recipe that the worker of a directory was started with; for every rank.

    Raises:
        WorkerError: There is none, because no worker was.
    """
    if not (directory / RECIPE_FILE).exists():
        raise WorkerError(f"{directory} holds no worker's output: there is nothing to resume")
    return recipes.read(directory / RECIPE_FILE, {})


def _lock(directory: Path) -> None:
    # The handle is never closed: that would unlock it.
    lock(directory, f"another process is at work in {directory}; end it first")
