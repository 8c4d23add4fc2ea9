"""Text generation: greedy decoding and beam search, with the student or the teacher.

open_clip's own ``CoCa.generate`` needs a class that transformers 5 no longer has, takes prompts of one length only, and
does not know a student under ZeRO or a teacher in host memory; so modules are run here as everywhere else. There is no
cache: modules that read no text run once, the others once per token, on as many positions as there are tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.data.base import Batch, Writing
from worker.data.entries import repeat_rows
from worker.distill.plan import Planner
from worker.distill.teacher import Run, Teacher
from worker.engine.engine import Engine
from worker.engine.process_group import ProcessGroup
from worker.models.base import ModuleSpec


@dataclass(frozen=True)
class Generator:
    """Generates text with a model whose logits are [B, positions, tokens].

    Attributes:
        run: Runs some of the model's modules in eval mode.
        modules: All of its modules, in order.
        process_group: The ranks that generate at the same time: under ZeRO 3 they must call the model equally often.
    """

    run: Run
    modules: Sequence[ModuleSpec]
    process_group: ProcessGroup

    @classmethod
    def for_student(cls, engine: Engine, planner: Planner, process_group: ProcessGroup) -> Generator:
        """Return the generator of the student that an engine wraps."""
        return cls(
            lambda modules, batch, known: engine.run(batch, planner.look(modules), known), planner.specs, process_group
        )

    @classmethod
    def for_teacher(cls, teacher: Teacher, process_group: ProcessGroup) -> Generator:
        """Return the generator of a teacher."""
        return cls(teacher.run, teacher.modular.adapter.modules, process_group)

    @torch.no_grad()
    def generate(self, batch: Batch, options: Writing, pad: int) -> list[list[int]]:
        """Return the tokens generated after each row's prompt, without the end token; collective.

        Beams are compared by the sum of their tokens' log-probabilities while they grow, and by its mean at the end.

        Args:
            batch: A batch of the data module. Of ``text`` [B, L] only the tokens before the first ``answer`` are read.
            options: Length, beams and allowed tokens.
            pad: The padding token.
        """
        text, position = _prompts(batch["text"], batch["answer"], pad)
        rows, length = text.shape
        once = [module.name for module in self.modules if module.textless and module.inputs is not None]
        rest = [module.name for module in self.modules if module.name not in once]
        known = self.run(once, batch, {}).boundary if once else {}
        beams = options.beams
        if beams > 1:
            text, position = repeat_rows(text, rows, beams), repeat_rows(position, rows, beams)
            known = {module: repeat_rows(tensors, rows, beams) for module, tensors in known.items()}
            batch = repeat_rows(dict(batch), rows, beams)
        all_rows = torch.arange(len(text), device=text.device)
        start, done = position.clone(), position >= length
        score = torch.full((rows, beams), float("-inf"), device=text.device)
        # All beams are the same at first: only one of them is extended in the first step.
        score[:, 0] = 0
        for step in range(options.most):
            if not self.process_group.all_reduce_max(int((~done).any())):
                break
            width = min(int(position.max()) + 1, length)
            logits = self.run(rest, {**batch, "text": text[:, :width]}, known).logits
            assert logits is not None
            next_logits = logits[all_rows, (position - 1).clamp(max=width - 2)].float()
            gain = _mask_forbidden(next_logits, options, pad, step).log_softmax(-1)
            # A finished text is extended by padding, which costs nothing.
            gain[done] = float("-inf")
            gain[done, pad] = 0
            tokens = gain.shape[-1]
            score, best = (score.flatten()[:, None] + gain).view(rows, beams * tokens).topk(beams)
            origin = (torch.arange(rows, device=text.device)[:, None] * beams + best // tokens).flatten()
            token = (best % tokens).flatten()
            text, position, done = text[origin], position[origin], done[origin]
            column = position.clamp(max=length - 1)
            text[all_rows, column] = torch.where(done, text[all_rows, column], token)
            position = position + (~done).long()
            done = done | (token == options.end) | (position >= length)
        means = score / (position - start).view(rows, beams).clamp(min=1)
        best_rows = torch.arange(rows, device=text.device) * beams + means.argmax(1)
        ends = zip(text[best_rows].tolist(), start[best_rows].tolist(), position[best_rows].tolist(), strict=True)
        return [[token for token in row[first:last] if token != options.end] for row, first, last in ends]


def _prompts(text: Tensor, answer: Tensor, pad: int) -> tuple[Tensor, Tensor]:
    """Return texts [B, L] without their answers, and the position where each answer is to begin, [B]."""
    position = answer.long().argmax(1)
    columns = torch.arange(text.shape[1], device=text.device)
    return torch.where(columns < position[:, None], text, pad), position


def _mask_forbidden(logits: Tensor, options: Writing, pad: int, step: int) -> Tensor:
    """Return logits [rows, tokens] with -inf for tokens that must not be generated in this step."""
    allowed = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
    if options.choices and step == 0:
        allowed[list(options.choices)] = True
    else:
        # Padding within a text would mask the tokens after it.
        allowed.fill_(True)[pad] = False
    return logits.masked_fill(~allowed, float("-inf"))
