"""The plan: every choice for one model on one mesh, as data.

`planner.py` makes it, `text.py` writes it to plan.yaml, `lower` reads it and chooses nothing.
"""

from dataclasses import dataclass, field
from typing import Literal

from ttc.graph.nodes import (
    Activate,
    Add,
    Attention,
    Concat,
    Embedding,
    Gated,
    LayerNorm,
    Linear,
    Multiply,
    RmsNorm,
    RopeQk,
    ScaleHeads,
    Softcap,
    SplitQkv,
)
from ttc.plan.capacity import Largest, MemoryPlan
from ttc.plan.exchange import Collective
from ttc.plan.parallel import Parallel, Share
from ttc.plan.placement import DType, Layout, Placement, TensorPlan
from ttc.plan.programs import (
    DramShardedMatmul,
    MulticastMatmul,
    SdpaProgram,
    ShardedNorm,
)
from ttc.plan.sampling import SamplingPlan
from ttc.plan.scores import Scores
from ttc.plan.tables import MaskTable, PlannedMask, RopeForm, RopeTable
from ttc.plan.together import Together
from ttc.spec.precision import Fidelity

# Weights ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightPart:
    """Rows [start, stop) of a checkpoint matrix [out, in], reordered per head where it says so,
    times `scale`, plus `offset`.

    rows: "halves" is the order of Hugging Face checkpoints (first half of a head, second half),
    "pairs" the order the rotary operation for pairs reads. `heads` is 0 where nothing rotates; else
    the first `rotary_dim` rows of each head do. `shares` divide the matrix over the ranks of a
    replica, one for each dim that is divided; a share of "out" takes the place of start and stop.
    `flat`: rows [heads, head_dim] are taken one after the other as a vector, whose elements start,
    stop, heads and shares then count. `centred`: of every so many rows of the checkpoint (a head)
    the mean is taken out, 0 for none.
    """

    tensor: str
    rows: RopeForm = "halves"
    heads: int = 0
    rotary_dim: int = 0
    start: int = 0
    stop: int = 0
    scale: float = 1.0
    offset: float = 0.0
    shares: tuple[Share, ...] = ()
    flat: bool = False
    centred: int = 0

    def share(self, dim: Literal["out", "in"]) -> Share | None:
        """How a dim is divided; None if every rank holds all of it."""
        return next((share for share in self.shares if share.dim == dim), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightPlan:
    """One stored tensor: what it is made of and how it lies on the device.

    The parts are concatenated along their output dim, transposed to [in, out] if `transpose`, and
    zero padded to `shape`. Without parts the tensor is the table. Shapes are those on one rank.
    """

    name: str
    decoder: int | None
    group: str
    parts: tuple[WeightPart, ...]
    table: RopeTable | MaskTable | None
    transpose: bool
    tensor: TensorPlan

    @property
    def full_name(self) -> str:
        """`decoders.3.wqkv`, or the plain name of a weight that the model has once."""
        return self.name if self.decoder is None else f"decoders.{self.decoder}.{self.name}"

    @property
    def divided(self) -> bool:
        """Whether each rank holds a part of its own; else all hold the same."""
        return any(part.shares for part in self.parts)

    @property
    def file(self) -> str:
        """Path inside an artefact."""
        return f"weights/{self.full_name}.tensorbin"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Logical shape in ttnn."""
        return self.tensor.shape

    @property
    def dtype(self) -> DType:
        """Stored dtype."""
        return self.tensor.dtype

    @property
    def layout(self) -> Layout:
        """Tile or row major."""
        return self.tensor.layout

    @property
    def memory(self) -> Placement:
        """Where it lives on the device."""
        return self.tensor.placement


# Planned operations ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedEmbedding:
    """Token rows gathered from a row-major table, and from the ranks where each has a part."""

    node: Embedding
    out: TensorPlan
    gather: Collective | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedNorm:
    """`program` is None where x is interleaved; `gathered` is x made so first, `gather` x from all
    ranks."""

    node: RmsNorm | LayerNorm
    program: ShardedNorm | None
    compute: Fidelity
    gathered: TensorPlan | None
    out: TensorPlan
    gather: Collective | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedLinear:
    """`weights` names the stored tensors; more than one means column splits, concatenated.

    `biases` names the stored bias of each, or is (). `rows` are the weight's inputs; `buffer_bytes`
    is what each program keeps in L1 on its fullest core while it runs. `collective` adds the
    products of the ranks, where each has some of the inputs.
    """

    node: Linear
    rows: int
    weights: tuple[str, ...]
    biases: tuple[str, ...]
    programs: tuple[DramShardedMatmul | MulticastMatmul, ...]
    buffer_bytes: tuple[int, ...]
    compute: Fidelity
    split_outs: tuple[TensorPlan, ...]
    out: TensorPlan
    collective: Collective | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedConcat:
    """Columns side by side; `moved` of the values leave their shards first."""

    node: Concat
    moved: int
    out: TensorPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedSplitQkv:
    """Heads of a decode step are spread over users; `users` rows of the 32 are real.

    `overlap`: q and k of a user share a core, which rules out the fused rotary and cache update.
    """

    node: SplitQkv
    decode: bool
    users: int
    heads: int
    kv_heads: int
    overlap: bool
    q: TensorPlan
    k: TensorPlan
    v: TensorPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRope:
    """`fused`: one operation rotates q and k; `form` says which elements of a head pair up."""

    node: RopeQk
    decode: bool
    form: RopeForm
    fused: bool
    compute: Fidelity
    q: TensorPlan
    k: TensorPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedAttention:
    """Cache update, attention, and heads side by side again.

    `window`: positions that a query sees, 0 for all. `cast_kv`: k and v are retyped for the cache
    first. `fused_update`: one operation writes k and v. The attention of a decode step writes
    `gathered`, which becomes `split` where it is not, as the operation that joins heads reads it.
    With `scores` there is no `program`: the attention is made of products of its own.
    `continues`: a prefill that reads the keys and values of earlier chunks from the cache, its own
    among them; its attention writes heads, `gathered`, which are joined. `prompts`: of so many
    prompts, of which each attends to itself. `buffer_bytes` of L1 on a core: planned for
    prefills.
    """

    node: Attention
    decode: bool
    scale: float
    window: int
    heads: int
    cast_kv: bool
    kv_dtype: DType
    fused_update: bool
    program: SdpaProgram | None
    compute: Fidelity
    gathered: TensorPlan
    split: TensorPlan
    out: TensorPlan
    scores: Scores | None = None
    continues: bool = False
    prompts: int = 1
    buffer_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedGated:
    """Activation and product in one operation."""

    node: Gated
    out: TensorPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedAdd:
    """Sum, written where the residual stream lives."""

    node: Add
    out: TensorPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedUnary:
    """A function of each element, written where x lives."""

    node: Activate | Multiply | Softcap
    out: TensorPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedScale:
    """Heads times the stored tensor `weight`, written where x lives."""

    node: ScaleHeads
    weight: str
    out: TensorPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRows:
    """The tile row of a prefill that the head reads, moved to where the head wants it."""

    value: str
    rows: int
    sliced: TensorPlan
    out: TensorPlan
    gather: Collective | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPositions:
    """cos and sin of the positions of one step, gathered from a table of the spec.

    `stored` names the tensors: `rope` for rope_cos and rope_sin. `placements` holds one placement
    for each set of cores that rotates (q's, k's, or both at once); DRAM alone in prefill.
    """

    table: str
    stored: str
    decode: bool
    rows: int
    head_dim: int
    placements: tuple[Placement, ...]
    out: TensorPlan


PlannedOp = (
    PlannedEmbedding
    | PlannedNorm
    | PlannedLinear
    | PlannedConcat
    | PlannedSplitQkv
    | PlannedRope
    | PlannedAttention
    | PlannedGated
    | PlannedAdd
    | PlannedUnary
    | PlannedScale
    | PlannedRows
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderPlan:
    """One distinct decoder: its operations and the layers that use it."""

    name: str
    layers: tuple[int, ...]
    ops: tuple[PlannedOp, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PhasePlan:
    """Decode (`tokens` is 1), or prefill of a chunk of up to `tokens` of each of `prompts`.

    `enter` makes the residual stream, called `value`, that the decoders work on; `positions` has an
    entry for each table that any of them rotates by, `masks` for each that any adds to its scores.
    `continues`: a chunk that starts anywhere in its prompt, of which the cache holds what comes
    before; else one that starts the prompt. Rows of several prompts follow each other: all but
    attention takes them for one.
    """

    decode: bool
    tokens: int
    enter: tuple[PlannedOp, ...]
    value: str
    residual: TensorPlan
    positions: tuple[PlannedPositions, ...]
    decoders: tuple[DecoderPlan, ...]
    masks: tuple[PlannedMask, ...] = ()
    continues: bool = False
    prompts: int = 1

    @property
    def name(self) -> str:
        """decode, prefill_TOKENS, or prefill_chunk_TOKENS where it continues a prompt; of several
        prompts PROMPTSxTOKENS."""
        kind = "prefill_chunk" if self.continues else "prefill"
        size = f"{self.tokens}" if self.prompts == 1 else f"{self.prompts}x{self.tokens}"
        return "decode" if self.decode else f"{kind}_{size}"

    @property
    def rows(self) -> int:
        """Tokens of all prompts."""
        return self.prompts * self.tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadPlan:
    """From the residual stream of 32 rows, `value`, to the logits, `result`.

    `from_prefill` cuts the rows out of a prefill first. The logits are in `vocab_shards` parts, one
    on each rank, or whole on every rank where it is 1; `gather` is for the greedy choice. That
    reads logits as rows, which are made of the columns of `choice_columns`, one range at a time.
    """

    value: str
    from_prefill: PlannedRows
    ops: tuple[PlannedOp, ...]
    result: str
    logits: TensorPlan
    vocab_shards: int
    gather: Collective | None
    choice_columns: tuple[int, ...]
    sampling: SamplingPlan

    @property
    def chosen_from(self) -> TensorPlan:
        """All logits, on every rank."""
        return self.gather.out if self.gather else self.logits


@dataclass(frozen=True, slots=True, kw_only=True)
class KvCachePlan:
    """The one KV layout that prefill writes and decode reads: paged, one pair per layer.

    Users share all `blocks` but the last, which belongs to nobody (see `Paging.blocks`).
    Where scores are capped a block is all of a user's context, block u is user u's, and the last
    one is not stored.
    """

    block_tokens: int
    blocks: int
    dtypes: tuple[DType, ...]  # per layer
    tensor: tuple[TensorPlan, ...]  # per layer, for k and for v alike
    rope_form: RopeForm


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A choice between alternatives that were compared: what was taken, and what it cost."""

    name: str
    taken: str
    alternatives: tuple[tuple[str, str], ...]  # alternative, what it costs or why it is not legal


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that lower, the weight converter and the runtime need to know.

    A prompt is read in chunks of `prefill_chunk_tokens`, and the rest in the smallest bucket that
    holds it: the first chunk by one of `prefill`, the others by those of `chunks` (none where no
    chunk can follow another), which start at multiples of `chunk_start_tokens` and are given a page
    table of `pages` entries. `buffers` and `semaphores` are what collectives keep between steps.
    Several prompts are read by `batched` and `batched_chunks`, as `together` says.
    """

    spec: str
    model: str
    mesh: str
    arch: str
    parallel: Parallel
    profile: str
    batch: int
    slots: int
    context: int
    vocab: int
    rope_positions: int
    prefill_chunk_tokens: int
    chunk_start_tokens: int
    pages: int
    kv_cache: KvCachePlan
    decode: PhasePlan
    prefill: tuple[PhasePlan, ...]
    chunks: tuple[PhasePlan, ...]
    batched: tuple[PhasePlan, ...]
    batched_chunks: tuple[PhasePlan, ...]
    together: tuple[Together, ...]
    head: HeadPlan
    weights: tuple[WeightPlan, ...]
    memory: MemoryPlan
    largest: Largest
    buffers: tuple[tuple[str, TensorPlan], ...] = ()
    semaphores: int = 0
    choices: tuple[Choice, ...] = field(default=())

    def semaphore_of(self, buffer: str) -> int:
        """The semaphore of the sums that use a buffer."""
        sums = (
            op.collective
            for decoder in self.decode.decoders
            for op in decoder.ops
            if isinstance(op, PlannedLinear)
        )
        return next(each.semaphore for each in sums if each and each.buffer == buffer)

    @property
    def buckets(self) -> tuple[int, ...]:
        """Chunk lengths, in tokens, for which a prefill is emitted."""
        return tuple(phase.tokens for phase in self.prefill)

    def chunks_of(self, tokens: int) -> tuple[int, ...]:
        """The buckets that a prompt of so many tokens is read in, one after the other."""
        whole, rest = divmod(tokens, self.prefill_chunk_tokens)
        last = [min(bucket for bucket in self.buckets if bucket >= rest)] if rest else []
        return (*[self.prefill_chunk_tokens] * whole, *last)

    @property
    def phases(self) -> tuple[PhasePlan, ...]:
        """Every step that is emitted."""
        return (self.decode, *self.prefills)

    @property
    def prefills(self) -> tuple[PhasePlan, ...]:
        """Those that read prompts; what they share with others comes first."""
        return (*self.prefill, *self.chunks, *self.batched, *self.batched_chunks)
