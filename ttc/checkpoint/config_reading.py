"""What a config.json says of a model, in the words of a spec, and what becomes of each of its keys.

Every key is used, or changes nothing for a reason that is told, or is unknown; none is dropped.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from ttc.checkpoint.rope_config import PARTIAL, SPELLINGS, RopeReader, is_number
from ttc.spec.config_keys import (
    ChangeList,
    ChangeWhere,
    ConfigKeys,
    KindChange,
    KindCycle,
    KindList,
    KindPeriod,
    KindRule,
    KindWhere,
    OptionRule,
    Rule,
)
from ttc.spec.rope import Dynamic, LongRope, Rope, Yarn

TEXT_PARTS = ("text_config", "llm_config")  # where files of models with vision keep the text model
MOST_LAYERS = 10_000  # a limit for what is made of each
INFERRED = ("rotary_dim",)  # sizes that a spec leaves out where they are those of a plain model


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The fields of a spec as a configuration gives them.

    values   field path (dims.hidden, norm_eps, options.NAME) -> value; what is wrong is not in it
    keys     field path -> the keys that say it; () for a value that a missing key stands for
    kinds    kind of every layer, () where the architecture has no kinds
    used     every key that was used, with what it says
    ignored  key -> why it changes nothing
    unknown  keys that nothing is known of, with what they say
    missing  keys that are needed and not there
    wrong    what cannot be: a key that is no number, a fixed value that differs
    """

    values: Mapping[str, Any]
    keys: Mapping[str, tuple[str, ...]]
    rope: Rope | None
    local_rope: Rope | None
    kinds: tuple[str, ...]
    used: Mapping[str, object]
    ignored: Mapping[str, str]
    unknown: Mapping[str, object]
    missing: tuple[str, ...]
    wrong: tuple[str, ...]


def read_config(config: Mapping[str, Any], keys: ConfigKeys) -> Reading:
    """Read a config.json by the keys that an architecture and all of them share."""
    return _Reader(text_part(config), keys).reading()


def text_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of the text model, which files of models with vision keep in a part of their own."""
    part = next((name for name in TEXT_PARTS if isinstance(config.get(name), dict)), None)
    merged = {key: value for key, value in config.items() if key != part}
    if part is not None:
        merged |= {key: value for key, value in config[part].items() if key != "architectures"}
    for name in SPELLINGS:
        scaling = merged.get(name)
        if isinstance(scaling, dict) and PARTIAL in scaling:
            merged.setdefault(PARTIAL, cast(dict[str, object], scaling)[PARTIAL])
    return merged


@dataclass(slots=True)
class _Reader:
    config: Mapping[str, Any]
    by: ConfigKeys
    values: dict[str, Any] = field(default_factory=dict[str, Any])
    keys: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    used: dict[str, object] = field(default_factory=dict[str, object])
    ignored: dict[str, str] = field(default_factory=dict[str, str])
    missing: list[str] = field(default_factory=list[str])
    wrong: list[str] = field(default_factory=list[str])

    def reading(self) -> Reading:
        for name, rule in self.by.sizes.items():
            self._read(f"dims.{name}", rule, _whole)
        for name in ("norm_eps", "tie_embeddings", "max_context_tokens"):
            rule: Rule | None = getattr(self.by, name)
            assert rule is not None, f"the shared keys say where {name} is"
            self._read(name, rule, {"norm_eps": _plain, "tie_embeddings": _flag}.get(name, _whole))
        rope, local_rope = self._ropes()
        kinds = self._kinds()
        for name, option in self.by.options.items():
            self._option(name, option)
        for name, rule in self.by.numbers.items():
            self._number(name, rule, kinds)
        self._fixed()
        self._account()
        for key in self.ignored.keys() - self.config.keys():  # parts of a key stay
            if "." not in key:
                del self.ignored[key]
        known = self.used.keys() | self.ignored.keys()
        return Reading(
            values=self.values,
            keys=self.keys,
            rope=rope,
            local_rope=local_rope,
            kinds=kinds,
            used=self.used,
            ignored=self.ignored,
            unknown={key: value for key, value in self.config.items() if key not in known},
            missing=tuple(self.missing),
            wrong=tuple(self.wrong),
        )

    def _read(
        self, path: str, rule: Rule, check: Callable[[object], Any], *, needed: bool = True
    ) -> None:
        """One field; a number that is not given and has no value of its own is left out."""
        key = next((key for key in rule.keys if self.config.get(key) is not None), None)
        nulls = any(self.config.get(each, 0) is None for each in rule.keys)
        if key is None:
            value = self._constant(rule.none if nulls and rule.none is not None else rule.absent)
        else:
            value = self.config[key]
        if rule.below and not self._is_below(value, rule.below):
            value = self._constant(rule.absent if rule.none is None else rule.none)
            if key is not None:
                self.ignored[key] = f"not less than {rule.below}"
                key = None
        for each in rule.keys:
            if each in self.config and each != key and each not in self.ignored:
                self.ignored[each] = "not set" if self.config[each] is None else f"{key} says it"
        if key is not None:
            self.used[key] = value
            self.ignored.pop(key, None)
        if value is None:
            if needed and rule.absent is None:  # else the sizes that stand for it are missing
                self.missing.append(" or ".join(rule.keys))
            return
        times = self.values.get(f"dims.{rule.times}") if isinstance(rule.times, str) else rule.times
        if is_number(value) and times is not None:
            computed = value**rule.power * times if value > 0 or rule.power == 1 else value * times
            value = value if (rule.power, rule.times) == (1.0, 1.0) else computed
        value = check(value)
        if value is None:
            self.wrong.append(f"{key} is {self.config[key]!r}" if key else f"no value for {path}")
            return
        self.values[path] = value
        self.keys[path] = (key,) if key else ()

    def _option(self, name: str, rule: OptionRule) -> None:
        """A flag, or the word that stands for what the key says."""
        key = next((key for key in rule.keys if self.config.get(key) is not None), None)
        given: object = rule.absent if key is None else self.config[key]
        if key is not None:
            self.used[key] = given
            if isinstance(rule.absent, bool) and not isinstance(given, bool):
                self.wrong.append(f"{key} is {json_text(given)}, expected true or false")
                return
            if isinstance(rule.absent, str):
                if not isinstance(given, str) or given not in rule.values:
                    known = ", ".join(rule.values)
                    self.wrong.append(f"{key} is {json_text(given)}; known are {known}")
                    return
                given = rule.values[given]
        self.values[f"options.{name}"] = given
        self.keys[f"options.{name}"] = (key,) if key else ()

    def _is_below(self, value: object, limit: str) -> bool:
        """Whether a number is less than a field of the spec, as far as both are known."""
        most = self.values.get(limit)
        return most is None or not is_number(value) or value < most

    def _number(self, name: str, rule: Rule, kinds: tuple[str, ...]) -> None:
        """A number of decoders that the model has none of, such as a window, is left out."""
        of = self.by.kinds_with(rule.keys)
        if of and not of & set(kinds):
            for key in rule.keys:
                self.used.pop(key, None)
                self.ignored[key] = f"no decoder is of the kind {' or '.join(sorted(of))}"
            return
        for key in rule.keys:
            value = self.config.get(key, 1)
            if of and value is None:
                kind = " or ".join(sorted(of & set(kinds)))
                self.wrong.append(f"{key} is null, but there are {kind} decoders")
            elif is_number(value) and value < 0:
                self.wrong.append(f"{key} is {value}, expected a number from 0")
            elif value == 0 and 0 in (rule.none, rule.absent):  # which stands for none of it
                self.wrong.append(f"{key} is 0, expected a number above 0, or null for none")
        self._read(f"numbers.{name}", rule, _plain, needed=bool(of))

    def _constant(self, says: float | bool | str | None) -> Any:
        """What a rule says of a missing key: a value, a size, or the quotient of two sizes."""
        if not isinstance(says, str):
            return says
        sizes = [int(self.values.get(f"dims.{name}", 0)) for name in says.split(" / ")]
        if 0 in sizes:
            return None
        return sizes[0] // sizes[1] if len(sizes) == 2 else sizes[0]

    def _ropes(self) -> tuple[Rope | None, Rope | None]:
        assert self.by.rope is not None, "the shared keys say where RoPE is"
        reader = RopeReader(self.config, self.values.get("max_context_tokens"))
        rope = reader.read(self.by.rope)
        local_rope = reader.read(self.by.local_rope) if self.by.local_rope else None
        self.used |= reader.used
        self.ignored |= {key: why for key, why in reader.ignored.items() if key not in self.used}
        self.wrong += reader.wrong
        match rope:  # their context is not the one that max_position_embeddings gives
            case Dynamic() | Yarn() | LongRope():
                longest = round(rope.factor * rope.original_context_tokens)
                context = self.values.get("max_context_tokens", 0)
                self.values["max_context_tokens"] = max(context, longest)
            case _:
                pass
        return rope, local_rope

    def _kinds(self) -> tuple[str, ...]:
        layers = self.values.get("dims.layers", 0)
        if layers > MOST_LAYERS:
            self.wrong.append(f"a model of {layers} decoders cannot be read")
            layers = 0
        kinds = self._first(self.by.layer_kinds, lambda rule: self._by_rule(rule, layers))
        for rule in self.by.layer_kinds:
            if isinstance(rule, KindWhere) and self.config.get(rule.if_key) is False:
                listed = [key for key in self.used if rule.kind in kinds and key in self._lists()]
                self.wrong += [
                    f"{rule.if_key} is false, but {key} has {rule.kind} decoders" for key in listed
                ]
        return self._first(self.by.kind_changes, lambda rule: self._changed(rule, kinds)) or kinds

    def _lists(self) -> set[str]:
        """The keys that list the kinds of the layers."""
        return {rule.key for rule in self.by.layer_kinds if isinstance(rule, KindList)}

    def _first[R: KindRule | KindChange](
        self, rules: Sequence[R], apply: Callable[[R], tuple[str, ...]]
    ) -> tuple[str, ...]:
        """The kinds by the first rule that applies, and what becomes of the keys of all."""
        kinds: tuple[str, ...] = ()
        for rule in rules:
            for key in _keys_of(rule):
                if self.config.get(key) is None or kinds:
                    continue
                self.used[key] = self.config[key]
            kinds = kinds or apply(rule)
        for key in {key for rule in rules for key in _keys_of(rule)}:
            if key in self.config and key not in self.used:
                why = self.by.ignored.get(key, "not asked for")
                self.ignored[key] = "not set" if self.config[key] is None else why
        return kinds

    def _changed(self, rule: KindChange, kinds: tuple[str, ...]) -> tuple[str, ...]:
        """The kinds after a change, or () when it does not apply."""
        match rule:
            case ChangeList():
                entries = self._entries(rule.key, rule.values, len(kinds))
                changes = [rule.values.get(entry, {}) for entry in entries]
            case ChangeWhere():
                if not self._applies(rule.key, rule.if_key):
                    return ()
                changes = [rule.kinds] * len(kinds)
        return tuple(each.get(kind, kind) for kind, each in zip(kinds, changes, strict=False))

    def _by_rule(self, rule: KindRule, layers: int) -> tuple[str, ...]:
        """The kind of each layer, or () when the rule does not apply."""
        match rule:
            case KindCycle():
                return tuple(rule.cycle[i % len(rule.cycle)] for i in range(layers))
            case KindList():
                return self._by_list(rule, layers)
            case KindPeriod():
                period = self.config.get(rule.key)
                if not isinstance(period, int) or period < 1:
                    return ()
                return tuple(rule.others if (i + 1) % period else rule.last for i in range(layers))
            case KindWhere():
                return self._by_condition(rule, layers)

    def _by_list(self, rule: KindList, layers: int) -> tuple[str, ...]:
        entries = self._entries(rule.key, rule.values, layers)
        return tuple(rule.values.get(entry, "") for entry in entries)

    def _entries(self, key: str, known: Collection[str], layers: int) -> tuple[str, ...]:
        """The entry of each layer in a list, or () where there is none."""
        listed: object = self.config.get(key)
        if not isinstance(listed, list) or not listed:
            return ()
        entries = [str(entry) for entry in cast(list[object], listed)]
        if layers and len(entries) != layers:
            self.wrong.append(f"{key} has {len(entries)} entries for {layers} layers")
        for entry in sorted(set(entries) - set(known)):
            self.wrong.append(f"{key} has the entry '{entry}'; known are {', '.join(known)}")
        return tuple(entries[:layers])

    def _applies(self, key: str, if_key: str) -> bool:
        """Whether a key is given, or a missing one stands for a number that is not 0, and a flag,
        if there is one, is set.
        """
        rules = (rule for rule in self.by.numbers.values() if key in rule.keys)
        stands = key not in self.config and any(rule.absent for rule in rules)
        given = stands or self.config.get(key) is not None
        return given and bool(not if_key or self.config.get(if_key))

    def _by_condition(self, rule: KindWhere, layers: int) -> tuple[str, ...]:
        if not self._applies(rule.key, rule.if_key):
            return ()
        before: object = self.config.get(rule.from_key, rule.from_absent)
        if not is_number(before):
            self.wrong.append(f"{rule.from_key} is {json_text(before)}, expected a number")
            return ()
        return tuple(rule.before if i < before else rule.kind for i in range(layers))

    def _fixed(self) -> None:
        for key, allowed in self.by.fixed.items():
            if key not in self.config or key in self.used or key in self.by.ignored:
                continue
            value = self.config[key]
            listed = cast(list[object], value if isinstance(value, list) else [])
            if value is None:
                self.ignored[key] = "not set"
            elif value in allowed or (listed and all(each in allowed for each in listed)):
                self.used[key] = value
            else:
                choices = " or ".join(map(json_text, allowed))
                self.wrong.append(f"{key} is {json_text(value)}, the architecture has {choices}")
                self.used[key] = value

    def _account(self) -> None:
        """The reasons for the keys that change nothing."""
        for key, value in self.config.items():
            if key in self.used or key in self.ignored:
                continue
            if key in self.by.ignored:
                self.ignored[key] = self.by.ignored[key]
            elif value is None:
                self.ignored[key] = "not set"


def shortest_cycle(kinds: tuple[str, ...]) -> tuple[str, ...]:
    """The shortest start of a sequence that gives all of it when it is repeated."""
    for length in range(1, len(kinds)):
        if all(kind == kinds[i % length] for i, kind in enumerate(kinds)):
            return kinds[:length]
    return kinds


def _keys_of(rule: KindRule | KindChange) -> Iterator[str]:
    if not isinstance(rule, KindCycle):
        yield rule.key
    if isinstance(rule, KindWhere):
        yield from rule.others
    if isinstance(rule, ChangeWhere) and rule.if_key:
        yield rule.if_key


def _whole(value: object) -> int | None:
    return int(value) if is_number(value) and value >= 1 else None


def _plain(value: object) -> float | None:
    if not is_number(value):
        return None
    return int(value) if float(value).is_integer() else value


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def json_text(value: Any) -> str:
    """A value as config.json has it, cut after 60 characters."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
