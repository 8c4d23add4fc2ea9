"""Real sentences without a download: docstrings and manual pages of the packages that are installed on this machine.

    python -m benchmarks.minilm.corpus texts

writes ``texts/train.txt`` and ``texts/held-out.txt``, a sentence a line. All sentences of a package are in one of them,
and no sentence is in both. On the same packages, the result is the same.
"""

from __future__ import annotations

import argparse
import ast
import gzip
import inspect
import re
import sysconfig
import warnings
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

FILES_PER_PACKAGE = 12
"""Files of a package that are read, evenly spaced: parsing takes most of the time."""
SENTENCES_PER_PACKAGE = 100
"""So that no large package is most of the corpus."""
HELD_OUT = 5
"""One package in so many is held out."""
MANUAL_PAGES = Path("/usr/share/man")
DPKG = Path("/var/lib/dpkg/info")
SKIPPED = re.compile(r"(^|/)(tests?|testing|_vendor|vendored|site-packages|third_party|idlelib|lib2to3)/|_pb2")
# Markup of roff: a font, a size, a special character.
_ROFF = re.compile(r"\\f(\[\w*\]|\(..|.)|\\s[-+]?\d|\\[&%|^/,:]")
_CHARACTERS = {
    r"\-": "-",
    r"\(aq": "'",
    r"\(dq": '"',
    r"\(bu": "",
    r"\e": "\\",
    r"\(em": " - ",
    r"\(en": "-",
    r"\ ": " ",
}


def write_corpus(directory: Path) -> dict[str, int]:
    """Write the corpus and return the numbers of its packages and sentences, held out or not."""
    packages = {**_docstring_packages(), **_manual_packages()}
    held_out = {name for name in packages if zlib.crc32(name.encode()) % HELD_OUT == 0}
    # A sentence that several packages have, as of a license, belongs to none of them alone.
    seen: set[str] = set()
    texts: dict[bool, list[str]] = {False: [], True: []}
    for name in sorted(packages, key=lambda name: (name not in held_out, name)):
        new = [text for text in dict.fromkeys(packages[name]) if text.lower() not in seen]
        seen |= {text.lower() for text in new}
        texts[name in held_out] += _spaced(new, SENTENCES_PER_PACKAGE)
    directory.mkdir(parents=True, exist_ok=True)
    for is_held_out, name in ((False, "train.txt"), (True, "held-out.txt")):
        (directory / name).write_text("".join(f"{text}\n" for text in texts[is_held_out]), encoding="utf-8")
    return {
        "packages": len(packages) - len(held_out),
        "sentences": len(texts[False]),
        "held_out_packages": len(held_out),
        "held_out_sentences": len(texts[True]),
    }


def _docstring_packages() -> dict[str, list[str]]:
    """Return the sentences of docstrings by package: of the environment, and of the standard library."""
    packages: dict[str, list[str]] = {}
    for root in (Path(sysconfig.get_path("purelib")), Path(sysconfig.get_path("stdlib"))):
        files: dict[str, list[Path]] = defaultdict(list)
        for path in sorted(root.rglob("*.py")):
            relative = path.relative_to(root).as_posix()
            if not SKIPPED.search(relative):
                files[relative.partition("/")[0].removesuffix(".py")].append(path)
        for name, paths in files.items():
            sentences = [text for path in _spaced(paths, FILES_PER_PACKAGE) for text in _docstring_sentences(path)]
            if sentences:
                packages[f"python/{name}"] = sentences
    return packages


def _docstring_sentences(path: Path) -> Iterator[str]:
    try:
        with warnings.catch_warnings():
            # Of others' code.
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield from sentences_of(text)


def _manual_packages() -> dict[str, list[str]]:
    """Return the sentences of manual pages by Debian package, or by page where there are no such packages."""
    owners = {}
    for listing in sorted(DPKG.glob("*.list")) if DPKG.is_dir() else ():
        for line in listing.read_text(encoding="utf-8").splitlines():
            if line.startswith(f"{MANUAL_PAGES}/man"):
                owners[line] = listing.stem.partition(":")[0]
    pages: dict[str, list[Path]] = defaultdict(list)
    for page in sorted(MANUAL_PAGES.glob("man[1-8]/*.gz")):
        pages[f"manual/{owners.get(str(page), page.name.partition('.')[0])}"].append(page)
    packages = {}
    for name, paths in pages.items():
        sentences = [text for page in _spaced(paths, FILES_PER_PACKAGE) for text in _manual_sentences(page)]
        if sentences:
            packages[name] = sentences
    return packages


def _manual_sentences(page: Path) -> Iterator[str]:
    try:
        yield from sentences_of(plain_text(gzip.decompress(page.read_bytes()).decode("utf-8")))
    except (OSError, EOFError, ValueError):
        return


def plain_text(roff: str) -> str:
    """Return the running text of a manual page: lines that are no request, without markup."""
    lines = []
    for line in roff.splitlines():
        # A request begins a paragraph, or is a part of one; all end it here, so that no text is joined wrongly.
        text = "" if line.startswith((".", "'")) else _ROFF.sub("", line)
        for sign, character in _CHARACTERS.items():
            text = text.replace(sign, character)
        lines.append("" if "\\" in text else text.strip())
    return "\n".join(lines)


def sentences_of(text: str) -> Iterator[str]:
    """Yield the complete English sentences of a text."""
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        if re.search(r"^\s*(>>>|\.\. |:\w+|@|[-=~*#+|])|^\s{4}", paragraph, re.MULTILINE):
            # Examples, lists and tables.
            continue
        for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", " ".join(paragraph.split())):
            words = sentence.split()
            letters = sum(character.isalpha() or character == " " for character in sentence)
            if (
                5 <= len(words) <= 25
                and re.match(r"[A-Z][a-z]* [a-z]", sentence)
                and sentence.endswith((".", "!", "?"))
                and letters >= 0.9 * len(sentence)
            ):
                yield sentence


def _spaced(items: Sequence[T], most: int) -> list[T]:
    """Return at most so many items, evenly spaced."""
    if len(items) <= most:
        return list(items)
    return [items[index * len(items) // most] for index in range(most)]


def main(arguments: Iterable[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.minilm.corpus", description=(__doc__ or "").splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("directory", type=Path, help="where train.txt and held-out.txt are written")
    counts = write_corpus(parser.parse_args(None if arguments is None else list(arguments)).directory)
    print(", ".join(f"{name.replace('_', ' ')}: {count:,}" for name, count in counts.items()))


if __name__ == "__main__":
    main()
