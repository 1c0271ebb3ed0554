"""What cannot be planned, said before anything is planned, and what would fit instead."""

from ttc.errors import PlanError, Problem
from ttc.graph.graph import ModelGraph
from ttc.hardware.hardware import Mesh
from ttc.plan.capacity import Largest
from ttc.plan.paging import Paging
from ttc.plan.placement import TILE
from ttc.plan.plan import Plan
from ttc.plan.setting import Setting, layer_norms
from ttc.plan.solve import MAX_BATCH, Sizing
from ttc.spec.model import ModelSpec


def check_paging(spec: ModelSpec, paging: Paging) -> None:
    """Refuse blocks that no cache could have. Raises PlanError."""
    problems: list[Problem] = []
    limit = spec.max_context_tokens
    if not paging.legal or paging.block_tokens > max(TILE, limit):
        below = max(TILE, 1 << (max(1, min(limit, paging.block_tokens)).bit_length() - 1))
        problems.append(
            Problem(
                message=f"a cache block of {paging.block_tokens} tokens cannot be planned",
                note=f"a block holds a power of two of tokens, {TILE} or more, and at most a "
                f"context of the model, which is {limit}",
                help=f"use --page-block-size {below}",
            )
        )
    if paging.max_blocks is not None and paging.max_blocks < 1:
        problems.append(
            Problem(
                message=f"{paging.max_blocks} cache blocks cannot be planned",
                help="use --max-blocks 1024, or leave it out for every user's whole context",
            )
        )
    if problems:
        raise PlanError(problems)


def check_request(spec: ModelSpec, mesh: Mesh, *, batch: int, context: int, paging: Paging) -> None:
    """Refuse a batch or context that no memory could hold. Raises PlanError."""
    problems: list[Problem] = []
    if not 1 <= batch <= MAX_BATCH:
        problems.append(
            Problem(
                message=f"a batch of {batch} users cannot be planned",
                note=f"one decode step holds 1 to {MAX_BATCH} users",
                help=f"use --batch {min(max(batch, 1), MAX_BATCH)}",
            )
        )
    limit, block = spec.max_context_tokens, paging.block_tokens
    if context < 1 or context > limit:
        problems.append(
            Problem(
                message=f"a context of {context} tokens is out of range",
                at=spec.source_of("max_context_tokens"),
                note=f"the model was trained for 1 to {limit} tokens",
                help=f"use --context {min(max(context, block), limit)}",
            )
        )
    elif context % block:
        rounded = min(limit // block * block, -(-context // block) * block)
        problems.append(
            Problem(
                message=f"a context of {context} tokens is not a whole number of cache blocks",
                note=f"a block holds {block} tokens",
                help=f"use --context {rounded}" if rounded else "use smaller blocks",
            )
        )
    elif paging.max_blocks is not None and paging.max_blocks * block < context:
        held = paging.max_blocks * block
        problems.append(
            Problem(
                message=f"{paging.max_blocks} cache blocks hold {held} tokens, less than the "
                f"context of {context}",
                note="one user at least must have room for a whole context",
                help=f"use --max-blocks {context // block}, or --context {held}",
            )
        )
    if problems:
        raise PlanError(problems)


def check_whole_caches(setting: Setting) -> None:
    """Refuse blocks of a size or number for caches that are read whole. Raises PlanError."""
    if setting.whole_caches and setting.paging != Paging():
        raise PlanError(
            Problem(
                message="this model's KV caches are not shared in blocks",
                at=setting.spec.source_of("architecture"),
                note="its scores are capped, which is done by products that read a user's whole "
                "cache",
                help="leave out --page-block-size and --max-blocks",
            )
        )


def check_sizes(spec: ModelSpec, graph: ModelGraph, mesh: Mesh) -> None:
    """Refuse a width that cannot be padded to whole tiles. Raises PlanError."""
    norms = layer_norms(graph)
    width = spec.dims.hidden
    if width % TILE and norms:
        raise PlanError(
            Problem(
                message=f"'hidden' of {width} does not fill whole tiles",
                at=spec.source_of("dims.hidden"),
                note=f"must be a multiple of {TILE} on {mesh.name}",
                details=(f"{norms[0].at}: a layer norm's mean would count the padding",),
                help=f"the nearest sizes are {_below(width)} and {_below(width) + TILE}",
            )
        )


def check_ring(plan: Plan) -> None:
    """Refuse a plan whose replicas are lines although a ring was asked for. Raises PlanError."""
    parallel = plan.parallel
    if parallel.topology != "ring":
        raise PlanError(
            Problem(
                message=f"{parallel.tp} chips of {plan.mesh} do not form a ring",
                note="the wires close around the whole mesh or around an axis of a torus only",
                help="use --topology line, or another --tp",
            )
        )


def ways_out(sizing: Sizing, largest: Largest) -> tuple[str, ...]:
    """Requests that would fit on the same mesh, as options of the command line.

    Fewer cache blocks where a number was asked for that is more than enough. The wanted users with
    less context, fewer users with the wanted context, or one user with less context where neither
    will do.
    """
    batch, context = sizing.setting.batch, sizing.setting.context
    paging = sizing.setting.paging
    if paging.max_blocks is not None:
        blocks = min(paging.max_blocks, sizing.largest_blocks())
        if blocks >= paging.per_user(context):
            return (f"--max-blocks {blocks}",)
    ways: list[str] = []
    if largest.context:
        ways.append(f"--batch {batch} --context {largest.context}")
    if largest.batch:
        ways.append(f"--batch {largest.batch} --context {context}")
    if not ways and (alone := sizing.largest_context(1)):
        ways.append(f"--batch 1 --context {alone}")
    return tuple(ways)


def refuse(plan: Plan, spec: ModelSpec, ways: tuple[str, ...], larger_mesh: str) -> PlanError:
    """The error for a plan that does not fit: the numbers, and what would fit.

    `larger_mesh` holds the request; it is named where nothing fits on the mesh that was asked for.
    """
    memory = plan.memory
    users = "1 user" if plan.batch == 1 else f"{plan.batch} users"
    verb = "does" if plan.batch == 1 else "do"
    details = [
        f"weights {_gigabytes(memory.weight_bytes)}, KV cache "
        f"{_gigabytes(memory.kv_cache_bytes)} ({plan.slots} users x {plan.context} tokens), "
        f"activations {_gigabytes(memory.activation_bytes)}, RoPE tables "
        f"{_gigabytes(memory.rope_bytes)}, trace {_gigabytes(memory.trace_region_bytes)}",
    ]
    if memory.dram_bytes_per_chip > memory.dram_limit_bytes:
        what = (
            f"needs {_gigabytes(memory.dram_bytes_per_chip)} of DRAM, "
            f"{plan.mesh} has {_gigabytes(memory.dram_limit_bytes)}"
        )
    else:
        what = (
            f"needs {memory.l1_peak_bytes_per_core} bytes of L1 on its fullest core, "
            f"{plan.mesh} has {memory.l1_limit_bytes_per_core}"
        )
    if ways:
        largest = "the largest that fits is" if len(ways) == 1 else "the largest that fit are"
        help_text = f"{largest} {' or '.join(ways)}"
    elif larger_mesh:
        help_text = f"the smallest mesh that holds it is --mesh {larger_mesh}"
    else:
        help_text = "no mesh holds it: take a profile with smaller formats"
    return PlanError(
        Problem(
            message=f"{users} of {plan.context} tokens {verb} not fit on {plan.mesh} "
            f"with the profile '{plan.profile}'",
            at=spec.at,
            note=what,
            details=tuple(details),
            help=help_text,
        )
    )


def _below(size: int) -> int:
    return max(TILE, size // TILE * TILE)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
