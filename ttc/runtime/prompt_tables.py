"""Rotations that depend on a prompt's length: computed and written before it is read."""

# pyright: reportUnknownMemberType=false
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ttc.checkpoint.layouts import rope_table
from ttc.plan.tables import RopeTable
from ttc.runtime.backends import Backend
from ttc.runtime.program import Program
from ttc.spec.rope import KINDS, alike_tokens


class PromptTables:
    """The tables that prefills of a program gather, and of which sequences they are now.

    Mutable, one for the weights that hold them. The work of a prompt is queued after the tables
    were written, so that later prompts do not change what earlier ones read.
    """

    def __init__(self, program: Program) -> None:
        self._tables = {name: _read(facts) for name, facts in program.PROMPT_TABLES.items()}
        self._held: tuple[int, ...] = ()

    def alike(self, tokens: int) -> tuple[int, ...]:
        """Equal for two lengths whose prompts turn alike: they may share what caches hold."""
        ropes = dict.fromkeys(table.rope for table in self._tables.values())
        return tuple(alike_tokens(rope, tokens) for rope in ropes)

    def write(self, tokens: int, weights: Any, backend: Backend) -> None:
        """Make the tables in `weights` those of a prompt of so many tokens."""
        wanted = self.alike(tokens)
        if wanted == self._held:
            return
        for name, table in self._tables.items():
            values = torch.from_numpy(np.ascontiguousarray(rope_table(table, tokens)[None, None]))
            backend.write(values, getattr(weights, name), "bfloat16")
        self._held = wanted


def _read(facts: Sequence[Any]) -> RopeTable:
    """One entry of PROMPT_TABLES, as `ttc.lower` writes it."""
    kind, order, head_dim, rotary_dim, rows, rope = facts
    fields = dict(rope)
    return RopeTable(
        kind=kind,
        rope=KINDS[fields.pop("kind")](**fields),
        head_dim=head_dim,
        rotary_dim=rotary_dim,
        rows=rows,
        order=order,
    )
