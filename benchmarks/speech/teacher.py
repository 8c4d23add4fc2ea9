"""The teacher: a small Whisper, with a real Whisper's tokenizer and feature extractor, trained from scratch."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from tokenizers import ByteLevelBPETokenizer
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from benchmarks.speech.corpus import SECONDS
from benchmarks.speech.data import Recordings, collate

END, START = "<|endoftext|>", "<|startoftranscript|>"
TASKS = ("<|translate|>", "<|transcribe|>")
OTHERS = ("<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>")
MERGED = 400
"""Tokens for bytes and merged bytes: enough for every word of the corpus to be one token."""
HOP, BINS = 320, 40
"""Samples between two spectra (20 ms, twice Whisper's, for speed), and their bands."""


def make_processor(texts: Sequence[str]) -> Any:
    """Return a WhisperProcessor whose tokens are learned from texts; its special tokens are Whisper's."""
    learned = ByteLevelBPETokenizer()
    # Where a word begins, the space before it belongs to it; Whisper's texts begin with one.
    learned.train_from_iterator([f" {text}" for text in texts], vocab_size=MERGED, min_frequency=1, show_progress=False)
    state = json.loads(learned.to_str())["model"]
    vocabulary = state["vocab"]
    languages = [f"<|{code}|>" for code in LANGUAGES]
    vocabulary[END] = len(vocabulary)
    tokenizer: Any = transformers.WhisperTokenizer(
        vocab=vocabulary, merges=[tuple(pair) for pair in state["merges"]], pad_token=END, add_prefix_space=True,
        model_max_length=32,
    )  # fmt: skip
    tokenizer.add_special_tokens({"additional_special_tokens": [START, *languages, *TASKS, *OTHERS]})
    library: Any = transformers
    extractor = library.WhisperFeatureExtractor(feature_size=BINS, hop_length=HOP, chunk_length=SECONDS)
    return library.WhisperProcessor(extractor, tokenizer)


def make_model(processor: Any, *, width: int, layers: int) -> Any:
    """Return a Whisper with fresh weights.

    Args:
        processor: Its processor.
        width: Its width; a head has 16 channels.
        layers: Layers of the encoder, and of the decoder.
    """
    number = processor.tokenizer.convert_tokens_to_ids
    shape = {"layers": layers, "attention_heads": width // 16, "ffn_dim": 4 * width}
    end, start = number(END), number(START)
    library: Any = transformers
    config = library.WhisperConfig(
        **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in shape.items()},
        vocab_size=len(processor.tokenizer), d_model=width, num_mel_bins=BINS,
        max_source_positions=processor.feature_extractor.nb_max_frames // 2, max_target_positions=32,
        pad_token_id=end, bos_token_id=end, eos_token_id=end, decoder_start_token_id=start,
        suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    model: Any = library.WhisperForConditionalGeneration(config)
    model.generation_config = library.GenerationConfig(
        pad_token_id=end, bos_token_id=end, eos_token_id=end, decoder_start_token_id=start, max_length=32,
        is_multilingual=True, lang_to_id={f"<|{code}|>": number(f"<|{code}|>") for code in ("en", "de")},
        task_to_id={task.strip("<|>"): number(task) for task in TASKS},
        no_timestamps_token_id=number("<|notimestamps|>"), return_timestamps=False,
    )  # fmt: skip
    return model


def pretrain(
    recordings: Recordings, model: Any, *, steps: int, rows: int = 32, lr: float = 2e-3, seed: int = 0
) -> float:
    """Train a model on recordings and return the last loss.

    Args:
        recordings: The training recordings.
        model: The model.
        steps: Optimizer steps.
        rows: Recordings in a batch.
        lr: The highest learning rate, after a tenth of the steps; it falls to 0 along a cosine.
        seed: Seed of the order.
    """
    generator = torch.Generator().manual_seed(seed)
    # Spectra are computed once.
    items = [recordings[index] for index in range(len(recordings))]
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01, betas=(0.9, 0.98))
    warmup = steps // 10

    def scale(step: int) -> float:
        return min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, scale)
    model.train()
    began = time.monotonic()
    for step in range(steps):
        picked = torch.randint(len(items), (rows,), generator=generator).tolist()
        batch = collate([items[index] for index in picked])
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step + 1 == steps:
            seconds = time.monotonic() - began
            print(f"teacher: step {step + 1}/{steps} loss {loss:.3f}, {seconds:.0f} s", file=sys.stderr, flush=True)
    return float(loss)
