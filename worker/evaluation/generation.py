"""A model writes: the text behind a prompt, word by word, greedily or by beam search.

Open_clip's own ``CoCa.generate`` needs a class that transformers 5 no longer has, takes prompts of one length only and
knows nothing of a student under ZeRO or of a teacher in host memory; so the modules are run here as everywhere else.
There is no cache: modules that read no text run once, the others anew for each word, on as many positions as there are
words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.data.base import Batch, Writing
from worker.distill.modular import Outputs
from worker.distill.plan import Planner
from worker.distill.teacher import Teacher
from worker.engine.engine import Engine
from worker.engine.process_group import Ranks
from worker.models.base import Boundary, ModuleSpec

Look = Callable[[Sequence[str], Batch, Mapping[str, Boundary]], Outputs]
"""(modules, batch, known boundary tensors) -> what the modules put out, in eval mode."""


@dataclass(frozen=True)
class Writer:
    """A model with logits [B, positions, words] writes.

    Attributes:
        look: Runs some of its modules.
        modules: All of them, in order.
        ranks: Those that write at the same time: at ZeRO 3 they must call the model equally often.
    """

    look: Look
    modules: Sequence[ModuleSpec]
    ranks: Ranks

    @classmethod
    def student(cls, engine: Engine, planner: Planner, ranks: Ranks) -> Writer:
        """The student that an engine wraps."""
        return cls(lambda modules, batch, known: engine.look(batch, planner.look(modules), known), planner.specs, ranks)

    @classmethod
    def teacher(cls, teacher: Teacher, ranks: Ranks) -> Writer:
        """The teacher."""
        return cls(teacher.run, teacher.modular.adapter.modules, ranks)

    @torch.no_grad()
    def write(self, batch: Batch, writing: Writing, pad: int) -> list[list[int]]:
        """What stands behind each row's prompt, as tokens without the end token; collective.

        Beams are compared by the sum of their tokens' log-probabilities while they grow, and by its mean in the end.

        Args:
            batch: As a data module makes it; of ``text`` [B, L] only what comes before the first ``answer`` is read.
            writing: How to write.
            pad: The token that fills up a text.
        """
        text, at = _prompts(batch["text"], batch["answer"], pad)
        rows, length = text.shape
        once = [module.name for module in self.modules if module.textless and module.inputs is not None]
        rest = [module.name for module in self.modules if module.name not in once]
        known = self.look(once, batch, {}).boundary if once else {}
        beams = writing.beams
        if beams > 1:
            text, at = _each(text, beams), _each(at, beams)
            known = {module: {name: _each(one, beams) for name, one in held.items()} for module, held in known.items()}
            batch = {name: _each(one, beams) for name, one in batch.items()}
        every = torch.arange(len(text), device=text.device)
        start, done = at.clone(), at >= length
        score = torch.full((rows, beams), float("-inf"), device=text.device)
        # All beams begin alike: one of them goes on in the first step.
        score[:, 0] = 0
        for step in range(writing.most):
            if not self.ranks.highest(int((~done).any())):
                break
            width = min(int(at.max()) + 1, length)
            logits = self.look(rest, {**batch, "text": text[:, :width]}, known).logits
            assert logits is not None
            gain = _allowed(logits[every, (at - 1).clamp(max=width - 2)].float(), writing, pad, step).log_softmax(-1)
            # A text that is finished goes on as it is.
            gain[done] = float("-inf")
            gain[done, pad] = 0
            words = gain.shape[-1]
            score, best = (score.flatten()[:, None] + gain).view(rows, beams * words).topk(beams)
            origin = (torch.arange(rows, device=text.device)[:, None] * beams + best // words).flatten()
            token = (best % words).flatten()
            text, at, done = text[origin], at[origin], done[origin]
            place = at.clamp(max=length - 1)
            text[every, place] = torch.where(done, text[every, place], token)
            at = at + (~done).long()
            done = done | (token == writing.end) | (at >= length)
        means = score / (at - start).view(rows, beams).clamp(min=1)
        best_rows = torch.arange(rows, device=text.device) * beams + means.argmax(1)
        found = zip(text[best_rows].tolist(), start[best_rows].tolist(), at[best_rows].tolist(), strict=True)
        return [[token for token in row[first:last] if token != writing.end] for row, first, last in found]


def _prompts(text: Tensor, answer: Tensor, pad: int) -> tuple[Tensor, Tensor]:
    """Texts [B, L] without their answers, and where each answer is to begin, [B]."""
    at = answer.long().argmax(1)
    places = torch.arange(text.shape[1], device=text.device)
    return torch.where(places < at[:, None], text, pad), at


def _each(tensor: Tensor, times: int) -> Tensor:
    return tensor.repeat_interleave(times, 0)


def _allowed(logits: Tensor, writing: Writing, pad: int, step: int) -> Tensor:
    """Logits [rows, words] of what may be written in this step."""
    kept = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
    if writing.choices and step == 0:
        kept[list(writing.choices)] = True
    else:
        # Padding within a text would hide the words behind it.
        kept.fill_(True)[pad] = False
    return logits.masked_fill(~kept, float("-inf"))
