"""What a plan takes of a chip's memory, and what would still fit, as data."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Bytes on one chip and on its fullest core, and the limits they must keep.

    `input_bytes` are the tokens, positions and page table that stay between steps;
    `activation_bytes` is the most that a step holds beside what stays.
    """

    weights_by_group: tuple[tuple[str, int], ...]
    kv_cache_bytes: int
    rope_bytes: int
    input_bytes: int
    activation_bytes: int
    trace_region_bytes: int
    dram_limit_bytes: int
    l1_peak_bytes_per_core: int
    l1_limit_bytes_per_core: int

    @property
    def weight_bytes(self) -> int:
        """All weights as stored, tile and bank padding included."""
        return sum(size for _, size in self.weights_by_group)

    @property
    def dram_bytes_per_chip(self) -> int:
        """What one chip must hold at the fullest moment."""
        return (
            self.weight_bytes
            + self.kv_cache_bytes
            + self.rope_bytes
            + self.input_bytes
            + self.activation_bytes
            + self.trace_region_bytes
        )

    @property
    def fits_dram(self) -> bool:
        """Whether the chip's DRAM holds the plan."""
        return self.dram_bytes_per_chip <= self.dram_limit_bytes

    @property
    def fits(self) -> bool:
        """Whether DRAM and L1 hold the plan."""
        return self.fits_dram and self.l1_peak_bytes_per_core <= self.l1_limit_bytes_per_core


@dataclass(frozen=True, slots=True, kw_only=True)
class Largest:
    """What would still fit, solved with the same memory plan."""

    context: int
    batch: int
    prefill_bucket: int
    max_tokens_all_users: int
