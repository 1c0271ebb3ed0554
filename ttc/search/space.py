"""What a search chooses between: forms of groups of weights, in blocks of decoders.

A form is a storage type with the fidelity that loses nothing more: one pass of the matrix unit is
exact for bfp4 weights and two are for bfp8, and sums are held in float32 throughout, which costs
accuracy otherwise and no byte.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ttc.plan.plan import Plan
from ttc.spec.groups import ranges


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

type Costs = Mapping[tuple[str, int | None], float]
"""By group and decoder (None outside): what a decode step pays, such as bytes it reads."""

_PASSES = {"bf16": "hifi4", "bfp8": "hifi2", "bfp4": "lofifp32"}
_OPERATIONS = {
    "wqkv": ("li_qkv_decode", "li_qkv_prefill"),
    "wo": ("li_o_decode", "li_o_prefill"),
    "ff1_3": ("li_ff1_3",),
    "ff2": ("li_ff2",),
    "lm_head": ("li_lm_head",),
}
_CACHE = "kv_cache"
_DEFAULT = "default: {weights: bf16, activations: bf16, ops: hifi4}"


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


def read_bytes(plan: Plan) -> Costs:
    """Bytes of DRAM that a decode step reads on a chip when the context is full.

    All weights but the embedding table and the RoPE tables, of which it reads a few rows, and the
    KV cache of all users.
    """
    costs: Counter[tuple[str, int | None]] = Counter()
    for weight in plan.weights:
        if weight.table is None and weight.group != "embedding":
            costs[weight.group, weight.decoder] += weight.tensor.stored_bytes
    costs[_CACHE, None] += plan.memory.kv_cache_bytes
    return costs


def price(
    items: Sequence[Item], plan_of: Callable[[str], Plan], cost: Callable[[Plan], Costs]
) -> tuple[tuple[tuple[float, ...], ...], float]:
    """The cost of every form of every item, and of all that is not chosen.

    plan_of  the plan of a profile text; it is asked for one plan per number of a form
    """
    most = max(len(item.forms) for item in items)
    costs = [
        cost(plan_of(profile_text("uniform", items, [min(n, len(i.forms) - 1) for i in items])))
        for n in range(most)
    ]
    prices = tuple(
        tuple(sum(costs[n][key] for key in _keys(item)) for n in range(len(item.forms)))
        for item in items
    )
    return prices, sum(costs[0].values()) - sum(each[0] for each in prices)


def _keys(item: Item) -> Iterator[tuple[str, int | None]]:
    if not item.decoders:
        yield item.group, None
    for decoder in item.decoders:
        yield item.group, decoder


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
    lines += [f"profile: {name}", _DEFAULT]
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
