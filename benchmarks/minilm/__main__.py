"""A real pretrained sentence encoder, cut to half of its layers: ``python -m benchmarks.minilm --json FILE``.

all-MiniLM-L6-v2 is distilled on sentences from the documentation of installed packages, by real jobs of the worker with
a bandit server: by the default, and jointly at the same cost. The students are loaded by sentence-transformers and
compared with the teacher on sentences of other packages. Runs that are in FILE are not done again; ``--tune`` does
those from which the learning rates were chosen, with another seed and on other sentences. Results are in
docs/sentence-encoder.md.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "optima" / "minilm"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.minilm", description=(__doc__ or "").splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--json", type=Path, metavar="FILE", required=True, help="where results are kept")
    parser.add_argument("--tune", action="store_true", help="do the runs from which the learning rates were chosen")
    parser.add_argument("--cache", type=Path, metavar="DIR", default=CACHE, help="where teacher and sentences are kept")
    options = parser.parse_args(arguments)
    # Slow to import, and not needed for a message about a wrong flag.
    from benchmarks.minilm.study import fill, table

    print(table(fill(options.json, options.cache, tune=options.tune)))


if __name__ == "__main__":
    main()
