"""A Whisper whose decoder is cut and whose encoder is kept: ``python -m benchmarks.speech --json FILE``.

espeak-ng speaks short English and German sentences; a small Whisper is trained on them from scratch, and distilled by
real jobs of the worker with a bandit server, in the pattern of distil-whisper. Word error rates are measured on voices
and sentences held out. What is in FILE is not done again. Results are in docs/speech.md.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "optima"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speech", description=(__doc__ or "").splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--json", type=Path, metavar="FILE", required=True, help="where results are kept")
    parser.add_argument("--quick", action="store_true", help="try everything, with a teacher that has learned little")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="where speech and teacher are kept")
    options = parser.parse_args(arguments)
    # Slow to import, and not needed for a message about a wrong flag.
    from benchmarks.speech.study import FULL, QUICK, fill, table

    cache = options.cache or CACHE / ("speech-quick" if options.quick else "speech")
    print(table(fill(options.json, cache, QUICK if options.quick else FULL)))


if __name__ == "__main__":
    main()
