"""What the planner plans for: one model, one chip, a number of users and tokens, a precision."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ttc.graph.graph import Graph, ModelGraph
from ttc.graph.nodes import Attention, RopeQk
from ttc.graph.shapes import Shape
from ttc.hardware.hardware import Chip, Mesh
from ttc.plan.parallel import Parallel, one_chip
from ttc.plan.placement import (
    TILE,
    Placement,
    divisors,
    rectangle,
    tiles,
)
from ttc.spec.model import Dims, ModelSpec
from ttc.spec.precision import EffectivePrecision, PrecisionProfile, effective

Phase = Literal["decode", "prefill"]

KV_BLOCK_TOKENS = 32

# Cores that share a decode step's residual stream. More cores shorten norms and sums, fewer keep
# the matmul's K slices wide; 32 is the middle that tt-transformers settled on (find_grid).
RESIDUAL_CORES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class MatmulGroups:
    """How the precision profile names what a matmul with weights of one group does."""

    op: Mapping[Phase, str]
    activation: str


MATMUL_GROUPS: Mapping[str, MatmulGroups] = {
    "wqkv": MatmulGroups(
        op={"decode": "li_qkv_decode", "prefill": "li_qkv_prefill"}, activation="qkv"
    ),
    "wo": MatmulGroups(
        op={"decode": "li_o_decode", "prefill": "li_o_prefill"}, activation="attn_out"
    ),
    "ff1_3": MatmulGroups(op={"decode": "li_ff1_3", "prefill": "li_ff1_3"}, activation="ff_hidden"),
    "ff2": MatmulGroups(op={"decode": "li_ff2", "prefill": "li_ff2"}, activation="ff_out"),
    "lm_head": MatmulGroups(
        op={"decode": "li_lm_head", "prefill": "li_lm_head"}, activation="logits"
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The inputs of planning. `slots` is `batch` rounded up to a number of users that ttnn takes.

    `weight_shapes` and `weight_groups` are by the architecture's weight names.
    """

    spec: ModelSpec
    graph: ModelGraph
    mesh: Mesh
    parallel: Parallel
    profile: PrecisionProfile
    batch: int
    slots: int
    context: int
    weight_shapes: Mapping[str, Shape]
    weight_groups: Mapping[str, str]
    decoders: tuple[EffectivePrecision, ...]
    model_precision: EffectivePrecision

    @property
    def chip(self) -> Chip:
        """The chip that every device of the mesh is."""
        return self.mesh.chip

    @property
    def dims(self) -> Dims:
        """The model's sizes."""
        return self.spec.dims

    @property
    def rope_tables(self) -> tuple[str, ...]:
        """The tables of the spec by which any decoder rotates."""
        decoders = self.graph.decoders.values()
        used = {node.table for graph in decoders for node in graph.find(RopeQk)}
        return tuple(sorted(used, reverse=True))

    def graph_of(self, layer: int) -> Graph:
        """The graph of one decoder."""
        return self.graph.decoders[self.spec.kind_of(layer)]

    @property
    def residual(self) -> Placement:
        """Where the residual stream of a decode step lives: width sharded over a rectangle."""
        grid, width = self.chip.grid, tiles(self.dims.hidden)
        fitting = [n for n in divisors(width) if rectangle(n, grid.x, grid.y) is not None]
        cores = min(fitting, key=lambda n: (abs(n - RESIDUAL_CORES), n))
        corners = rectangle(cores, grid.x, grid.y)
        assert corners is not None
        return Placement(
            name="HIDDEN_L1",
            buffer="l1",
            layout="width_sharded",
            grid=(corners,),
            shard=(TILE, self.dims.hidden // cores),
        )


def make_setting(
    spec: ModelSpec,
    graph: ModelGraph,
    mesh: Mesh,
    profile: PrecisionProfile,
    *,
    batch: int,
    context: int,
) -> Setting:
    """Put the inputs of planning together; sizes are resolved, nothing is chosen but the slots."""
    architecture = spec.architecture
    weights = (*architecture.weights, *architecture.decoder_weights)
    return Setting(
        spec=spec,
        graph=graph,
        mesh=mesh,
        parallel=one_chip(spec.dims.heads, spec.dims.kv_heads),
        profile=profile,
        batch=batch,
        slots=user_slots(batch, mesh.chip),
        context=context,
        weight_shapes={
            weight.name: tuple(spec.dims.product(size) for size in weight.shape)
            for weight in weights
        },
        weight_groups={weight.name: weight.group for weight in weights},
        decoders=tuple(effective(profile, spec, i) for i in range(spec.dims.layers)),
        model_precision=effective(profile, spec, None),
    )


def window_of(node: Attention, setting: Setting) -> int:
    """Positions that a query of an attention sees, or 0 where the context has no more anyway."""
    return node.window if node.window < setting.context else 0


def user_slots(batch: int, chip: Chip) -> int:
    """The smallest number of users >= batch whose heads fill a rectangle of cores.

    nlp_concat_heads_decode reads its users from a rectangle (on another grid ttnn 0.81.1 fails
    with "bad optional access").
    """
    slots = batch
    while rectangle(slots, chip.grid.x, chip.grid.y) is None:
        slots += 1
    return slots
