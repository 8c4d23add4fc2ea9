"""CIDEr and BLEU-4 of captions as in COCO's evaluation (github.com/tylin/coco-caption), by ``pycocoevalcap``.

Its tokenizer, the Stanford PTB tokenizer, is a Java program inside the package: it needs a Java runtime on the PATH and
no network. It is called here as in pycocoevalcap, except that the texts are passed on its standard input instead of a
file next to the program, where a worker that is not root may not write.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from worker.errors import DataError

NEEDED = "judging captions needs pycocoevalcap"


def check() -> None:
    """Raise ValueError, with a remedy, if pycocoevalcap or Java is missing."""
    if find_spec("pycocoevalcap") is None:
        raise ValueError(f"{NEEDED}, which is not installed: pip install 'optima-distill[tasks]'")
    if shutil.which("java") is None:
        raise ValueError(
            f"{NEEDED}, whose tokenizer is a Java program, but there is no java on the PATH: install a Java runtime "
            "(Debian: apt-get install default-jre-headless)"
        )


def scores(written: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Compute ``cider`` and ``bleu_4`` of a corpus; 1.0 is what papers call 100.

    Args:
        written: N generated captions.
        references: For each, the captions written by people.

    Raises:
        DataError: The tokenizer fails.
    """
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider

    texts = tokenized([*written, *(text for each in references for text in each)])
    candidates = {number: [texts[number]] for number in range(len(written))}
    rest = iter(texts[len(written) :])
    human_captions = {number: [next(rest) for _ in each] for number, each in enumerate(references)}
    bleu, _ = Bleu(4).compute_score(human_captions, candidates, verbose=0)
    cider, _ = Cider().compute_score(human_captions, candidates)
    return {"cider": float(cider), "bleu_4": float(bleu[3])}


def tokenized(texts: Sequence[str]) -> list[str]:
    """Return texts in lower case, tokens separated by spaces, without punctuation.

    Raises:
        DataError: The tokenizer fails.
    """
    from pycocoevalcap.tokenizer import ptbtokenizer

    jar = Path(ptbtokenizer.__file__).parent / ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR
    command = ["java", "-Dfile.encoding=UTF-8", "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer",
               "-preserveLines", "-lowerCase"]  # fmt: skip
    lines = "\n".join(" ".join(text.split()) for text in texts) + "\n"
    try:
        process = subprocess.run(command, input=lines.encode(), capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", b"").decode(errors="replace").strip() or error
        raise DataError(f"the caption tokenizer failed: {reason}") from error
    tokenized_lines = process.stdout.decode().split("\n")[: len(texts)]
    if len(tokenized_lines) < len(texts):
        raise DataError(f"the caption tokenizer returned {len(tokenized_lines)} lines for {len(texts)} captions")
    punctuation = set(ptbtokenizer.PUNCTUATIONS)
    return [" ".join(word for word in line.split() if word not in punctuation) for line in tokenized_lines]
