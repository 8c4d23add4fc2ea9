"""Hidden states of named modules, seen by forward hooks."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


class Capture:
    """Records what named modules put out during one forward pass.

    Register it on the bare model, before any engine wraps it, so that names never carry a wrapper's prefix.
    Outside of :meth:`recording` the hooks do nothing; that also keeps out the second forward of activation
    checkpointing, which runs during the backward pass.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self._record: dict[str, Tensor] | None = None
        self._hooks = {name: model.get_submodule(name).register_forward_hook(self._hook(name)) for name in names}

    def only(self, names: Iterable[str]) -> None:
        """Let go of the others: what is recorded is kept in memory until the step is over."""
        for name in self._hooks.keys() - set(names):
            self._hooks.pop(name).remove()

    def _hook(self, name: str) -> Any:
        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if self._record is not None:
                self._record[name] = _first(output)

        return keep

    @contextmanager
    def recording(self) -> Iterator[dict[str, Tensor]]:
        """Collect hidden states by module name until the block ends. Not reentrant."""
        record: dict[str, Tensor] = {}
        self._record = record
        try:
            yield record
        finally:
            self._record = None


def _first(output: Any) -> Any:
    """The hidden state in what a module put out, which may be a tuple, or a mapping as transformers' models make it."""
    if isinstance(output, Mapping):
        output = tuple(output.values())
    return output[0] if isinstance(output, tuple) else output
