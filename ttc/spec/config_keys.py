"""What the keys of a Hugging Face config.json mean, as data.

`config_keys.yaml` says it for every architecture, and the `config` section of an architecture for
one: its entries of `sizes`, `numbers`, `fixed` and `ignored` come before the shared ones, its other
fields replace them. The shared `options` are for the architectures that have them.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ttc.errors import Problem, did_you_mean
from ttc.located import Located
from ttc.schema import load_yaml
from ttc.spec.steps import Option

SHARED = Path(__file__).parent / "config_keys.yaml"
NOTHING: Mapping[str, Any] = MappingProxyType({})
KIND_RULES = ("layer_kinds", "kind_changes")  # lists of rules


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """value = (the first key that is given, else `absent`) ** power * times

    absent  a number, a flag, or text: the name of a size, or "SIZE / SIZE"; None: a key is needed
    none    the same for a key that is given as null; None: as if it were absent
    times   a number or the name of a size
    below   a field of the spec: a value that is not less is as good as null, "" to take any
    """

    keys: tuple[str, ...]
    absent: float | bool | str | None = None
    none: float | str | None = None
    power: float = 1.0
    times: float | str = 1.0
    below: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionRule:
    """The first key that is given says a flag, or by `values` a word; else it is `absent`."""

    keys: tuple[str, ...]
    values: Mapping[str, str]
    absent: Option


NO_RULE = OptionRule(keys=(), values=NOTHING, absent=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeKeys:
    """A RoPE table. `section` is its part of rope_parameters, if that has parts; a table that is
    not `scaled` shares the file with another one, whom `rope_scaling` is about. `original` is what
    a missing original_max_position_embeddings stands for, 0 for none.
    """

    theta: str
    absent: float
    section: str
    scaled: bool
    original: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KindList:
    """`key` is a list with an entry for each layer; `values` is entry -> kind."""

    key: str
    values: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class KindPeriod:
    """The last of each `key` layers is of one kind, the others are of another."""

    key: str
    last: str
    others: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KindWhere:
    """Layers are of `kind` if `key` is given and the flag `if_key` is set; the first `from_key`
    layers are of the kind `before`, `from_absent` where there is no such key. "" for what is not
    asked.
    """

    key: str
    kind: str
    if_key: str
    from_key: str
    from_absent: int
    before: str

    @property
    def others(self) -> tuple[str, ...]:
        """The further keys it reads."""
        return tuple(key for key in (self.if_key, self.from_key) if key)


@dataclass(frozen=True, slots=True, kw_only=True)
class KindCycle:
    """The kinds that repeat over the layers."""

    cycle: tuple[str, ...]


type KindRule = KindList | KindPeriod | KindWhere | KindCycle


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeList:
    """`key` is a list with an entry for each layer; `values` is entry -> kind -> another kind."""

    key: str
    values: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeWhere:
    """`kinds` is kind -> another kind, if `key` is given and the flag `if_key` is set."""

    key: str
    kinds: Mapping[str, str]
    if_key: str


type KindChange = ChangeList | ChangeWhere


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigKeys:
    """How to read a config.json.

    kind_changes  what becomes of the kinds that `layer_kinds` gives, for a second property that
                  some decoders have, such as a window
    fixed         key -> the values that the arithmetic has, any of them; an absent key has one
    ignored       key -> why it changes nothing
    """

    sizes: Mapping[str, Rule] = NOTHING
    norm_eps: Rule | None = None
    tie_embeddings: Rule | None = None
    max_context_tokens: Rule | None = None
    rope: RopeKeys | None = None
    local_rope: RopeKeys | None = None
    numbers: Mapping[str, Rule] = NOTHING
    layer_kinds: tuple[KindRule, ...] = ()
    kind_changes: tuple[KindChange, ...] = ()
    options: Mapping[str, OptionRule] = NOTHING
    fixed: Mapping[str, tuple[object, ...]] = NOTHING
    ignored: Mapping[str, str] = field(default=NOTHING, repr=False)

    def kinds_with(self, keys: Collection[str]) -> frozenset[str]:
        """The kinds that decoders have where one of the keys is given: those it is about."""
        where = (rule for rule in self.layer_kinds if isinstance(rule, KindWhere))
        found = {rule.kind for rule in where if rule.key in keys}
        if any(isinstance(each, ChangeWhere) and each.key in keys for each in self.kind_changes):
            found |= {kind for each in self.kind_changes for kind in changed_kinds(each)}
        return frozenset(found)


@cache
def shared_keys() -> ConfigKeys:
    """What keys mean where an architecture does not say otherwise. Read when it is asked for:
    planning needs no config.json.
    """
    return _section(load_yaml(SHARED, "config_keys"))


def read_config_keys(section: Located | None, options: Mapping[str, Option]) -> ConfigKeys:
    """The `config` of an architecture, whose schema holds, with these options."""
    keys = _section(section) if section else ConfigKeys()
    rules = {
        name: replace(keys.options.get(name, NO_RULE), absent=absent)
        for name, absent in options.items()
    }
    return replace(keys, options=MappingProxyType(rules))


def check_config_keys(
    section: Located | None,
    *,
    dims: Collection[str],
    numbers: Collection[str],
    kinds: Collection[str],
    options: Collection[str],
) -> list[Problem]:
    """Names in the `config` of an architecture that the architecture does not declare."""
    if section is None:
        return []
    problems: list[Problem] = []
    for field_name, choices in (("sizes", dims), ("numbers", numbers), ("options", options)):
        problems += [
            Problem(
                message=f"unknown {field_name[:-1]} '{name}'",
                at=each.key_at,
                help=did_you_mean(name, choices),
            )
            for name, each in _entries(section, field_name)
            if name not in choices
        ]
    keys = _section(section)
    named = [*map(kinds_of, keys.layer_kinds), *map(_kinds_in, keys.kind_changes)]
    written = [each for name in KIND_RULES for each in _elements(section, name)]
    for rule_kinds, data in zip(named, written, strict=True):
        problems += [
            Problem(message=f"unknown kind '{kind}'", at=data.at, help=did_you_mean(kind, kinds))
            for kind in rule_kinds
            if kind not in kinds
        ]
    return problems


def kinds_of(rule: KindRule) -> tuple[str, ...]:
    """The kinds that a rule may give, each once."""
    match rule:
        case KindCycle():
            named = rule.cycle
        case KindList():
            named = tuple(rule.values.values())
        case KindPeriod():
            named = (rule.last, rule.others)
        case KindWhere():
            named = (rule.kind, *((rule.before,) if rule.before else ()))
    return tuple(dict.fromkeys(named))


def changed_kinds(change: KindChange) -> tuple[str, ...]:
    """The kinds that a change may give, each once."""
    return tuple(dict.fromkeys(after for _, after in _changes(change)))


def _kinds_in(change: KindChange) -> tuple[str, ...]:
    """Every kind that a change names, each once."""
    return tuple(dict.fromkeys(kind for pair in _changes(change) for kind in pair))


def _changes(change: KindChange) -> tuple[tuple[str, str], ...]:
    maps = change.values.values() if isinstance(change, ChangeList) else (change.kinds,)
    return tuple(pair for each in maps for pair in each.items())


def with_shared(own: ConfigKeys) -> ConfigKeys:
    """What an architecture says of keys, over what all share."""
    shared = shared_keys()
    fixed = {key: each for key, each in shared.fixed.items() if key not in own.ignored}
    return ConfigKeys(
        sizes=MappingProxyType({**shared.sizes, **own.sizes}),
        norm_eps=own.norm_eps or shared.norm_eps,
        tie_embeddings=own.tie_embeddings or shared.tie_embeddings,
        max_context_tokens=own.max_context_tokens or shared.max_context_tokens,
        rope=own.rope or shared.rope,
        local_rope=own.local_rope,
        numbers=own.numbers,
        layer_kinds=own.layer_kinds,
        kind_changes=own.kind_changes,
        options=MappingProxyType(
            {name: _over(rule, shared.options.get(name)) for name, rule in own.options.items()}
        ),
        fixed=MappingProxyType({**fixed, **own.fixed}),
        ignored=MappingProxyType({**shared.ignored, **own.ignored}),
    )


def _section(data: Located) -> ConfigKeys:
    fields = data.fields()
    return ConfigKeys(
        sizes=_rules(data, "sizes"),
        norm_eps=_optional(data, "norm_eps"),
        tie_embeddings=_optional(data, "tie_embeddings"),
        max_context_tokens=_optional(data, "max_context_tokens"),
        rope=_rope(fields["rope"]) if "rope" in fields else None,
        local_rope=_rope(fields["local_rope"]) if "local_rope" in fields else None,
        numbers=_rules(data, "numbers"),
        layer_kinds=tuple(map(_kind_rule, _elements(data, "layer_kinds"))),
        kind_changes=tuple(map(_kind_change, _elements(data, "kind_changes"))),
        options=MappingProxyType(
            {name: _option_rule(each) for name, each in _entries(data, "options")}
        ),
        fixed=MappingProxyType({key: _values(each) for key, each in _entries(data, "fixed")}),
        ignored=MappingProxyType({key: each.text for key, each in _entries(data, "ignored")}),
    )


def _entries(data: Located, name: str) -> tuple[tuple[str, Located], ...]:
    held = data.get(name)
    return tuple(held.fields().items()) if held else ()


def _elements(data: Located, name: str) -> tuple[Located, ...]:
    held = data.get(name)
    return tuple(held.elements()) if held else ()


def _rules(data: Located, name: str) -> Mapping[str, Rule]:
    return MappingProxyType({key: _rule(each) for key, each in _entries(data, name)})


def _optional(data: Located, name: str) -> Rule | None:
    held = data.get(name)
    return _rule(held) if held else None


def _rule(data: Located) -> Rule:
    if isinstance(data.value, str):
        return Rule(keys=(data.value,))
    plain: Any = data.plain()
    key: Any = plain.get("key", [])
    return Rule(
        keys=(key,) if isinstance(key, str) else tuple(key),
        absent=plain.get("absent"),
        none=plain.get("none"),
        power=plain.get("power", 1.0),
        times=plain.get("times", 1.0),
        below=plain.get("below", ""),
    )


def _option_rule(data: Located) -> OptionRule:
    plain: Any = data.plain()
    key, values = plain.get("key", []), plain.get("values", {})
    return OptionRule(
        keys=(key,) if isinstance(key, str) else tuple(key),
        values=MappingProxyType(values),
        absent=False,
    )


def _over(own: OptionRule, shared: OptionRule | None) -> OptionRule:
    """An architecture's rule: where it gives no keys or values, those that all share."""
    if shared is None:
        return own
    return replace(own, keys=own.keys or shared.keys, values=own.values or shared.values)


def _rope(data: Located) -> RopeKeys:
    plain: Any = data.plain()
    return RopeKeys(
        theta=plain["key"],
        absent=plain.get("absent", 10000.0),
        section=plain.get("section", ""),
        scaled=plain.get("scaled", True),
        original=plain.get("original", 0),
    )


def _kind_rule(data: Located) -> KindRule:
    plain: Any = data.plain()
    if "cycle" in plain:
        return KindCycle(cycle=tuple(plain["cycle"]))
    if "values" in plain:
        return KindList(key=plain["key"], values=MappingProxyType(plain["values"]))
    if "last" in plain:
        return KindPeriod(key=plain["key"], last=plain["last"], others=plain["others"])
    start: Any = plain.get("from", "")
    start_key, layers = (start, 0) if isinstance(start, str) else (start["key"], start["absent"])
    return KindWhere(
        key=plain["key"],
        kind=plain["kind"],
        if_key=plain.get("if", ""),
        from_key=start_key,
        from_absent=layers,
        before=plain.get("before", ""),
    )


def _kind_change(data: Located) -> KindChange:
    plain: Any = data.plain()
    if "values" in plain:
        values = {entry: MappingProxyType(kinds) for entry, kinds in plain["values"].items()}
        return ChangeList(key=plain["key"], values=MappingProxyType(values))
    return ChangeWhere(
        key=plain["key"],
        kinds=MappingProxyType(plain["kinds"]),
        if_key=plain.get("if", ""),
    )


def _values(data: Located) -> tuple[object, ...]:
    plain = data.plain()
    return tuple(plain) if isinstance(plain, list) else (plain,)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
