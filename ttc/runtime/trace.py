"""Traces: a step's device commands, recorded once and replayed without the host."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ttc.runtime.backends import Backend


@dataclass(slots=True, kw_only=True)
class Traced[Value]:
    """Work of a device that is the same at every call. Mutable: it keeps what it recorded.

    `work` takes all it reads from tensors that stay where they are, and writes nothing from the
    host. The first call compiles its programs, which a recording cannot do; the second records and
    replays; later ones only replay. A backend without traces does the work at each call.
    """

    backend: Backend
    work: Callable[[], Value]
    _compiled: bool = field(init=False, default=False)
    _recorded: tuple[Any, Value] | None = field(init=False, default=None)

    @property
    def keeps_result(self) -> bool:
        """Whether the tensors of a result belong to a recording, which writes them again."""
        return self._recorded is not None

    def __call__(self) -> Value:
        """Do the work. The result of a replay is overwritten by the next."""
        if not self.backend.traces or not self._compiled:
            self._compiled = True
            return self.work()
        if self._recorded is None:
            self._recorded = self.backend.record(self.work)
        trace, result = self._recorded
        self.backend.replay(trace)
        return result
