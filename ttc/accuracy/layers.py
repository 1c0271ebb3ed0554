# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
"""Layer by layer: every named value of a program, against two that round less.

exact      the same program and stored weights with nothing rounded: what arithmetic and the
           storage of values cost up to here
reference  Hugging Face transformers in float32: what the storage of weights costs as well. It
           knows the inputs and outputs of the modules that have a weight
"""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ttc.accuracy.observe import load_observed
from ttc.checkpoint.files import Checkpoint
from ttc.hardware.hardware import Mesh
from ttc.progress import Progress
from ttc.runtime.artefact import Artefact
from ttc.runtime.backends import Backend, open_backend
from ttc.runtime.replica import TILE_ROWS
from ttc.runtime.session import open_session
from ttc.spec.architecture import ROW, Architecture, Step
from ttc.spec.model import ModelSpec
from ttc.verify.compare import correlation
from ttc.verify.reference import build_reference

type Array = NDArray[np.float32]

_HEAD = -1
"""The place of values outside the decoders, after all of them."""


_JUMP = 4.0
"""An operation is bad if it multiplies the error by more. Attention comes to 2."""

_SMALL_ERROR = 0.03
"""Relative errors that are no jump, whatever was before: LoFi alone comes to 2.6 %."""


class Key(NamedTuple):
    """A value: the phase, the decoder (`_HEAD` outside), its name, and which of equal names."""

    phase: str
    decoder: int
    name: str
    turn: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """How one value agrees: Pearson correlation, and the error's norm over the value's norm.

    NaN where the other side has no such value, or none of that shape.
    """

    phase: str
    decoder: int
    value: str
    pcc_exact: float
    error_exact: float
    pcc_reference: float
    error_reference: float


def compare_layers(
    artefact: Artefact,
    mesh: Mesh,
    spec: ModelSpec,
    checkpoint: Checkpoint,
    token_ids: Sequence[int],
    progress: Progress,
) -> list[Row]:
    """All tokens but the last through prefill, the last through decode; rows in running order."""
    progress("running the reference")
    reference = _reference_values(spec, checkpoint, token_ids)
    rows: list[Row] = []
    with TemporaryDirectory() as folder:
        kept: dict[Key, Path] = {}

        def keep(key: Key, values: Array) -> None:
            kept[key] = Path(folder) / f"{len(kept)}.npy"
            np.save(kept[key], values)

        def compare(key: Key, values: Array) -> None:
            exact, known = np.load(kept.pop(key)), reference.get(key[:3])
            rows.append(_row(key, values, exact, known))

        progress("running without rounding")
        _run(artefact, mesh, token_ids, keep, rounding=False)
        progress("running as the hardware rounds")
        _run(artefact, mesh, token_ids, compare, rounding=True)
    return rows


def first_bad(rows: Sequence[Row]) -> Row | None:
    """The first value whose error is far above all errors before it in its phase: the operation
    that made it is the first bad one. Errors that only grow from layer to layer are none."""
    largest: dict[str, float] = {}
    for row in rows:
        before = largest.get(row.phase, 0.0)
        if not row.error_exact <= max(_SMALL_ERROR, _JUMP * before):
            return row
        largest[row.phase] = max(before, row.error_exact)
    return None


def write_layers(path: Path, rows: Sequence[Row]) -> None:
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(field.name for field in fields(Row))
        lines.writerows(astuple(row) for row in rows)


def _row(key: Key, values: Array, exact: Array, known: Array | None) -> Row:
    pcc, error = _agreement(values, exact)
    known_pcc = known_error = float("nan")
    if known is not None:
        rows = values.reshape(-1, values.shape[-1])[: len(known)]
        if rows.shape == known.shape:
            known_pcc, known_error = _agreement(rows, known)
    return Row(
        phase=key.phase,
        decoder=key.decoder,
        value=key.name,
        pcc_exact=pcc,
        error_exact=error,
        pcc_reference=known_pcc,
        error_reference=known_error,
    )


def _agreement(values: Array, truth: Array) -> tuple[float, float]:
    size = float(np.linalg.norm(truth))
    error = float(np.linalg.norm(values - truth))
    return correlation(values, truth), error / size if size else float("nan")


def _run(
    artefact: Artefact,
    mesh: Mesh,
    token_ids: Sequence[int],
    tell: Callable[[Key, Array], None],
    *,
    rounding: bool,
) -> None:
    with open_backend("emulate", mesh, rounding=rounding) as backend:
        watch = _Watch(backend, tell)
        program = load_observed(artefact.program, backend.ttnn, watch.observe)
        session = open_session(program, artefact, backend)
        watch.decoders = {
            id(each): number
            for replica in session.replicas
            for number, each in enumerate(replica.weights.decoders)
        }
        with watch.phase("prefill"):
            session.prefill([token_ids[:-1]])
        with watch.phase("decode"):
            session.decode([token_ids[-1]])


class _Watch:
    """Turns what a program names into keys and arrays."""

    def __init__(self, backend: Backend, tell: Callable[[Key, Array], None]) -> None:
        self.backend, self.tell = backend, tell
        self.decoders: Mapping[int, int] = {}
        self._phase = ""
        self._turns: dict[tuple[int, str], int] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._phase, self._turns = name, {}
        yield
        self._phase = ""

    def observe(self, _function: str, name: str, value: Any, weights: Any) -> None:
        if not self._phase or not hasattr(value, "memory_config"):
            return  # not a tensor
        decoder = self.decoders.get(id(weights), _HEAD)
        turn = self._turns[decoder, name] = self._turns.get((decoder, name), -1) + 1
        host = self.backend.read(value)
        if host.is_floating_point():
            self.tell(Key(self._phase, decoder, name, turn), host.float().numpy())


def _reference_values(
    spec: ModelSpec, checkpoint: Checkpoint, token_ids: Sequence[int]
) -> dict[tuple[str, int, str], Array]:
    """By phase, decoder and name: what goes into and comes out of modules that have a weight."""
    model = build_reference(spec, checkpoint)
    seen: dict[tuple[int, str], Array] = {}

    def watch(module: Any, operand: tuple[int, str], result: tuple[int, str]) -> None:
        def hook(_module: Any, given: Any, out: Any) -> None:
            seen[operand] = given[0][0].float().numpy()
            seen[result] = out[0].float().numpy()

        module.register_forward_hook(hook)

    for operand, result, name in _modules(spec):
        watch(model.get_submodule(name), operand, result)
    with torch.inference_mode():
        model(torch.tensor([list(token_ids)]))
    prompt = len(token_ids) - 1
    last_tile = (prompt - 1) // TILE_ROWS * TILE_ROWS  # the head reads that tile of a prompt
    values: dict[tuple[str, int, str], Array] = {}
    for (decoder, name), rows in seen.items():
        values["prefill", decoder, name] = rows[last_tile if decoder == _HEAD else 0 : prompt]
        values["decode", decoder, name] = rows[prompt:]
    return values


def _modules(spec: ModelSpec) -> Iterator[tuple[tuple[int, str], tuple[int, str], str]]:
    """Operand, result and the transformers module of every step with a weight that reads values.

    What a decoder reads is the result of the one before it.
    """
    architecture, last = spec.architecture, spec.dims.layers - 1
    result = architecture.decoder[-1].result
    for layer in range(spec.dims.layers):
        prefix = architecture.prefixes["hf"].replace("{i}", str(layer))
        for step, weight in _weighted(architecture, architecture.decoder):
            read = (layer - 1, result) if step.operands[0] == "x" else (layer, step.operands[0])
            yield read, (layer, step.result), prefix + weight
    for step, weight in _weighted(architecture, architecture.model):
        of_decoder = any(
            each.op == "repeat" and each.result == step.operands[0] for each in architecture.model
        )
        read = (last, result) if of_decoder else (_HEAD, step.operands[0])
        yield read, (_HEAD, step.result), weight


def _weighted(architecture: Architecture, steps: Sequence[Step]) -> Iterator[tuple[Step, str]]:
    """Steps whose weight is the tensor `.weight` of a module of its own.

    Not the projections of heads that a layer norm centres: their weights are stored centred.
    """
    centred = {step.operands[0] for step in steps if architecture.centres_heads(step)}
    for step in steps:
        name = step.setting("weight")
        weight = architecture.weight(name).hf if name else ""
        own_module = weight.endswith(".weight") and ROW not in weight
        if step.op != "embedding" and own_module and step.result not in centred:
            yield step, weight.removesuffix(".weight")
