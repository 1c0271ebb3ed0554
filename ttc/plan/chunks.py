"""How prompts are cut: the chunk that long ones are read in, and the buckets that hold the rest.

A prompt is read in chunks of one size. What is left is padded to the smallest bucket that holds it,
so that a program exists for each bucket, not for each length.
"""

from collections.abc import Callable, Sequence

from ttc.plan.plan import Choice
from ttc.plan.sdpa import KEY_TOKENS

# The smallest bucket: fewer rows would leave most rows of cores idle.
SMALLEST_BUCKET_TOKENS = 128

# A chunk of this length must fit beside the users; it is the least of which the starts are
# multiples of what the attention reads at once. With less a context would cost more time than room.
NEEDED_CHUNK_TOKENS = KEY_TOKENS

# Where a prompt has to be read at once, prompts of this length must fit.
NEEDED_PROMPT_TOKENS = 2048

# A smaller chunk is taken if prompts take no more of the estimated time than this: it leaves memory
# to users, and fewer programs to build.
TOLERATED_SLOWDOWN = 1.03

# The prompt that chunks are compared by, or the context if that is less: some chunks long, and not
# so long that attention to what came before hides everything else.
COMPARED_PROMPT_TOKENS = 8192

# Most of what is computed for the last chunks of prompts that may be padding.
PADDING_LIMIT = 0.15

type Sizes = tuple[int, ...]


def chunk_sizes(context: int, limit: int) -> Sizes:
    """Chunks that a prompt may be read in: powers of two, none longer than context or `limit`, but
    one in any case: a context shorter than the smallest is one itself."""
    most = min(context, limit)
    sizes = [min(SMALLEST_BUCKET_TOKENS, context)]
    while 2 * sizes[-1] <= most:
        sizes.append(2 * sizes[-1])
    return tuple(sizes)


def needed_chunk(context: int, block: int, *, alone: bool = False) -> int:
    """The chunk that a context must have room for; `alone`: no other can follow it."""
    least = NEEDED_PROMPT_TOKENS if alone else NEEDED_CHUNK_TOKENS
    return chunk_sizes(context, max(least, block))[-1]


def keys_at_once(chunk: int) -> int:
    """Tokens of keys that the attention of a chunk which continues a prompt reads at once."""
    return min(chunk, KEY_TOKENS)


def start_multiple(chunk: int, block: int) -> int:
    """Where chunks may start: at multiples of what the attention reads at once, and at blocks."""
    return max(keys_at_once(chunk), block)


def choose_chunk(
    context: int,
    sizes: Sizes,
    *,
    least: int,
    free_bytes: Callable[[int], int],
    seconds: Callable[[int, int], float],
    largest: bool,
) -> tuple[int, Choice]:
    """The chunk of a context: the smallest that fits and is nearly as fast as the fastest.

    least       no smaller one is taken, whether it fits or not
    free_bytes  DRAM that a chunk leaves on a chip; less than 0 where it does not fit
    seconds     the estimated time of a prompt of so many tokens, read in chunks of so many
    largest     take the largest that fits, fast or not
    """
    prompt = min(context, COMPARED_PROMPT_TOKENS)
    sizes = tuple(size for size in sizes if size >= least) or (least,)
    free = {size: free_bytes(size) for size in sizes}
    times = {size: seconds(prompt, size) for size in sizes if free[size] >= 0}
    fast = TOLERATED_SLOWDOWN * min(times.values(), default=0.0)
    if largest or not times:
        taken = max(times, default=sizes[0])
    else:
        taken = next(size for size in times if times[size] <= fast)
    alternatives = tuple(
        (str(size), f"{_room(free[size])}{_time(times.get(size), prompt)}") for size in sizes
    )
    return taken, Choice(name="prefill_chunk", taken=str(taken), alternatives=alternatives)


def _room(free: int) -> str:
    return f"{free} bytes of DRAM free" if free >= 0 else f"{-free} bytes of DRAM too many"


def _time(seconds: float | None, tokens: int) -> str:
    return "" if seconds is None else f", {seconds:.3g} s for a prompt of {tokens} tokens"


def choose_buckets(chunk: int) -> tuple[Sizes, Choice]:
    """The fewest buckets of which the padding is no more than PADDING_LIMIT, else the finest."""
    powers = chunk_sizes(chunk, chunk)
    step = SMALLEST_BUCKET_TOKENS
    halves = sorted({*powers, *(3 * size // 2 for size in powers[1:-1] if size >= 2 * step)})
    ways = {"powers of two": powers, "powers of two and one between": tuple(halves)}
    shares = {name: padding(sizes) for name, sizes in ways.items()}
    taken = next((name for name in ways if shares[name] < PADDING_LIMIT), list(ways)[-1])
    alternatives = tuple(
        (name, f"{len(ways[name])} buckets, {100 * share:.1f} % padding in last chunks")
        for name, share in shares.items()
    )
    return ways[taken], Choice(name="prefill_buckets", taken=taken, alternatives=alternatives)


def padding(buckets: Sequence[int]) -> float:
    """The share of padding in last chunks, over all lengths that the largest bucket holds."""
    computed = previous = 0
    for bucket in buckets:
        computed += bucket * (bucket - previous)
        previous = bucket
    tokens = previous * (previous + 1) // 2
    return 1 - tokens / computed


def continuing_buckets(buckets: Sizes, context: int, block: int) -> Sizes:
    """The buckets of chunks that continue a prompt: none where no chunk can start in a context."""
    left = context - start_multiple(buckets[-1], block)
    if left <= 0:
        return ()
    enough = min((size for size in buckets if size >= left), default=buckets[-1])
    return tuple(size for size in buckets if size <= enough)
