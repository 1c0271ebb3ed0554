"""Quantised tensors of Hugging Face checkpoints, dequantised some rows at a time.

What a scheme stores of `proj.weight` [out, in], and what the value at [o, i] is:

  fp8, compressed FP8 and int8   weight, weight_scale or weight_scale_inv, a number for all, for
                                 each row, or for each block of rows and columns: weight * scale
  compressed int4 and int8       weight_packed (int32, inputs in its bits from the lowest),
                                 weight_scale [out, groups], weight_zero_point (packed along out)
  gptq                           qweight [in / 8, out], qzeros [groups, out / 8] (one less than the
                                 zero point, except in gptq_v2), scales [groups, out], g_idx [in]
  awq                            qweight [in, out / 8] and qzeros in an order of their own, scales

Sources: transformers' and compressed-tensors' own unpacking, compared in
tests/checkpoint/test_quantized.py by definition.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ttc.checkpoint.stored import PLAIN_DTYPES, StoredTensor, read_rows, read_values

type Floats = NDArray[np.float32]
type Read = Callable[[slice], Floats]

EIGHT_BIT_DTYPES = ("F8_E4M3", "F8_E5M2", "I8")
SCALES = ("weight_scale", "weight_scale_inv")
AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)  # places of the values 0 to 7 in a word, from the lowest bits
# What a quantised checkpoint may hold beside the weights: scales of activations and of KV caches.
ACTIVATIONS = ("input_scale", "output_scale", "input_zero_point", "k_scale", "v_scale")
METHODS = ("fp8", "compressed-tensors", "gptq", "awq")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dequantized:
    """A weight that is computed: its shape [out, in], and how some of its rows are read.

    `fault` says why it cannot be, where that is so.
    """

    shape: tuple[int, ...]
    read: Read
    fault: str = ""


def unsupported_method(config: Mapping[str, Any]) -> str:
    """The method of `quantization_config` if it is not one of METHODS, else an empty string."""
    settings = _settings(config)
    method = str(settings.get("quant_method", "")) if settings else ""
    return "" if not settings or method in METHODS else method or "unnamed"


def dequantized(
    tensors: Mapping[str, StoredTensor], config: Mapping[str, Any]
) -> tuple[dict[str, Dequantized], frozenset[str]]:
    """Weights that must be computed, and the names of the tensors that they are computed from."""
    settings = _settings(config)
    if not settings:
        return {}, frozenset()
    computed: dict[str, Dequantized] = {}
    used: set[str] = {name for name in tensors if name.rpartition(".")[2] in ACTIVATIONS}
    for name, stored in tensors.items():
        stem, _, kind = name.rpartition(".")
        found = None
        if kind == "weight" and stored.dtype in EIGHT_BIT_DTYPES:
            found = _scaled(tensors, stem, settings)
        elif kind == "weight_packed":
            found = _packed(tensors, stem, settings)
        elif kind == "qweight":
            method = settings.get("quant_method")
            found = (_awq if method == "awq" else _gptq)(tensors, stem, settings)
        if found is not None:
            computed[f"{stem}.weight"], parts = found
            used |= {f"{stem}.{part}" for part in parts}
    return computed, frozenset(used)


type _Found = tuple[Dequantized, Iterable[str]] | None
type _Tensors = Mapping[str, StoredTensor]


def _settings(config: Mapping[str, Any]) -> Mapping[str, Any]:
    value: object = config.get("quantization_config") or config.get("compression_config")
    return cast(Mapping[str, Any], value) if isinstance(value, dict) else {}


def _scaled(tensors: _Tensors, stem: str, settings: Mapping[str, Any]) -> _Found:
    """8-bit values times a scale."""
    weight = tensors[f"{stem}.weight"]
    kind = next((kind for kind in SCALES if f"{stem}.{kind}" in tensors), None)
    if kind is None or len(weight.shape) != 2 or f"{stem}.weight_zero_point" in tensors:
        return None
    scale = tensors[f"{stem}.{kind}"]
    if len(scale.shape) > 2 or 0 in (*scale.shape, *weight.shape):
        return None
    given = _block_size(settings)
    rows, columns = weight.shape
    blocks = scale.shape if len(scale.shape) == 2 else (scale.shape or (1,)) + (1,)
    sizes = (
        _block(rows, blocks[0], given[0]),
        _block(columns, blocks[1], given[1]),
    )
    if scale.dtype not in PLAIN_DTYPES:
        return None
    if None in sizes:
        return _misshapen(weight, scale, kind, given)
    height, width = cast(tuple[int, int], sizes)

    def read(wanted: slice) -> Floats:
        values = _eight_bit(weight, f"{stem}.weight", wanted)
        scales = _floats(scale, f"{stem}.{kind}").reshape(blocks)
        first = np.arange(int(wanted.start), int(wanted.stop)) // height
        return values * np.repeat(scales[first], width, axis=1)[:, :columns]

    return Dequantized(shape=weight.shape, read=read), ("weight", kind)


def _misshapen(
    weight: StoredTensor, scale: StoredTensor, kind: str, block: tuple[int, int]
) -> _Found:
    """A weight whose scale has a shape that none of the ways to scale it has."""
    rows, columns = weight.shape
    blocks = [-(-rows // block[0]), -(-columns // block[1])]
    fault = (
        f"has a {kind} of shape {list(scale.shape)}; expected one number, {[rows, 1]} for rows "
        f"or {blocks} for blocks of {block[0]} x {block[1]}"
    )
    return Dequantized(shape=weight.shape, read=_unread, fault=fault), ("weight", kind)


def _unread(_: slice) -> Floats:
    raise AssertionError("a weight with a fault is refused before it is read")


def _block_size(settings: Mapping[str, Any]) -> tuple[int, int]:
    """Rows and columns of a block with one scale; 128 of both if nothing sensible is said."""
    match settings.get("weight_block_size"):
        case [int(height), int(width)] if height > 0 and width > 0:
            return height, width
        case _:
            return 128, 128


def _block(size: int, count: int, given: int) -> int | None:
    """Elements for which one of `count` scales holds; None if no such number fits."""
    if count == 1:
        return size
    if count == size:
        return 1
    return given if -(-size // given) == count else None


def _packed(tensors: _Tensors, stem: str, settings: Mapping[str, Any]) -> _Found:
    """Words of int32 along the inputs, one scale for each row and group of inputs."""
    packed, scale = tensors[f"{stem}.weight_packed"], tensors.get(f"{stem}.weight_scale")
    shape_name = f"{stem}.weight_shape"
    if scale is None or shape_name not in tensors or scale.dtype not in PLAIN_DTYPES:
        return None
    if (tensors[shape_name].dtype, tensors[shape_name].shape) != ("I64", (2,)):
        return None
    rows, columns = map(int, read_rows(tensors[shape_name], "<i8", shape_name, None))
    bits, groups = _bits(settings), scale.shape[-1] if scale.shape else 0
    if not _are_words(packed, (rows, -(-columns * bits // 32))) or columns < 1:
        return None
    if scale.shape != (rows, groups) or groups < 1:
        return None
    zero = tensors.get(f"{stem}.weight_zero_point")
    index = tensors.get(f"{stem}.weight_g_idx")
    if zero is not None and not _are_words(zero, (-(-rows * bits // 32), groups)):
        return None

    def read(wanted: slice) -> Floats:
        words = read_rows(packed, "<u4", f"{stem}.weight_packed", wanted)
        values = _unpack(words, bits, axis=1)[:, :columns].astype(np.float32)
        if zero is None:
            values -= 1 << (bits - 1)
        group = _groups(index, f"{stem}.weight_g_idx", columns, groups)
        scales = _floats(scale, f"{stem}.weight_scale")[wanted][:, group]
        if zero is not None:
            words = read_rows(zero, "<u4", f"{stem}.weight_zero_point", None)
            values -= _unpack(words, bits, axis=0)[wanted][:, group]
        return values * scales

    parts = ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx")
    return Dequantized(shape=(rows, columns), read=read), parts


def _gptq(tensors: _Tensors, stem: str, settings: Mapping[str, Any]) -> _Found:
    bits = settings.get("bits", 4)
    off_by_one = settings.get("checkpoint_format", "gptq") != "gptq_v2"
    words = tensors[f"{stem}.qweight"]
    if not isinstance(bits, int) or bits not in (4, 8) or not _are_words(words):
        return None
    inputs, outputs = words.shape[0] * 32 // bits, words.shape[1]

    def values(wanted: slice) -> NDArray[Any]:
        stored = read_rows(words, "<u4", f"{stem}.qweight", None)
        return _unpack(np.ascontiguousarray(stored[:, wanted]), bits, axis=0)

    def zeros() -> NDArray[Any]:
        stored = read_rows(tensors[f"{stem}.qzeros"], "<u4", f"{stem}.qzeros", None)
        return _unpack(stored, bits, axis=1) + int(off_by_one)

    return _grouped(tensors, stem, (outputs, inputs), values, zeros, bits)


def _awq(tensors: _Tensors, stem: str, settings: Mapping[str, Any]) -> _Found:
    words = tensors[f"{stem}.qweight"]
    if settings.get("bits", 4) != 4 or not _are_words(words):
        return None
    inputs, outputs = words.shape[0], words.shape[1] * 8

    def values(wanted: slice) -> NDArray[Any]:
        stored = read_rows(words, "<u4", f"{stem}.qweight", None)
        return _unpack(stored, 4, axis=1, order=AWQ_ORDER)[:, wanted]

    def zeros() -> NDArray[Any]:
        stored = read_rows(tensors[f"{stem}.qzeros"], "<u4", f"{stem}.qzeros", None)
        return _unpack(stored, 4, axis=1, order=AWQ_ORDER)

    return _grouped(tensors, stem, (outputs, inputs), values, zeros, 4)


def _grouped(
    tensors: _Tensors,
    stem: str,
    shape: tuple[int, int],
    values: Callable[[slice], NDArray[Any]],
    zeros: Callable[[], NDArray[Any]],
    bits: int,
) -> _Found:
    """A matrix stored as [in, out], with scales and zero points [groups, out]."""
    scale, zero = tensors.get(f"{stem}.scales"), tensors.get(f"{stem}.qzeros")
    if scale is None or zero is None or scale.dtype not in PLAIN_DTYPES:
        return None
    if len(scale.shape) != 2 or scale.shape[1] != shape[0] or scale.shape[0] < 1:
        return None
    if not _are_words(zero, (scale.shape[0], shape[0] * bits // 32)):
        return None
    index = tensors.get(f"{stem}.g_idx")

    def read(wanted: slice) -> Floats:
        group = _groups(index, f"{stem}.g_idx", shape[1], scale.shape[0])
        scales = _floats(scale, f"{stem}.scales")[:, wanted]
        centred = values(wanted).astype(np.float32) - zeros()[:, wanted][group]
        return np.ascontiguousarray((centred * scales[group]).T)

    return Dequantized(shape=shape, read=read), ("qweight", "qzeros", "scales", "g_idx")


def _are_words(stored: StoredTensor, shape: tuple[int, ...] | None = None) -> bool:
    """Whether a tensor is a matrix of 32-bit words, of a shape if one is given."""
    matrix = len(stored.shape) == 2 and 0 not in stored.shape
    return matrix and stored.dtype in ("I32", "U32") and shape in (None, stored.shape)


def _groups(index: StoredTensor | None, name: str, columns: int, groups: int) -> NDArray[np.int64]:
    """The group of every input: in order, or as an index says."""
    if index is None or index.dtype != "I32" or index.shape != (columns,):
        return np.arange(columns) // -(-columns // groups)
    return np.clip(read_rows(index, "<i4", name, None), 0, groups - 1).astype(np.int64)


def _bits(settings: Mapping[str, Any]) -> int:
    """Bits of a packed weight: those of the first group that says it; 4 as a rule."""
    for group in _mapping(settings.get("config_groups")).values():
        bits: object = _mapping(_mapping(group).get("weights")).get("num_bits")
        if isinstance(bits, int) and bits in (4, 8):
            return bits
    return 4


def _mapping(value: object) -> Mapping[str, object]:
    """A value of a JSON file, if it is an object."""
    return cast(Mapping[str, object], value) if isinstance(value, dict) else {}


def _unpack(
    words: NDArray[np.uint32], bits: int, axis: int, order: Sequence[int] = ()
) -> NDArray[np.int16]:
    """The unsigned values in 32-bit words, side by side along `axis`, the lowest bits first."""
    count = 32 // bits
    places = order or range(count)
    mask = np.uint32((1 << bits) - 1)
    values = [(words >> np.uint32(bits * place) & mask).astype(np.int16) for place in places]
    stacked = np.stack(values, axis=axis + 1)
    shape = list(words.shape)
    shape[axis] *= count
    return stacked.reshape(shape)


def _floats(stored: StoredTensor, name: str) -> Floats:
    values = read_values(name, stored)
    if stored.dtype == "BF16":
        return np.left_shift(values, 16, dtype=np.uint32).view(np.float32)
    return values


def _eight_bit(stored: StoredTensor, name: str, rows: slice) -> Floats:
    if stored.dtype == "I8":
        return read_rows(stored, "i1", name, rows).astype(np.float32)
    return _float8(stored.dtype)[read_rows(stored, "u1", name, rows)]


@cache
def _float8(dtype: str) -> Floats:
    """The values of all 256 codes: E4M3 without infinities, or E5M2 (OCP 8-bit floating point)."""
    mantissa_bits, bias = (3, 7) if dtype == "F8_E4M3" else (2, 15)
    codes = np.arange(256)
    exponent = (codes & 0x7F) >> mantissa_bits
    fraction = (codes & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits)
    magnitude = np.where(
        exponent == 0,
        fraction * 2.0 ** (1 - bias),
        (1 + fraction) * 2.0 ** (exponent.astype(np.float64) - bias),
    )
    if dtype == "F8_E4M3":
        magnitude[(codes & 0x7F) == 0x7F] = np.nan
    else:
        magnitude[exponent == 31] = np.where(fraction[exponent == 31] == 0, np.inf, np.nan)
    return np.where(codes >= 128, -magnitude, magnitude).astype(np.float32)
