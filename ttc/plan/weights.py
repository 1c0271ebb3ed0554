"""Which tensors are stored, what each is made of, and how it lies in DRAM."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import ceil, prod, sqrt
from typing import Literal

from ttc.graph.graph import Graph
from ttc.graph.nodes import Embedding, LayerNorm, Linear, RmsNorm, ScaleHeads
from ttc.plan.matmul import dram_sharded_bytes, dram_sharded_weight, matmul_limit
from ttc.plan.parallel import ZEROS, Share, even_share, head_share
from ttc.plan.placement import DRAM, TILE, TILE_BYTES, Placement, TensorPlan, core_run, tiles
from ttc.plan.plan import PlannedPositions, WeightPart, WeightPlan
from ttc.plan.setting import MATMUL_GROUPS, Setting
from ttc.plan.tables import MaskTable, RopeForm, RopeTable, mask_name
from ttc.spec.architecture import WeightSpec
from ttc.spec.precision import EffectivePrecision
from ttc.spec.taken_names import stored_name

# A bias is stored twice: cut over the DRAM banks as the weight is, for the decode matmul, which
# reads both bank by bank, and in rows, under this suffix, for the prefill matmul.
ROWS = "_rows"

# What scales heads is stored twice: as the rows of one matrix, which a decode step has for each of
# its users, and under this suffix as a matrix for each head, which a prefill has.
HEADS = "_heads"


def bias_names(node: Linear, splits: int) -> tuple[str, ...]:
    """The stored biases of a decode matmul, one for each of its column splits, or ()."""
    if not node.biases:
        return ()
    name = stored_name(node.biases)
    return (name,) if splits == 1 else tuple(f"{name}_{i}" for i in range(splits))


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
    out = precision.dtype(groups.activation, "decode")
    waiting = 2 * tiles(columns) * TILE_BYTES[out] // chip.grid.cores
    limit = matmul_limit(chip, setting.kept_l1_bytes + waiting)
    block = min(2, tiles(setting.dims.hidden) // setting.residual.cores)

    def size(width: int) -> int:
        return dram_sharded_bytes(
            in0_block_w=block,
            bank_tiles=ceil(width / chip.dram_banks),
            per_core_n=ceil(width / chip.grid.cores),
            x_dtype="bf16",
            weight_dtype=precision.dtype(group, "decode"),
            out=out,
            compute=precision.fidelity(groups.op["decode"]),
        )

    parts = (ceil(tiles(columns) / count) for count in range(1, tiles(columns) + 1))
    width = next((part for part in parts if size(part) <= limit), 1) * TILE
    rest = columns % width
    return (width,) * (columns // width) + ((rest,) if rest else ())


def plan_weights(
    setting: Setting, rope_form: RopeForm, positions: tuple[PlannedPositions, ...]
) -> tuple[WeightPlan, ...]:
    """Every stored tensor, model-wide ones first, then decoder by decoder."""
    plans = [
        *_graph_weights(setting, setting.graph.model, None, setting.model_precision, rope_form),
        *plan_tables(setting, rope_form, positions),
    ]
    for layer, precision in enumerate(setting.decoders):
        plans += _graph_weights(setting, setting.graph_of(layer), layer, precision, rope_form)
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
            plans.append(_embedding(setting, node, decoder, precision))
        elif isinstance(node, RmsNorm | LayerNorm):
            plans += _norm(setting, node, decoder, precision, rope_form)
        elif isinstance(node, ScaleHeads):
            plans += _scale_heads(setting, node, decoder, precision, rope_form)
        elif isinstance(node, Linear):
            plans += _matrices(setting, node, decoder, precision, rope_form)
    return plans


def _embedding(
    setting: Setting, node: Embedding, decoder: int | None, precision: EffectivePrecision
) -> WeightPlan:
    """The table, scaled: its rows become the residual stream, which is rounded alike."""
    group, (rows, columns) = (
        setting.weight_groups[node.weight],
        setting.weight_shapes[node.weight],
    )
    tensor = TensorPlan(
        shape=(1, 1, rows, columns),
        dtype=precision.dtype(group, "decode"),
        placement=DRAM,
        layout="row_major",
    )
    return WeightPlan(
        name=node.weight,
        decoder=decoder,
        group=group,
        parts=(
            WeightPart(
                tensor=node.weight, stop=rows, scale=node.scale, shares=_embedded_share(setting)
            ),
        ),
        table=None,
        transpose=False,
        tensor=tensor,
    )


def _norm(
    setting: Setting,
    node: RmsNorm | LayerNorm,
    decoder: int | None,
    precision: EffectivePrecision,
    rope_form: RopeForm,
) -> list[WeightPlan]:
    """Weight and bias, each a row of tiles, which the sharded and the interleaved norm read."""
    if not node.weight:
        return []
    offset = node.offset if isinstance(node, RmsNorm) else 0.0
    biases = node.biases if isinstance(node, LayerNorm) else ()
    scale = sqrt(setting.filled(node))
    weight = replace(_part(setting, node.weight, rope_form), scale=scale, offset=offset * scale)
    parts = [weight, *(_part(setting, bias, rope_form) for bias in biases)]
    return [_vector(setting, part.tensor, (part,), decoder, precision) for part in parts]


def _scale_heads(
    setting: Setting,
    node: ScaleHeads,
    decoder: int | None,
    precision: EffectivePrecision,
    rope_form: RopeForm,
) -> list[WeightPlan]:
    """The row of each head, scaled as the weight of a norm over padded heads is."""
    heads, head_dim = setting.weight_shapes[node.weight]
    scale = sqrt(setting.spec.dims.head_dim / head_dim)
    part = _part(setting, node.weight, rope_form, flat=True)
    part = replace(part, scale=scale, offset=node.offset * scale)
    stored = _vector(setting, node.weight, (part,), decoder, precision)
    shapes = (
        (node.weight, (1, 1, heads, head_dim)),
        (f"{node.weight}{HEADS}", (1, heads, 1, head_dim)),
    )
    return [
        replace(stored, name=name, tensor=replace(stored.tensor, shape=shape))
        for name, shape in shapes
    ]


def _vector(
    setting: Setting,
    name: str,
    parts: tuple[WeightPart, ...],
    decoder: int | None,
    precision: EffectivePrecision,
    placement: Placement = DRAM,
) -> WeightPlan:
    """Vectors one after the other, as one row of tiles."""
    group = setting.weight_groups[parts[0].tensor]
    columns = sum(part.stop - part.start for part in parts)
    return WeightPlan(
        name=name,
        decoder=decoder,
        group=group,
        parts=parts,
        table=None,
        transpose=False,
        tensor=TensorPlan(
            shape=(1, 1, 1, columns),
            dtype=precision.dtype(group, "decode"),
            placement=placement,
        ),
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
            parts = (_columns(setting, node.weights[0], start, start + columns),)
        else:
            parts = tuple(_centred(setting, node, name, rope_form) for name in node.weights)
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
        if node.biases:
            assert len(splits) == 1, "no bias is cut into column splits yet"
            plans += _biases(setting, node, placement, decoder, precision, rope_form)
        start += columns
    return plans


def _biases(
    setting: Setting,
    node: Linear,
    matrix: Placement,
    decoder: int | None,
    precision: EffectivePrecision,
    rope_form: RopeForm,
) -> list[WeightPlan]:
    """The bias of a stored matrix, in the matrix's banks and in rows."""
    name = stored_name(node.biases)
    parts = tuple(
        replace(_part(setting, bias, rope_form), centred=_centred_rows(setting, node, weight))
        for weight, bias in zip(node.weights, node.biases, strict=True)
    )
    if setting.sums_ranks(node):  # added once to the sum: on the first rank
        parts = tuple(replace(part, shares=(_first_rank(setting, part),)) for part in parts)
    columns = sum(part.stop - part.start for part in parts)
    banks = replace(matrix, name=f"B_{columns}", shard=(TILE, matrix.shard[1]))
    return [
        _vector(setting, name, parts, decoder, precision, banks),
        _vector(setting, f"{name}{ROWS}", parts, decoder, precision),
    ]


def _centred(setting: Setting, node: Linear, weight: str, rope_form: RopeForm) -> WeightPart:
    part = _part(setting, weight, rope_form)
    return replace(part, centred=_centred_rows(setting, node, weight))


def _centred_rows(setting: Setting, node: Linear, weight: str) -> int:
    """Rows of a head in the checkpoint where the mean of each is taken out, else 0."""
    return setting.spec.dims.head_dim if weight in node.centred else 0


def _part(setting: Setting, weight: str, rope_form: RopeForm, *, flat: bool = False) -> WeightPart:
    """All of a weight; `flat`: a matrix [heads, head_dim] as one vector."""
    spec = _weight_spec(setting, weight)
    shape, local = spec.shape, setting.weight_shapes[weight]
    if flat:
        shape, local = (sum(shape, ()),), (prod(local),)
    in_halves = spec.rotary is not None and rope_form == "halves"
    shares = _shares(setting, weight, shape, local, pieces=2 if in_halves else 1)
    part = WeightPart(tensor=weight, stop=local[0], shares=shares, flat=flat)
    if spec.rotary is None:
        return part
    return replace(
        part,
        rows=rope_form,
        heads=setting.dims.product(spec.rotary),
        rotary_dim=setting.dims.rotary_dim,
    )


def _columns(setting: Setting, weight: str, start: int, stop: int) -> WeightPart:
    """Columns of what a rank stores of a weight, whose rows in the checkpoint they are."""
    width = setting.weight_shapes[weight][0]
    part = WeightPart(tensor=weight, start=start, stop=stop)
    size, ranks = setting.divided_by(weight, "out"), setting.parallel.tp
    if not size or (ranks == 1 and width == getattr(setting.spec.dims, size)):
        return part
    share = even_share(size, "out", width=stop - start, ranks=ranks, start=start, stride=width)
    return replace(part, shares=(share,))


def _shares(
    setting: Setting,
    weight: str,
    shape: Sequence[tuple[str, ...]],
    local: Sequence[int],
    *,
    pieces: int,
) -> tuple[Share, ...]:
    """How the ranks divide a weight, and what fills it up; () where one rank holds it as it is, and
    for what is filled up behind its end only.

    shape   names of its sizes, `local` these on a rank
    pieces  in which the rows of each head are padded
    """
    shares: list[Share] = []
    dims: tuple[Literal["out", "in"], ...] = ("out", "in")
    for dim, names, width in zip(dims, shape, local, strict=False):
        divided = setting.divided_by(weight, dim)
        same = width == setting.spec.dims.product(names)
        of_heads = divided or ("head_dim" if "head_dim" in names else "")
        if (divided and setting.parallel.tp > 1) or (of_heads and not same):
            shares.append(_share(setting, of_heads, dim, width, pieces))
    return tuple(shares)


def _share(
    setting: Setting, size: str, dim: Literal["out", "in"], width: int, pieces: int
) -> Share:
    heads, ranks = setting.parallel.heads, setting.parallel.tp
    held = {
        "heads": ("query heads", heads.queries),
        "kv_heads": ("kv heads", heads.kv),
        "head_dim": ("head", ((0,),) * ranks),
    }
    if size not in held:
        return even_share(size, dim, width=width, ranks=ranks)
    name, layout = held[size]
    padded = width // len(layout[0])
    return head_share(name, dim, layout, setting.spec.dims.head_dim, padded=padded, pieces=pieces)


def _embedded_share(setting: Setting) -> tuple[Share, ...]:
    """Every rank embeds a part of the width, where whole tiles divide over the ranks."""
    width, ranks = setting.embedded, setting.parallel.tp
    if width == setting.dims.hidden:
        return ()
    return (even_share("hidden", "in", width=width, ranks=ranks),)


def _first_rank(setting: Setting, part: WeightPart) -> Share:
    width = part.stop - part.start
    starts = ((0,), *((ZEROS,),) * (setting.parallel.tp - 1))
    return Share(name="first rank", dim="out", size=width, starts=starts, taken=width)


def _weight_spec(setting: Setting, weight: str) -> WeightSpec:
    architecture = setting.spec.architecture
    every = (*architecture.weights, *architecture.decoder_weights)
    return next(spec for spec in every if spec.name == weight)


def plan_tables(
    setting: Setting, rope_form: RopeForm, positions: tuple[PlannedPositions, ...]
) -> list[WeightPlan]:
    """What is gathered by positions: a row for each of the context."""
    masks = [_mask(setting, window) for window in setting.masks]
    return [*_rope_tables(setting, rope_form, positions), *masks]


def _mask(setting: Setting, window: int) -> WeightPlan:
    context = setting.context
    return WeightPlan(
        name=mask_name(window),
        decoder=None,
        group="rope",
        parts=(),
        table=MaskTable(window=window, rows=context),
        transpose=False,
        tensor=TensorPlan(
            shape=(1, 1, context, context), dtype="bf16", placement=DRAM, layout="row_major"
        ),
    )


def _rope_tables(
    setting: Setting, rope_form: RopeForm, positions: tuple[PlannedPositions, ...]
) -> list[WeightPlan]:
    """cos and sin for every position of the context; for pairs also the tiles that swap them.

    A decode step reads one transformation tile on each core that rotates, a prefill one in DRAM.
    """
    context = TensorPlan(
        shape=(1, 1, setting.context, setting.dims.head_dim),
        dtype="bf16",
        placement=DRAM,
        layout="row_major",
    )
    plans = [
        _table(setting, each.table, kind, rope_form, name, context, by_step=by_step)
        for each in positions
        for name, kind, by_step in _stored_tables(setting, each.table)
    ]
    if rope_form == "pairs" and positions:
        cores = positions[0].placements[0].cores
        users = Placement(
            name="ROPE_SWAP_L1",
            buffer="l1",
            layout="height_sharded",
            grid=core_run(0, cores, setting.chip.grid.x),
            shard=(TILE, TILE),
        )
        one = TensorPlan(shape=(1, 1, TILE, TILE), dtype="bf16", placement=DRAM)
        each = TensorPlan(shape=(1, 1, TILE * cores, TILE), dtype="bf16", placement=users)
        for name, tensor in (("rope_swap", one), ("rope_swap_users", each)):
            plans.append(
                _table(setting, positions[0].table, "transformation", rope_form, name, tensor)
            )
    return plans


def _stored_tables(
    setting: Setting, table: str
) -> Iterator[tuple[str, Literal["cos", "sin"], bool]]:
    """Name, kind, and whether rows are those of decode steps: a prompt may have tables apart."""
    apart = setting.length_matters(table)
    kinds: tuple[Literal["cos", "sin"], ...] = ("cos", "sin")
    for kind in kinds:
        yield f"{table}_{kind}", kind, apart
        if apart:
            yield f"{table}_prompt_{kind}", kind, False


def _table(
    setting: Setting,
    table: str,
    kind: Literal["cos", "sin", "transformation"],
    rope_form: RopeForm,
    name: str,
    tensor: TensorPlan,
    *,
    by_step: bool = False,
) -> WeightPlan:
    return WeightPlan(
        name=name,
        decoder=None,
        group="rope",
        parts=(),
        table=RopeTable(
            kind=kind,
            rope=setting.rope(table),
            head_dim=setting.dims.head_dim,
            rotary_dim=setting.dims.rotary_dim,
            rows=tensor.shape[2],
            order=rope_form,
            by_step=by_step,
        ),
        transpose=False,
        tensor=tensor,
    )
