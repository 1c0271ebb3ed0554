"""Measured times of operations, read from `laws.yaml`; no such number is in Python."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType

from ttc.located import Located
from ttc.schema import load_yaml


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A collective over N chips: fixed, for each hop, and for the bytes that a link carries."""

    fixed_seconds: float
    hop_seconds: float
    bytes_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Laws:
    """What one architecture takes. Seconds are `fixed` + bytes / `bytes_per_second`.

    `weight_tile_cycles` (fixed, each fidelity phase) bound a decode product on the cores beside
    the banks; `gemm` are (tokens, utilisation of the matrix units), rising; `exchanges` are by
    topology and kind, measured over `exchange_links` links. `sources` says where each is from.
    """

    weights_fixed_seconds: float
    weights_bytes_per_second: float
    weight_tile_cycles: tuple[float, float]
    cache_fixed_seconds: float
    cache_bytes_per_second: float
    cache_of_a_head_bytes_per_second: float
    interleaved_bytes_per_second: float
    norm_seconds: float
    small_operation_seconds: float
    gap_seconds: float
    argmax_seconds_each_logit: float
    gemm: tuple[tuple[float, float], ...]
    attention_flops_per_second: float
    exchanges: Mapping[tuple[str, str], Exchange]
    exchange_links: int
    sources: Mapping[str, str] = field(compare=False, repr=False)

    def gemm_utilisation(self, tokens: int) -> float:
        """The share of the peak: on straight lines between measured sizes, from none at none."""
        below = (0.0, 0.0)
        for size, share in self.gemm:
            if tokens < size:
                return below[1] + (share - below[1]) * (tokens - below[0]) / (size - below[0])
            below = (size, share)
        return below[1]


@cache
def load_laws(arch: str) -> Laws:
    """The laws of one architecture of chips.yaml."""
    path = Path(__file__).parent / "laws.yaml"
    data = load_yaml(path, "laws", shown="ttc/hardware/laws.yaml")
    laws, sources = data["laws"][arch], data["sources"]

    def number(law: str, name: str) -> float:
        return laws[law][name].number

    sizes, shares = laws["gemm"]["tokens"].elements(), laws["gemm"]["utilisation"].elements()
    collectives = laws["collectives"]
    return Laws(
        weights_fixed_seconds=number("weights", "fixed_seconds"),
        weights_bytes_per_second=number("weights", "bytes_per_second"),
        weight_tile_cycles=(
            number("weight_tile_cycles", "fixed"),
            number("weight_tile_cycles", "each_phase"),
        ),
        cache_fixed_seconds=number("cache", "fixed_seconds"),
        cache_bytes_per_second=number("cache", "bytes_per_second"),
        cache_of_a_head_bytes_per_second=number("cache_of_a_head", "bytes_per_second"),
        interleaved_bytes_per_second=number("interleaved", "bytes_per_second"),
        norm_seconds=number("norm", "seconds"),
        small_operation_seconds=number("small_operation", "seconds"),
        gap_seconds=number("gap", "seconds"),
        argmax_seconds_each_logit=number("argmax", "seconds_each_logit"),
        gemm=tuple((a.number, b.number) for a, b in zip(sizes, shares, strict=True)),
        attention_flops_per_second=number("attention", "flops_per_second"),
        exchanges=MappingProxyType(
            {
                (topology, kind): _exchange(each)
                for topology in ("line", "ring")
                for kind, each in collectives[topology].fields().items()
            }
        ),
        exchange_links=collectives["links"].integer,
        sources=MappingProxyType(
            {name: sources[law["source"].text].text for name, law in laws.fields().items()}
        ),
    )


def _exchange(law: Located) -> Exchange:
    return Exchange(
        fixed_seconds=law["fixed_seconds"].number,
        hop_seconds=law["hop_seconds"].number,
        bytes_per_second=law["bytes_per_second"].number,
    )
