"""What the emitted `sample` is given: the settings of a replica's users, as tensors."""

# pyright: reportUnknownMemberType=false
from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import torch

from ttc.runtime.backends import Backend
from ttc.runtime.program import Program
from ttc.runtime.sampling import LIKELIEST, Draw

_FAR_BELOW = -1e30
"""Added to scaled logits, it leaves a probability of 0."""


class DrawInputs:
    """The tensors of a program's SAMPLING, where they stay. Mutable: it owns device memory.

    how  the tensors by name, as the program takes them
    """

    def __init__(self, program: Program, backend: Backend) -> None:
        self._backend = backend
        self._forms = {name: facts[1:] for name, facts in program.SAMPLING.items()}
        self._users, self._columns = program.SAMPLING["scale"][0][2:]
        self._most = min(program.TOP_K, program.VOCAB)
        ones, offsets = torch.ones(self._users), torch.tensor(program.OFFSETS, dtype=torch.int32)
        values = {
            **self._settings([]),
            "draws": self._by_user([]),
            "best": ones.int(),
            "ones": ones,
            "offsets": offsets.repeat_interleave(program.TOP_K).expand(1, 1, self._users, -1),
        }
        self.how = SimpleNamespace(
            **{name: backend.store(values[name], form) for name, form in self._forms.items()}
        )

    def write(self, draws: Sequence[Draw | None]) -> None:
        """The settings of each user, in the order of the slots; None for nobody."""
        for name, values in self._settings([draw or LIKELIEST for draw in draws]).items():
            self._replace(name, values)

    def write_numbers(self, numbers: Sequence[float]) -> None:
        """What decides each user's next draw, from 0 to below 1."""
        self._replace("draws", self._by_user(numbers))

    def _settings(self, draws: Sequence[Draw]) -> Mapping[str, torch.Tensor]:
        all_users = [*draws, *[LIKELIEST] * (self._users - len(draws))]
        places = torch.arange(1.0, self._columns + 1).expand(1, 1, self._users, -1)
        counts = self._by_user([min(draw.top_k, self._most) for draw in all_users])
        allowed = places <= counts
        return {
            "scale": self._by_user([1.0 / draw.temperature for draw in all_users]),
            "mask": torch.where(allowed, 0.0, _FAR_BELOW),
            "places": places * allowed,
            "top_p": self._by_user([draw.top_p for draw in all_users]),
        }

    def _by_user(self, numbers: Sequence[float]) -> torch.Tensor:
        """[1, 1, users, columns]: a row of each number, zeros for users without one."""
        column = torch.zeros(self._users)
        column[: len(numbers)] = torch.tensor(numbers, dtype=torch.float32)
        return column[:, None].repeat(1, 1, 1, self._columns)

    def _replace(self, name: str, values: torch.Tensor) -> None:
        self._backend.replace(values, getattr(self.how, name), self._forms[name])
