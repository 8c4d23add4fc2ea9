"""A LLaVA of transformers in pretraining, with its processor and tokenizer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch.nn.functional as F
import transformers
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME

from worker.data.base import Batch
from worker.data.digits.llava import IGNORED, LLAVA_VOCABULARY, PATCH, PICTURE, UNKNOWN, WHITE
from worker.data.digits.rows import MEAN, SIZE, STD
from worker.data.digits.text import CONTEXT_LENGTH
from worker.pretrain.training import Options, Pretrained

PAD, START, END = "<pad>", "<start>", "<end>"


@dataclass(frozen=True)
class Llava(Pretrained):
    """A LLaVA of transformers: a tower for pictures, a connector and a language model.

    Attributes:
        model: The model.
    """

    model: Any
    batches: ClassVar[Literal["coca", "llava"]] = "llava"
    files: ClassVar[tuple[str, ...]] = (SAFE_WEIGHTS_NAME, CONFIG_NAME)
    library: ClassVar[str] = "transformers"

    @classmethod
    def describes(cls, source: Path) -> bool:
        """Return whether a directory holds the configuration of a LLaVA."""
        file = source / CONFIG_NAME
        return file.is_file() and json.loads(file.read_text(encoding="utf-8")).get("model_type") == "llava"

    @classmethod
    def from_config(cls, source: Path) -> Self:
        """Build a model from a directory with its ``config.json``."""
        return cls(transformers.LlavaForConditionalGeneration(transformers.LlavaConfig.from_pretrained(source)))

    def logits(self, batch: Batch) -> Tensor:
        """Return logits [B, L - 1, V]."""
        # Without the mask: no token that counts attends to the padding, which is at the end.
        logits: Tensor = self.model(input_ids=batch["input_ids"], pixel_values=batch["pixel_values"]).logits
        return logits[:, :-1]

    def loss(self, batch: Batch, options: Options) -> Tensor:
        """Return the mean cross-entropy of the answers' words, a scalar.

        Every row has the same weight, whatever its number of words: a question has one word to learn, a caption twelve.
        """
        labels = batch["labels"][:, 1:]
        words = F.cross_entropy(
            self.logits(batch).transpose(1, 2),
            labels,
            reduction="none",
            ignore_index=IGNORED,
            label_smoothing=options.label_smoothing,
        )
        return (words.sum(dim=1) / (labels != IGNORED).sum(dim=1)).mean()

    def load_weights(self, file: Path) -> None:
        """Load weights from a safetensors file, whose names are those that transformers writes."""
        weights = load_file(file)
        model = type(self.model).from_pretrained(None, config=self.model.config, state_dict=weights)
        self.model.load_state_dict(model.state_dict())

    def save(self, directory: Path) -> None:
        """Write the model as ``from_pretrained`` reads it, with its processor."""
        text = processor()
        self.model.generation_config = transformers.GenerationConfig(  # type: ignore[no-untyped-call]
            bos_token_id=text.tokenizer.bos_token_id,
            eos_token_id=text.tokenizer.eos_token_id,
            pad_token_id=text.tokenizer.pad_token_id,
            max_new_tokens=CONTEXT_LENGTH,
        )
        self.model.save_pretrained(directory)
        text.save_pretrained(directory)


def processor() -> Any:
    """Return the processor for the digits: pictures of any size and the words of the digits' texts."""
    image_processor = transformers.SiglipImageProcessor(
        size={"height": SIZE, "width": SIZE},
        rescale_factor=1 / WHITE,
        image_mean=[MEAN] * 3,
        image_std=[STD] * 3,
    )
    return transformers.LlavaProcessor(  # type: ignore[no-untyped-call]
        image_processor=image_processor,
        tokenizer=tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="full",
        image_token=PICTURE,
    )


def tokenizer() -> Any:
    """Return the tokenizer: one token for a word, and the start token before a text.

    Texts of different lengths are padded at the beginning, since ``generate`` continues them at the end.
    """
    ids = {word: number for number, word in enumerate(LLAVA_VOCABULARY)}
    words = Tokenizer(WordLevel(ids, unk_token=UNKNOWN))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(single=f"{START} $A", special_tokens=[(START, ids[START])])
    return transformers.PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=words,
        pad_token=PAD,
        bos_token=START,
        eos_token=END,
        unk_token=UNKNOWN,
        extra_special_tokens={"image_token": PICTURE},
        padding_side="left",
    )
