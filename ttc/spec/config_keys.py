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


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """value = (the first key that is given, else `absent`) ** power * times

    absent  a number, a flag, or text: the name of a size, or "SIZE / SIZE"; None: a key is needed
    none    the value of a key that is given as null; None: as if it were absent
    times   a number or the name of a size
    below   a key with a number: a value that is not less is as good as missing, "" to take any
    """

    keys: tuple[str, ...]
    absent: float | bool | str | None = None
    none: float | None = None
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
    not `scaled` shares the file with another one, whom `rope_scaling` is about.
    """

    theta: str
    absent: float
    section: str
    scaled: bool


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
    """Layers are of `kind` if `key` is given, the flag `if_key` is set and the number is less than
    that of `below`; the first `from_key` layers are of the kind `before`. "" for what is not asked.
    """

    key: str
    kind: str
    if_key: str
    below: str
    from_key: str
    before: str

    @property
    def others(self) -> tuple[str, ...]:
        """The further keys it reads."""
        return tuple(key for key in (self.if_key, self.below, self.from_key) if key)


@dataclass(frozen=True, slots=True, kw_only=True)
class KindCycle:
    """The kinds that repeat over the layers."""

    cycle: tuple[str, ...]


type KindRule = KindList | KindPeriod | KindWhere | KindCycle


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigKeys:
    """How to read a config.json.

    fixed    key -> the values that the arithmetic has, any of them; an absent key has one of them
    ignored  key -> why it changes nothing
    """

    sizes: Mapping[str, Rule] = NOTHING
    norm_eps: Rule | None = None
    tie_embeddings: Rule | None = None
    max_context_tokens: Rule | None = None
    rope: RopeKeys | None = None
    local_rope: RopeKeys | None = None
    numbers: Mapping[str, Rule] = NOTHING
    layer_kinds: tuple[KindRule, ...] = ()
    options: Mapping[str, OptionRule] = NOTHING
    fixed: Mapping[str, tuple[object, ...]] = NOTHING
    ignored: Mapping[str, str] = field(default=NOTHING, repr=False)


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
    rules = section.get("layer_kinds")
    for rule, data in zip(
        _section(section).layer_kinds, rules.elements() if rules else (), strict=True
    ):
        problems += [
            Problem(message=f"unknown kind '{kind}'", at=data.at, help=did_you_mean(kind, kinds))
            for kind in kinds_of(rule)
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
        options=MappingProxyType(
            {name: _over(rule, shared.options.get(name)) for name, rule in own.options.items()}
        ),
        fixed=MappingProxyType({**fixed, **own.fixed}),
        ignored=MappingProxyType({**shared.ignored, **own.ignored}),
    )


def _section(data: Located) -> ConfigKeys:
    fields = data.fields()
    kinds = fields.get("layer_kinds")
    return ConfigKeys(
        sizes=_rules(data, "sizes"),
        norm_eps=_optional(data, "norm_eps"),
        tie_embeddings=_optional(data, "tie_embeddings"),
        max_context_tokens=_optional(data, "max_context_tokens"),
        rope=_rope(fields["rope"]) if "rope" in fields else None,
        local_rope=_rope(fields["local_rope"]) if "local_rope" in fields else None,
        numbers=_rules(data, "numbers"),
        layer_kinds=tuple(map(_kind_rule, kinds.elements())) if kinds else (),
        options=MappingProxyType(
            {name: _option_rule(each) for name, each in _entries(data, "options")}
        ),
        fixed=MappingProxyType({key: _values(each) for key, each in _entries(data, "fixed")}),
        ignored=MappingProxyType({key: each.text for key, each in _entries(data, "ignored")}),
    )


def _entries(data: Located, name: str) -> tuple[tuple[str, Located], ...]:
    held = data.get(name)
    return tuple(held.fields().items()) if held else ()


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
    )


def _kind_rule(data: Located) -> KindRule:
    plain: Any = data.plain()
    if "cycle" in plain:
        return KindCycle(cycle=tuple(plain["cycle"]))
    if "values" in plain:
        return KindList(key=plain["key"], values=MappingProxyType(plain["values"]))
    if "last" in plain:
        return KindPeriod(key=plain["key"], last=plain["last"], others=plain["others"])
    return KindWhere(
        key=plain["key"],
        kind=plain["kind"],
        if_key=plain.get("if", ""),
        below=plain.get("below", ""),
        from_key=plain.get("from", ""),
        before=plain.get("before", ""),
    )


def _values(data: Located) -> tuple[object, ...]:
    plain = data.plain()
    return tuple(plain) if isinstance(plain, list) else (plain,)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
