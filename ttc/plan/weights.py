"""Which tensors are stored, what each is made of, and how it lies in DRAM."""

from math import ceil
from os.path import commonprefix

from ttc.graph.graph import Graph
from ttc.graph.nodes import Embedding, Linear, RmsNorm
from ttc.plan.matmul import L1_RESERVE_BYTES, dram_sharded_bytes, dram_sharded_weight
from ttc.plan.placement import DRAM, TILE, TILE_BYTES, Placement, TensorPlan, core_run, tiles
from ttc.plan.plan import PlannedPositions, RopeForm, RopeTable, WeightPart, WeightPlan
from ttc.plan.setting import MATMUL_GROUPS, Setting
from ttc.spec.architecture import WeightSpec
from ttc.spec.precision import EffectivePrecision


def stored_name(weights: tuple[str, ...]) -> str:
    """The name of weights that are stored as one: wq, wk, wv -> wqkv."""
    prefix = commonprefix(weights) if len(weights) > 1 else ""
    return prefix + "".join(name[len(prefix) :] for name in weights)


def column_splits(node: Linear, setting: Setting, precision: EffectivePrecision) -> tuple[int, ...]:
    """Columns of each stored part of a weight: one part, unless its decode matmul overflows L1.

    Only a weight whose result nothing reads in the graph (the head) may be split: its parts are
    concatenated. Parts are whole tiles, all but the last of equal width.
    """
    columns = sum(setting.weight_shapes[name][0] for name in node.weights)
    group = setting.weight_groups[node.weights[0]]
    if group != "lm_head":
        return (columns,)
    chip, groups = setting.chip, MATMUL_GROUPS[group]
    # Logits of all parts wait in L1, once as shards and once joined, while the last is computed.
    waiting = 2 * tiles(columns) * TILE_BYTES["bf16"] // chip.grid.cores
    limit = chip.l1_bytes_per_core - L1_RESERVE_BYTES - waiting
    block = min(2, tiles(setting.dims.hidden) // setting.residual.cores)

    def size(width: int) -> int:
        return dram_sharded_bytes(
            in0_block_w=block,
            bank_tiles=ceil(width / chip.dram_banks),
            per_core_n=ceil(width / chip.grid.cores),
            x_dtype="bf16",
            weight_dtype=precision.dtype(group, "decode"),
            out=precision.dtype(groups.activation, "decode"),
            compute=precision.fidelity(groups.op["decode"]),
        )

    parts = (ceil(tiles(columns) / count) for count in range(1, tiles(columns) + 1))
    width = next((part for part in parts if size(part) <= limit), 1) * TILE
    rest = columns % width
    return (width,) * (columns // width) + ((rest,) if rest else ())


def plan_weights(
    setting: Setting, rope_form: RopeForm, positions: PlannedPositions
) -> tuple[WeightPlan, ...]:
    """Every stored tensor, model-wide ones first, then decoder by decoder."""
    plans = [
        *_graph_weights(setting, setting.graph.model, None, setting.model_precision, rope_form),
        *plan_rope_tables(setting, rope_form, positions),
    ]
    for layer, precision in enumerate(setting.decoders):
        plans += _graph_weights(setting, setting.graph.decoder, layer, precision, rope_form)
    return tuple(plans)


def _graph_weights(
    setting: Setting,
    graph: Graph,
    decoder: int | None,
    precision: EffectivePrecision,
    rope_form: RopeForm,
) -> list[WeightPlan]:
    plans: list[WeightPlan] = []
    for node in graph.nodes:
        if isinstance(node, Embedding):
            plans.append(_row_major(setting, node.weight, decoder, precision))
        elif isinstance(node, RmsNorm):
            plans.append(_norm(setting, node.weight, decoder, precision))
        elif isinstance(node, Linear):
            plans += _matrices(setting, node, decoder, precision, rope_form)
    return plans


def _row_major(
    setting: Setting, weight: str, decoder: int | None, precision: EffectivePrecision
) -> WeightPlan:
    group, (rows, columns) = (
        setting.weight_groups[weight],
        setting.weight_shapes[weight],
    )
    tensor = TensorPlan(
        shape=(1, 1, rows, columns),
        dtype=precision.dtype(group, "decode"),
        placement=DRAM,
        layout="row_major",
    )
    return WeightPlan(
        name=weight,
        decoder=decoder,
        group=group,
        parts=(WeightPart(tensor=weight, stop=rows),),
        table=None,
        transpose=False,
        tensor=tensor,
    )


def _norm(
    setting: Setting, weight: str, decoder: int | None, precision: EffectivePrecision
) -> WeightPlan:
    """One row of tiles, which both the sharded and the interleaved norm read."""
    group, (columns,) = setting.weight_groups[weight], setting.weight_shapes[weight]
    tensor = TensorPlan(
        shape=(1, 1, 1, columns), dtype=precision.dtype(group, "decode"), placement=DRAM
    )
    return WeightPlan(
        name=weight,
        decoder=decoder,
        group=group,
        parts=(WeightPart(tensor=weight, stop=columns),),
        table=None,
        transpose=False,
        tensor=tensor,
    )


def _matrices(
    setting: Setting,
    node: Linear,
    decoder: int | None,
    precision: EffectivePrecision,
    rope_form: RopeForm,
) -> list[WeightPlan]:
    group = setting.weight_groups[node.weights[0]]
    splits = column_splits(node, setting, precision)
    rows = setting.weight_shapes[node.weights[0]][1]
    name, plans, start = stored_name(node.weights), list[WeightPlan](), 0
    for i, columns in enumerate(splits):
        if len(splits) > 1:
            only = node.weights[0]
            parts = (WeightPart(tensor=only, start=start, stop=start + columns),)
        else:
            parts = tuple(_part(setting, weight, rope_form) for weight in node.weights)
        placement = dram_sharded_weight(f"W_{rows}X{columns}", rows, columns, setting.chip)
        plans.append(
            WeightPlan(
                name=name if len(splits) == 1 else f"{name}_{i}",
                decoder=decoder,
                group=group,
                parts=parts,
                table=None,
                transpose=True,
                tensor=TensorPlan(
                    shape=(1, 1, rows, columns),
                    dtype=precision.dtype(group, "decode"),
                    placement=placement,
                ),
            )
        )
        start += columns
    return plans


def _part(setting: Setting, weight: str, rope_form: RopeForm) -> WeightPart:
    spec = _weight_spec(setting, weight)
    rows = setting.weight_shapes[weight][0]
    if not spec.rotary:
        return WeightPart(tensor=weight, stop=rows)
    heads = setting.dims.heads if spec.rotary == "heads" else setting.dims.kv_heads
    return WeightPart(tensor=weight, rows=rope_form, heads=heads, stop=rows)


def _weight_spec(setting: Setting, weight: str) -> WeightSpec:
    architecture = setting.spec.architecture
    every = (*architecture.weights, *architecture.decoder_weights)
    return next(spec for spec in every if spec.name == weight)


def plan_rope_tables(
    setting: Setting, rope_form: RopeForm, positions: PlannedPositions
) -> list[WeightPlan]:
    """cos and sin for every position of the context; for pairs also the tiles that swap them.

    A decode step reads one transformation tile on each core that rotates, a prefill one in DRAM.
    """
    dims = setting.dims

    def table(name: str, table_rows: int, tensor: TensorPlan) -> WeightPlan:
        kind = name.removeprefix("rope_")
        return WeightPlan(
            name=name,
            decoder=None,
            group="rope",
            parts=(),
            table=RopeTable(
                kind="cos" if kind == "cos" else "sin" if kind == "sin" else "transformation",
                rope=setting.spec.rope,
                head_dim=dims.head_dim,
                rows=table_rows,
                order=rope_form,
            ),
            transpose=False,
            tensor=tensor,
        )

    context = TensorPlan(
        shape=(1, 1, setting.context, dims.head_dim),
        dtype="bf16",
        placement=DRAM,
        layout="row_major",
    )
    plans = [table(f"rope_{kind}", setting.context, context) for kind in ("cos", "sin")]
    if rope_form == "pairs":
        cores = positions.placements[0].cores
        users = Placement(
            name="ROPE_SWAP_L1",
            buffer="l1",
            layout="height_sharded",
            grid=core_run(0, cores, setting.chip.grid.x),
            shard=(TILE, TILE),
        )
        one = TensorPlan(shape=(1, 1, TILE, TILE), dtype="bf16", placement=DRAM)
        each = TensorPlan(shape=(1, 1, TILE * cores, TILE), dtype="bf16", placement=users)
        plans.append(table("rope_swap", TILE, one))
        plans.append(table("rope_swap_users", TILE * cores, each))
    return plans
