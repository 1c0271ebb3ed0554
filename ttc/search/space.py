"""What a search chooses between: forms of groups of weights, in blocks of decoders.

A form is a storage type with the fidelity that loses nothing more: one pass of the matrix unit is
exact for bfp4 weights and two are for bfp8, and sums are held in float32 throughout, which costs
accuracy otherwise and no byte.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ttc.hardware.chips import Chip
from ttc.plan.estimate import estimate
from ttc.plan.plan import Plan
from ttc.spec.groups import ranges
from ttc.spec.precision import EffectivePrecision


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One way to store a group and compute with it: its groups of a profile, and their values."""

    dtype: str
    settings: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A group whose form is chosen, in a block of decoders; no decoders: the model has it once.

    forms  the finest first
    """

    group: str
    decoders: tuple[int, ...]
    forms: tuple[Form, ...]

    def __str__(self) -> str:
        return f"{self.group} of {ranges(self.decoders)}" if self.decoders else self.group


type Choice = tuple[int, ...]
"""The form of each item, by number."""

type Table = tuple[tuple[float, ...], ...]
"""A number for every form of every item."""

_PASSES = {"bf16": "hifi4", "bfp8": "hifi2", "bfp4": "lofifp32"}
_OPERATIONS = {
    "wqkv": ("li_qkv_decode", "li_qkv_prefill"),
    "wo": ("li_o_decode", "li_o_prefill"),
    "ff1_3": ("li_ff1_3",),
    "ff2": ("li_ff2",),
    "lm_head": ("li_lm_head",),
}
_CACHE = "kv_cache"
# Logits cost no byte that a step reads, and in bf16 the two best of them tie.
_REST = """default: {weights: bf16, activations: bf16, ops: hifi4}
activations: {logits: fp32}"""


def make_items(plan: Plan, layers: int, block: int) -> tuple[Item, ...]:
    """Every group of matmul weights that a plan stores, and the KV cache of all decoders at once.

    block  neighbouring decoders that share a form
    """
    stored = {weight.group for weight in plan.weights if weight.decoder is not None}
    items = [
        Item(
            group=group,
            decoders=tuple(range(first, min(first + block, layers))),
            forms=_forms(group),
        )
        for group in _OPERATIONS
        if group in stored
        for first in range(0, layers, block)
    ]
    once = {weight.group for weight in plan.weights if weight.decoder is None}
    items += [
        Item(group=group, decoders=(), forms=_forms(group))
        for group in _OPERATIONS
        if group in once
    ]
    cache = [Form(dtype=dtype, settings=((_CACHE, dtype),)) for dtype in ("bf16", "bfp8")]
    return (*items, Item(group=_CACHE, decoders=(), forms=tuple(cache)))


def _forms(group: str) -> tuple[Form, ...]:
    return tuple(
        Form(
            dtype=dtype,
            settings=((group, dtype), *((op, fidelity) for op in _OPERATIONS[group])),
        )
        for dtype, fidelity in _PASSES.items()
    )


def stored_as(
    items: Sequence[Item], precision: Callable[[int | None], EffectivePrecision]
) -> Choice:
    """The choice that stores what a profile stores; of a block that it splits, as the finest."""
    choice: list[int] = []
    for item in items:
        dtypes = [form.dtype for form in item.forms]
        stored = [precision(decoder).dtype(item.group) for decoder in item.decoders or (None,)]
        choice.append(min(dtypes.index(each) for each in stored))
    return tuple(choice)


def read_bytes(plan: Plan) -> float:
    """Bytes of DRAM that a decode step reads on a chip when the context is full.

    All weights but the embedding table and the RoPE tables, of which it reads a few rows, and the
    KV cache of all users.
    """
    weights = [each for each in plan.weights if each.table is None and each.group != "embedding"]
    return plan.memory.kv_cache_bytes + sum(each.tensor.stored_bytes for each in weights)


def step_seconds(plan: Plan, chip: Chip) -> float:
    """The estimated time of a decode step when the context is full."""
    return estimate(plan, chip).decode[-1].ms / 1000


def price(
    items: Sequence[Item], plan_of: Callable[[str], Plan], cost: Callable[[Plan], float]
) -> tuple[Table, float]:
    """What every form of every item costs more than the finest, and the cost of the finest plan.

    Each group is planned whole in each form, and its decoders share the difference evenly.
    """

    def cost_of(choice: Sequence[int]) -> float:
        return cost(plan_of(profile_text("priced", items, choice)))

    finest = cost_of([0] * len(items))
    prices: list[tuple[float, ...]] = []
    known: dict[tuple[str, int], float] = {}
    for item in items:
        members = [each for each in items if each.group == item.group]
        share = max(1, len(item.decoders)) / sum(max(1, len(each.decoders)) for each in members)
        for form in range(1, len(item.forms)):
            if (item.group, form) not in known:
                choice = [form if each.group == item.group else 0 for each in items]
                known[item.group, form] = cost_of(choice) - finest
        extra = (known[item.group, form] for form in range(1, len(item.forms)))
        prices.append((0.0, *(share * each for each in extra)))
    return tuple(prices), finest


def profile_text(
    name: str, items: Sequence[Item], choice: Iterable[int], comments: Sequence[str] = ()
) -> str:
    """The precision profile of a choice, with what is known of it in comments.

    The form that most decoders have is the group's, the others are entries of their decoders.
    """
    chosen = [(item, item.forms[number]) for item, number in zip(items, choice, strict=True)]
    usual: dict[str, Form] = {}
    for group in dict.fromkeys(item.group for item, _ in chosen):
        counts = Counter[Form]()
        for item, form in chosen:
            if item.group == group:
                counts[form] += max(1, len(item.decoders))
        usual[group] = counts.most_common(1)[0][0]
    single: dict[int, list[tuple[str, str]]] = {}
    for item, form in chosen:
        if form != usual[item.group]:
            for decoder in item.decoders:
                single.setdefault(decoder, []).extend(form.settings)
    lines = ["# yaml-language-server: $schema=../ttc/schemas/precision_profile.schema.json"]
    lines += [f"# {comment}".rstrip() for comment in comments]
    lines += [f"profile: {name}", _REST]
    settings = [pair for form in usual.values() for pair in form.settings]
    for kind, of_ops in (("weights", False), ("ops", True)):
        lines.append(f"{kind}:")
        lines += [f"  {key}: {to}" for key, to in settings if _is_op(key) is of_ops]
    if single:
        lines.append("decoders:")
    spans: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for decoder, pairs in sorted(single.items()):
        spans.setdefault(tuple(pairs), []).append(decoder)
    for pairs, decoders in spans.items():
        entry = ", ".join(f"{key}: {to}" for key, to in pairs)
        lines += [f"  {span}: {{{entry}}}" for span in ranges(decoders).split(", ")]
    return "\n".join(lines) + "\n"


def _is_op(key: str) -> bool:
    return key not in _OPERATIONS and key != _CACHE
