"""Where and how heads are rotated: cores, tables of positions, operations that take their width."""

from ttc.graph.nodes import Concat
from ttc.plan.placement import DRAM, TILE, Placement, TensorPlan, core_run, tiles
from ttc.plan.plan import PlannedPositions
from ttc.plan.setting import WIDE_HEAD, Setting
from ttc.plan.tables import RopeForm


def heads_apart(setting: Setting) -> bool:
    """Whether one decode step can put q and k on different cores.

    nlp_create_qkv_heads_decode then wants shards of one head at most, hence a core per head, and
    the two sets of users side by side. The fused rotary and cache update need this.
    """
    dims, cores = setting.dims, setting.chip.grid.cores
    decoders = setting.graph.decoders.values()
    if any(next(graph.find(Concat), None) for graph in decoders):
        return False  # q|k|v is interleaved where it was put together
    apart = dims.heads + 2 * dims.kv_heads <= cores and 2 * setting.slots <= cores
    return apart and splits_shards(setting)


def splits_shards(setting: Setting) -> bool:
    """Whether q|k|v can be cut into heads as shards.

    nlp_create_qkv_heads_decode takes v to have as many rows of tiles as q where it reads shards
    (ttnn 0.81.1 then says that 'v_out' is larger than its tensor); interleaved it does not.
    """
    return tiles(setting.dims.heads) == tiles(setting.dims.kv_heads)


def plan_decode_positions(setting: Setting, rope_form: RopeForm, table: str) -> PlannedPositions:
    """cos and sin of the users' positions, on the cores that rotate.

    The fused rotary reads one table over the cores of q and then of k, so positions come twice.
    """
    slots, columns = setting.slots, setting.chip.grid.x
    head_dim = setting.dims.head_dim

    def on(name: str, first: int, count: int) -> Placement:
        return Placement(
            name=name,
            buffer="l1",
            layout="height_sharded",
            grid=core_run(first, count, columns),
            shard=(TILE, head_dim),
        )

    fused = rope_form == "pairs" and heads_apart(setting)
    if fused:
        rows, placements = 2 * slots, (on("ROPE_L1", 0, 2 * slots),)
    elif heads_apart(setting):
        rows = slots
        placements = (on("ROPE_Q_L1", 0, slots), on("ROPE_K_L1", slots, slots))
    else:
        rows, placements = slots, (on("ROPE_L1", 0, slots),)
    out = TensorPlan(shape=(1, rows, 1, head_dim), dtype="bf16", placement=placements[0])
    return PlannedPositions(
        table=table,
        stored=table,
        decode=True,
        rows=rows,
        head_dim=head_dim,
        placements=placements,
        out=out,
    )


def plan_prefill_positions(setting: Setting, tokens: int, table: str) -> PlannedPositions:
    """cos and sin of the positions of a prompt, in DRAM; prompts that are read together share them.

    Where a sequence turns by its length, a prompt has tables apart from those of decode steps.
    """
    head_dim = setting.dims.head_dim
    out = TensorPlan(shape=(1, 1, tokens, head_dim), dtype="bf16", placement=DRAM)
    return PlannedPositions(
        table=table,
        stored=f"{table}_prompt" if setting.length_matters(table) else table,
        decode=False,
        rows=tokens,
        head_dim=head_dim,
        placements=(DRAM,),
        out=out,
    )


def rotation_refused(setting: Setting, form: RopeForm) -> str:
    """Why ttnn does not rotate heads of this width in a form; "" where it does."""
    width = setting.dims.head_dim
    if form == "halves":  # "must be either 32 (single tile) or divisible by 64"
        legal = width == TILE or width % (2 * TILE) == 0
        return "" if legal else f"the halves of {width} elements are no whole tiles"
    in_fp32 = any(
        precision.fidelity("rope", phase).fp32_dest_acc
        for precision in setting.decoders
        for phase in ("decode", "prefill")
    )
    if in_fp32 and width > WIDE_HEAD:
        return f"sums in fp32 have no room for more than {WIDE_HEAD} elements"
    return ""
