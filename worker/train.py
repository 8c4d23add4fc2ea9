"""Distil a student module by module; the bandit server decides which module is next.

    deepspeed worker/train.py --bandit-addr HOST:50051 [--recipe RECIPE.yaml] [--run NAME]

DeepSpeed's launcher starts this file once per rank. The default recipe distils a CoCa that reads collages of
handwritten digits. The output is written to ``runs/<run>``, or to ``--output-dir``.
"""

import os
import sys
from pathlib import Path

# The launcher puts this file's own directory first on the path: our `data` or `models` would shadow the user's. The
# current directory takes its place.
_REPLACED = (Path(__file__).resolve().parent, Path.cwd())
sys.path[:] = [str(Path.cwd()), *(entry for entry in sys.path if Path(entry).resolve() not in _REPLACED)]

try:
    import protos.optima.v1  # noqa: F401
    from worker.cli import parse
    from worker.process import without_garbage_collection
except ModuleNotFoundError as error:
    sys.exit(
        f"error: {error}: OPTIMA is not installed, or a module of the same name in {Path.cwd()} hides it; "
        "start from another directory, or rename that module"
    )


def main(flags: list[str] | None = None) -> int:
    """Run one rank; return the exit status, 0 only if the job succeeded."""
    arguments = parse(flags)
    # After parsing: a message about a wrong flag must not wait for torch.
    with without_garbage_collection():
        from worker.errors import Interrupted, WorkerError
        from worker.job import run

    try:
        run(arguments)
    except Interrupted as stop:
        if int(os.environ.get("RANK", "0")) == 0:
            print(stop, file=sys.stderr, flush=True)
        return 128 + stop.signal
    except WorkerError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    except RuntimeError as error:
        # gloo raises this when another rank has ended. That rank says why; a traceback of this one would hide it.
        if "Connection closed by peer" not in str(error):
            raise
        print("error: another rank of this job has ended; its own message says why", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
