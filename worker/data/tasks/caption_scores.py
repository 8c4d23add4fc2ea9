"""CIDEr and BLEU-4 of captions, as COCO's evaluation takes them (github.com/tylin/coco-caption): ``pycocoevalcap``.

Its tokenizer, the Stanford PTB tokenizer, is a Java program inside the package: it needs a Java runtime on the PATH and
no network. It is called here as there, but for the texts: they go in by its standard input and not by a file beside
the program, where a worker that is not root may not write.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from worker.errors import DataError

NEEDED = "captions are judged by pycocoevalcap"


def check() -> None:
    """Raise ValueError, with what to do, where captions cannot be judged."""
    if find_spec("pycocoevalcap") is None:
        raise ValueError(f"{NEEDED}, which is not installed: pip install 'optima-distill[tasks]'")
    if shutil.which("java") is None:
        raise ValueError(
            f"{NEEDED}, whose tokenizer is a Java program, and there is no java on the PATH: install a Java runtime "
            "(Debian: apt-get install default-jre-headless)"
        )


def scores(written: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """``cider`` and ``bleu_4`` of a corpus; 1.0 is what papers call 100.

    Args:
        written: N captions.
        references: For each, the captions that people wrote.

    Raises:
        DataError: The tokenizer fails.
    """
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider

    texts = tokenized([*written, *(text for each in references for text in each)])
    candidates = {number: [texts[number]] for number in range(len(written))}
    rest = iter(texts[len(written) :])
    theirs = {number: [next(rest) for _ in each] for number, each in enumerate(references)}
    bleu, _ = Bleu(4).compute_score(theirs, candidates, verbose=0)
    cider, _ = Cider().compute_score(theirs, candidates)
    return {"cider": float(cider), "bleu_4": float(bleu[3])}


def tokenized(texts: Sequence[str]) -> list[str]:
    """Texts in lower case as words between spaces, without punctuation. Raises DataError."""
    from pycocoevalcap.tokenizer import ptbtokenizer

    jar = Path(ptbtokenizer.__file__).parent / ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR
    command = ["java", "-Dfile.encoding=UTF-8", "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer",
               "-preserveLines", "-lowerCase"]  # fmt: skip
    lines = "\n".join(" ".join(text.split()) for text in texts) + "\n"
    try:
        ended = subprocess.run(command, input=lines.encode(), capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", b"").decode(errors="replace").strip() or error
        raise DataError(f"the captions' tokenizer failed: {reason}") from error
    found = ended.stdout.decode().split("\n")[: len(texts)]
    if len(found) < len(texts):
        raise DataError(f"the captions' tokenizer gave {len(found)} lines for {len(texts)} captions")
    left_out = set(ptbtokenizer.PUNCTUATIONS)
    return [" ".join(word for word in line.split() if word not in left_out) for line in found]
