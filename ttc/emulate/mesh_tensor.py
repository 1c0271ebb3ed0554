"""Tensors of a mesh of several devices, and how operations of one device run on all of them."""

from collections.abc import Callable, Sequence
from functools import wraps
from inspect import signature
from typing import Any, cast

from ttc.emulate.configs import MemoryConfig
from ttc.emulate.device import MeshDevice
from ttc.emulate.dtypes import DataType, Layout
from ttc.emulate.errors import EmulationError, require
from ttc.emulate.tensor import Shape, Tensor


class MeshTensor:
    """One tensor per device, row by row, all of one form; each lies on the mesh's `chip`.

    Devices that hold the same values may share one tensor, which is then computed once. Its form
    is that of one device, as in ttnn.
    """

    __slots__ = ("_mesh", "shards")

    def __init__(self, mesh: MeshDevice | None, shards: Sequence[Tensor]) -> None:
        self._mesh = mesh
        self.shards = list(shards)

    @property
    def shape(self) -> Shape:
        return self.shards[0].shape

    @property
    def padded_shape(self) -> Shape:
        return self.shards[0].padded_shape

    @property
    def dtype(self) -> DataType:
        return self.shards[0].dtype

    @property
    def layout(self) -> Layout:
        return self.shards[0].layout

    def memory_config(self) -> MemoryConfig:
        return self.shards[0].memory_config()

    def device(self) -> MeshDevice | None:
        return self._mesh

    def is_sharded(self) -> bool:
        return self.shards[0].is_sharded()

    def is_allocated(self) -> bool:
        return self.shards[0].is_allocated()

    def deallocate(self, force: bool = True) -> None:
        for shard in self.shards:
            shard.deallocate(force)

    def __repr__(self) -> str:
        return f"{self.shards[0]!r} on each of {len(self.shards)} devices"


def per_device[**P, Result](
    operation: Callable[P, Result], *, writes: Sequence[str] = ()
) -> Callable[P, Result]:
    """`operation` of one device, made to run on every device of a mesh.

    Where no operand is a MeshTensor it is the operation itself. Devices whose operands are all
    shared compute once and share the result.

    writes   parameters whose tensor the operation changes in place: what other devices share of
             it is copied first
    """
    names = list(signature(operation).parameters)
    written = tuple((names.index(name), name) for name in writes)

    @wraps(operation)
    def run(*args: P.args, **named: P.kwargs) -> Result:
        first = args[0] if args else None
        if type(first) is Tensor and first.device() is not None:  # a mesh of one, the usual case
            return operation(*args, **named)
        operands = _operands(args) + _operands(tuple(named.values()))
        if not operands:
            return operation(*args, **named)
        mesh = operands[0].device()
        for operand in operands:
            require(
                operand.device() is mesh or operand.device() is None,
                operation.__name__,
                "operands must be on one device",
            )
        for position, name in written:
            target = args[position] if position < len(args) else named.get(name)
            if isinstance(target, MeshTensor):
                _unshare(target, operands)
        results: dict[tuple[int, ...], Result] = {}
        keys = _keys(operands)
        for index, key in enumerate(keys):
            if key not in results:
                results[key] = cast(Any, operation)(
                    *(_of_device(value, index) for value in args),
                    **{name: _of_device(value, index) for name, value in named.items()},
                )
        return _on_mesh(mesh, [results[key] for key in keys], operands)

    return run


def _operands(values: tuple[object, ...]) -> list[MeshTensor]:
    """The mesh tensors among arguments, also those in lists."""
    found: list[MeshTensor] = []
    for value in values:
        if type(value) is MeshTensor:
            found.append(value)
        elif type(value) is list or type(value) is tuple:
            several = cast(Sequence[object], value)
            found += [one for one in several if type(one) is MeshTensor]
    return found


def _of_device(value: object, index: int) -> object:
    if type(value) is MeshTensor:
        return value.shards[index]
    if type(value) is list or type(value) is tuple:
        each = [_of_device(one, index) for one in cast(Sequence[object], value)]
        return each if isinstance(value, list) else tuple(each)
    return value


def _keys(operands: Sequence[MeshTensor]) -> list[tuple[int, ...]]:
    """For each device what it computes with: equal where all operands are shared."""
    return list(zip(*([id(one) for one in operand.shards] for operand in operands), strict=True))


def _unshare(target: MeshTensor, operands: Sequence[MeshTensor]) -> None:
    """Give devices that are about to write different values tensors of their own."""
    owners: dict[int, tuple[int, ...]] = {}
    copies: dict[tuple[int, ...], Tensor] = {}
    for index, key in enumerate(_keys(operands)):
        shard = target.shards[index]
        if owners.setdefault(id(shard), key) != key:
            target.shards[index] = copies.setdefault(key, shard.clone())


def _on_mesh[Result](
    mesh: MeshDevice | None, results: Sequence[Result], operands: Sequence[MeshTensor]
) -> Result:
    """The results of all devices as one: tensors, or tuples of them; anything else is the same."""
    first = results[0]
    if isinstance(first, tuple):
        parts = zip(*cast(Sequence[tuple[Any, ...]], results), strict=True)
        return cast(Result, tuple(_on_mesh(mesh, list(part), operands) for part in parts))
    if not isinstance(first, Tensor):
        return first
    shards = cast(Sequence[Tensor], results)
    for operand in operands:  # an operation that gave an operand back
        if all(one is other for one, other in zip(operand.shards, shards, strict=True)):
            return cast(Result, operand)
    return cast(Result, MeshTensor(mesh, shards))


def replicated(mesh: MeshDevice, tensor: Tensor) -> Tensor | MeshTensor:
    """A tensor of the mesh's chip on every device."""
    count = mesh.get_num_devices()
    return tensor if count == 1 else MeshTensor(mesh, [tensor] * count)


def shards_of(op: str, tensor: object) -> tuple[MeshDevice, list[Tensor]]:
    """The mesh and the tensors of an operand of a collective; all must be allocated."""
    if not isinstance(tensor, MeshTensor):
        raise EmulationError(op, f"a collective needs a tensor of several devices, got {tensor!r}")
    mesh = tensor.device()
    if mesh is None:
        raise EmulationError(op, "operands must be on a device")
    require(tensor.is_allocated(), op, "an operand is not allocated (used after deallocate)")
    return mesh, tensor.shards
