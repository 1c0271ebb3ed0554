"""What the planner plans for: a model on the ranks of a replica, users, tokens, a precision."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil, prod
from typing import Literal

from ttc.errors import PlanError, Problem
from ttc.graph.graph import Graph, ModelGraph
from ttc.graph.nodes import Add, Attention, LayerNorm, Linear, Multiply, Node, RmsNorm, RopeQk
from ttc.graph.shapes import Shape
from ttc.hardware.chips import Chip
from ttc.hardware.hardware import Mesh
from ttc.plan.degree import choose_division
from ttc.plan.heads import HeadBytes, choose_heads
from ttc.plan.paging import Paging
from ttc.plan.parallel import Parallel, Residual
from ttc.plan.placement import (
    TILE,
    TILE_BYTES,
    Placement,
    TensorPlan,
    divisors,
    largest_divisor,
    rectangle,
    tiles,
)
from ttc.plan.plan import Choice
from ttc.plan.tables import depends_on_length
from ttc.spec.model import Dims, ModelSpec, ParallelWish
from ttc.spec.precision import EffectivePrecision, PrecisionProfile, effective
from ttc.spec.rope import Rope

Phase = Literal["decode", "prefill"]

# Cores that share a decode step's residual stream. More cores shorten norms and sums, fewer keep
# the matmul's K slices wide; 32 is the middle that tt-transformers settled on (find_grid).
RESIDUAL_CORES = 32

# Fewest cores for it: its width is padded to a number of tiles that divides over as many at least.
LEAST_RESIDUAL_CORES = 8

# Fewest cores for the feed-forward of a decode step: its width is padded to a number of tiles that
# divides over as many at least.
FFN_CORES = 16

# Elements of a head that rotation in pairs with sums in fp32 has room for.
# ttnn 0.81.1: "If head_dim is > 128, fp32_dest_acc_en must be False" (rotary_embedding_llama).
WIDE_HEAD = 128

# Sizes of weights that ranks divide. Other sizes are whole on every rank.
DIVIDED = ("heads", "kv_heads", "ffn", "vocab")


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

    `dims` are the sizes on one rank: its heads, its part of the feed-forward and of the vocabulary,
    padded; `embedded` is its part of an embedded token. `weight_shapes` (on one rank as well) and
    `weight_groups` are by the architecture's weight names. `buffers` hold what ranks send each
    other in a decode step; `choices` are those made so far.
    """

    spec: ModelSpec
    graph: ModelGraph
    mesh: Mesh
    parallel: Parallel
    dims: Dims
    embedded: int
    profile: PrecisionProfile
    batch: int
    slots: int
    context: int
    paging: Paging
    weight_shapes: Mapping[str, Shape]
    weight_groups: Mapping[str, str]
    decoders: tuple[EffectivePrecision, ...]
    model_precision: EffectivePrecision
    choices: tuple[Choice, ...]
    buffers: tuple[tuple[str, TensorPlan], ...] = ()

    @property
    def chip(self) -> Chip:
        """The chip that every device of the mesh is."""
        return self.mesh.chip

    @property
    def kept_l1_bytes(self) -> int:
        """L1 of each core that buffers of collectives keep."""
        return sum(each.bytes_per_core(self.chip.grid.cores) for _, each in self.buffers)

    @property
    def fractured(self) -> bool:
        """Whether each rank has a part of the width of a prefill's residual stream."""
        return self.parallel.prefill_residual == "fractured"

    def divided_by(self, weight: str, dim: Literal["out", "in"]) -> str:
        """The size that ranks divide in one dim of a weight, or "" where they do not."""
        shape = self.spec.architecture.weight(weight).shape
        sizes = shape[0] if dim == "out" else shape[1] if len(shape) > 1 else ()
        return next((size for size in sizes if size in DIVIDED), "")

    def filled(self, node: RmsNorm | LayerNorm) -> float:
        """The part of the elements a norm adds up that are not padding."""
        shares = {
            "hidden": self.spec.dims.hidden / self.dims.hidden,
            "head_dim": self.spec.dims.head_dim / self.dims.head_dim,
        }
        of_heads = ("head_dim",) if node.per_head else ()
        sizes = of_heads or self.spec.architecture.weight(node.weight).shape[0]
        return prod(shares.get(name, 1.0) for name in sizes)

    def norm(self, node: RmsNorm | LayerNorm) -> RmsNorm | LayerNorm:
        """A norm over padded elements, which its mean counts as well.

        sum(x^2) / padded + e' = share * (sum(x^2) / true + e) for e' = share * e, so that with its
        weight times sqrt(share) it gives what the norm of the model gives.
        """
        return replace(node, epsilon=node.epsilon * self.filled(node))

    def sums_ranks(self, node: Node) -> bool:
        """Whether the product of every rank is a part of a sum: each has some of the inputs."""
        divided = isinstance(node, Linear) and self.divided_by(node.weights[0], "in")
        return self.parallel.tp > 1 and bool(divided)

    def sums_of(self, graph: Graph) -> tuple[str, ...]:
        """The values of a graph that are sums over the ranks, in order."""
        return tuple(node.out for node in graph.find(Linear) if self.sums_ranks(node))

    @property
    def rope_tables(self) -> tuple[str, ...]:
        """The tables of the spec by which any decoder rotates."""
        decoders = self.graph.decoders.values()
        used = {node.table for graph in decoders for node in graph.find(RopeQk)}
        return tuple(sorted(used, reverse=True))

    def rope(self, table: str) -> Rope:
        """What the spec says of a table."""
        rope = self.spec.rope if table == "rope" else self.spec.local_rope
        assert rope is not None, f"the spec was checked to give {table}"
        return rope

    def length_matters(self, table: str) -> bool:
        """Whether the sequences of the planned context turn by their length as well."""
        return depends_on_length(self.rope(table), self.context)

    @property
    def masks(self) -> tuple[int, ...]:
        """The windows of the attentions whose scores are capped: each takes a mask of its own."""
        return tuple(sorted({window_of(each, self) for each in self._capped}))

    @property
    def whole_caches(self) -> bool:
        """Whether products read the cache: each user's context is then one block."""
        return bool(self._capped)

    @property
    def _capped(self) -> tuple[Attention, ...]:
        decoders = self.graph.decoders.values()
        return tuple(node for graph in decoders for node in graph.find(Attention) if node.cap)

    def graph_of(self, layer: int) -> Graph:
        """The graph of one decoder."""
        return self.graph.decoders[self.spec.kind_of(layer)]

    @property
    def residual(self) -> Placement:
        """Where the residual stream of a decode step lives: width sharded over a rectangle."""
        grid, width = self.chip.grid, tiles(self.dims.hidden)
        cores = residual_cores(width, self.chip)
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
    paging: Paging,
    tp: int | None = None,
) -> Setting:
    """Put the inputs of planning together: sizes on each rank, and how many ranks there are.

    `tp` is the number of ranks, None the spec's or the best.
    """
    architecture, dims = spec.architecture, padded_dims(spec.dims, graph, mesh.chip)
    weights = (*architecture.weights, *architecture.decoder_weights)
    known: dict[EffectivePrecision, EffectivePrecision] = {}
    each = (effective(profile, spec, i) for i in range(dims.layers))
    decoders = tuple(known.setdefault(precision, precision) for precision in each)
    slots = user_slots(batch, mesh.chip)
    wish = spec.wish_for(mesh.name)
    division, division_choice = choose_division(
        mesh, tp or wish.tp, _needs_all_heads(spec, graph), at=None if tp else wish.tp_at
    )
    heads, heads_choice = choose_heads(
        dims.heads,
        dims.kv_heads,
        division.tp,
        head_bytes(dims, decoders[0], slots * context),
    )
    local = replace(
        dims,
        heads=heads.heads,
        kv_heads=heads.kv_heads,
        ffn=padded_ffn(ceil(tiles(dims.ffn) / division.tp), mesh.chip) * TILE,
        vocab=ceil(tiles(dims.vocab) / division.tp) * TILE,
    )
    embedded = dims.hidden
    if dims.hidden % (TILE * division.tp) == 0:
        embedded //= division.tp
    groups = {weight.name: weight.group for weight in weights}
    shapes = {
        weight.name: tuple(local.product(size) for size in weight.shape) for weight in weights
    }
    shapes |= {
        name: (dims.vocab, embedded) for name, group in groups.items() if group == "embedding"
    }
    setting = Setting(
        spec=spec,
        graph=graph,
        mesh=mesh,
        parallel=Parallel(
            tp=division.tp,
            dp=division.dp,
            replica_shape=division.shape,
            cluster_axis=division.axis,
            topology=division.topology,
            links=division.links,
            decode_residual="replicated",
            prefill_residual="replicated",
            heads=heads,
        ),
        dims=local,
        embedded=embedded,
        profile=profile,
        batch=batch,
        slots=slots,
        context=context,
        paging=paging,
        weight_shapes=shapes,
        weight_groups=groups,
        decoders=decoders,
        model_precision=effective(profile, spec, None),
        choices=() if mesh.devices == 1 else (division_choice, heads_choice),
    )
    residual = _chosen_residual(prefill_residual(setting), wish)
    return replace(setting, parallel=replace(setting.parallel, prefill_residual=residual))


def padded_dims(dims: Dims, graph: ModelGraph, chip: Chip) -> Dims:
    """Whole tiles where ttnn wants them, and a width for cores to share: zeros that change nothing.

    The mean of a layer norm would count them: its width stays as it is (see `check_sizes`).
    Heads of more than WIDE_HEAD elements fill pairs of tiles, as their rotation in halves needs:
    that in pairs has no room for them where it adds in fp32.
    """
    multiple = 2 * TILE if dims.head_dim > WIDE_HEAD else TILE
    hidden = tiles(dims.hidden)
    if not layer_norms(graph):
        while residual_cores(hidden, chip) < min(hidden, LEAST_RESIDUAL_CORES):
            hidden += 1
    return replace(
        dims,
        hidden=hidden * TILE,
        head_dim=ceil(dims.head_dim / multiple) * multiple,
    )


def layer_norms(graph: ModelGraph) -> list[LayerNorm]:
    """Those of the decoders and the model, whose means run over the residual stream."""
    graphs = (*graph.decoders.values(), graph.model)
    return [node for each in graphs for node in each.find(LayerNorm)]


def residual_cores(width_tiles: int, chip: Chip) -> int:
    """Cores that share a residual stream evenly: a rectangle of nearly RESIDUAL_CORES."""
    grid = chip.grid
    fitting = [n for n in divisors(width_tiles) if rectangle(n, grid.x, grid.y) is not None]
    return min(fitting, key=lambda n: (abs(n - RESIDUAL_CORES), n))


def head_bytes(dims: Dims, precision: EffectivePrecision, cached_tokens: int) -> HeadBytes:
    """What each head makes a decode step read, with so many tokens in the cache."""

    def size(group: str, elements: int) -> int:
        return elements * TILE_BYTES[precision.dtype(group, "decode")] // TILE**2

    matrix = dims.head_dim * dims.hidden
    cache = 2 * size("kv_cache", cached_tokens * dims.head_dim)
    return HeadBytes(
        query=size("wqkv", matrix) + size("wo", matrix), kv=2 * size("wqkv", matrix) + cache
    )


def padded_ffn(width_tiles: int, chip: Chip) -> int:
    """The next width in tiles that divides over FFN_CORES cores at least, or fills as many."""
    while largest_divisor(width_tiles, chip.grid.cores) < min(width_tiles, FFN_CORES):
        width_tiles += 1
    return width_tiles


def prefill_residual(setting: Setting) -> Residual:
    """Fractured where the width divides into whole tiles and every summand comes divided.

    A scattered sum is then enough where a whole one would be a gather more, and sums read and write
    a part of the width. A value that is added but is no sum of the ranks, such as the result of a
    norm, would have to be cut first.
    """
    if setting.parallel.tp == 1 or setting.embedded == setting.dims.hidden:
        return "replicated"
    graphs = setting.graph.decoders.values()
    summands = ((graph, add.b) for graph in graphs for add in graph.find(Add))
    return "fractured" if all(_is_sum(setting, *each) for each in summands) else "replicated"


def _chosen_residual(best: Residual, wish: ParallelWish) -> Residual:
    """What the spec wants, where it can be had."""
    if wish.prefill_residual == "fractured" and best == "replicated":
        raise PlanError(
            Problem(
                message="the residual stream of a prefill cannot be fractured",
                at=wish.prefill_residual_at,
                note="its width is not divided into whole tiles, or adds what is no sum of ranks",
                help="prefill_residual: replicated",
            )
        )
    return wish.prefill_residual or best


def _is_sum(setting: Setting, graph: Graph, value: str) -> bool:
    node = graph.producer(value)
    while isinstance(node, Multiply):
        node = graph.producer(node.x)
    return node is None or isinstance(node, Add) or setting.sums_ranks(node)


def _needs_all_heads(spec: ModelSpec, graph: ModelGraph) -> Node | None:
    """A norm over a width that ranks divide, such as all heads of a projection, or None."""
    norms = (node for each in graph.decoders.values() for node in each.find(RmsNorm))
    shapes = ((n, spec.architecture.weight(n.weight).shape[0]) for n in norms if not n.per_head)
    return next((node for node, sizes in shapes if set(DIVIDED) & set(sizes)), None)


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
