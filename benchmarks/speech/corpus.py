"""Speech made by espeak-ng: short English and German sentences, by several voices, speeds and pitches.

A corpus is a directory with 16 kHz wave files and two lists of them, ``train.tsv`` and ``held-out.tsv``, whose lines
are FILE, LANGUAGE and TEXT, separated by tabs. No sentence and no voice is in both.
"""

from __future__ import annotations

import io
import random
import shutil
import subprocess
import sys
import wave
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

RATE = 16000
"""Samples per second, Whisper's."""
SECONDS = 3
"""Maximum length of an utterance."""
DIGITS = {
    "en": ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"],
    "de": ["null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"],
}
FRAMES = {
    "en": ("{} {}", "{} {} {}", "{} {} {} {}", "call {} {} {}", "set the timer to {} minutes", "play song {} {}",
           "turn the light in room {} on", "turn the light in room {} off", "open the door of room {}",
           "close the window in room {}"),
    "de": ("{} {}", "{} {} {}", "{} {} {} {}", "ruf {} {} {} an", "stell den wecker auf {} minuten", "spiel lied {} {}",
           "mach das licht in raum {} an", "mach das licht in raum {} aus", "öffne die tür von raum {}",
           "schließe das fenster in raum {}"),
}  # fmt: skip
"""Sentences; digits take the places of the braces."""
ACCENTS = {"en": ("en-us", "en-gb", "en-gb-x-rp"), "de": ("de",)}
VOICES = {"train": ("m1", "m2", "m3", "m5", "m6", "f1", "f2", "f3"), "held-out": ("m7", "m4", "f4")}
"""Variants of espeak-ng's voices."""


def write_corpus(directory: Path, counts: dict[str, int], seed: int = 0) -> None:
    """Write a corpus.

    Args:
        directory: Where to; created if needed.
        counts: Number of utterances, by the name of the list.
        seed: Seed of sentences, voices, speeds and pitches.
    """
    if shutil.which("espeak-ng") is None:
        sys.exit("the speech is made by espeak-ng, which is not installed: apt-get install espeak-ng")
    generator = random.Random(seed)
    (directory / "waves").mkdir(parents=True, exist_ok=True)
    used: set[str] = set()
    # The held-out sentences first: there are few of some kinds, and training may repeat its own.
    for split in ("held-out", "train"):
        rows = list(_utterances(split, counts[split], used if split == "train" else set(), generator))
        used |= {text for _, text, _ in rows}
        with ThreadPoolExecutor(2) as pool:
            sounds = pool.map(lambda row: speak(row[1], *row[2]), rows)
            lines = []
            for number, ((language, text, _), sound) in enumerate(zip(rows, sounds, strict=True)):
                name = f"waves/{split}-{number}.wav"
                write_wave(directory / name, sound)
                lines.append(f"{name}\t{language}\t{text}\n")
        (directory / f"{split}.tsv").write_text("".join(lines), encoding="utf-8")


def sentence(language: str, generator: random.Random) -> str:
    """Return a random sentence."""
    frame = generator.choice(FRAMES[language])
    return frame.format(*generator.choices(DIGITS[language], k=frame.count("{}")))


def _utterances(
    split: str, count: int, without: set[str], generator: random.Random
) -> Iterator[tuple[str, str, tuple[str, int, int]]]:
    """Yield language, text, and (voice, words per minute, pitch) of utterances whose text is not in ``without``."""
    for number in range(count):
        language = ("en", "de")[number % 2]
        text = sentence(language, generator)
        while text in without:
            text = sentence(language, generator)
        voice = f"{generator.choice(ACCENTS[language])}+{generator.choice(VOICES[split])}"
        yield language, text, (voice, generator.randint(150, 200), generator.randint(30, 70))


def speak(text: str, voice: str, speed: int, pitch: int) -> NDArray[np.float32]:
    """Return the samples of a text, at most `SECONDS` of them, between -1 and 1.

    Args:
        text: The text.
        voice: A voice of espeak-ng and its variant, such as ``en-us+m1``.
        speed: Words per minute.
        pitch: 0 to 99.
    """
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", text]
    spoken = subprocess.run(command, capture_output=True, check=True).stdout
    with wave.open(io.BytesIO(spoken)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
        sound = resample_poly(samples / 2**15, RATE, file.getframerate())
    return np.asarray(sound[: RATE * SECONDS].clip(-1, 1), dtype=np.float32)


def write_wave(path: Path, sound: NDArray[np.float32]) -> None:
    """Write samples between -1 and 1 as a mono file of 16 bits."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((sound * (2**15 - 1)).astype("<i2").tobytes())
