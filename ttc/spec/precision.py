"""Precision profiles: how every group of weights, values and operations is stored and computed.

Precedence, the first that sets a group wins:

    1. the spec's exception for the profile, its decoder entry before its group
    2. the profile's decoder entry
    3. the profile's group
    4. the profile's default, or all four of the profile that it extends
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple, cast

from ttc.errors import Problem, Source, did_you_mean
from ttc.located import Located, raise_problems
from ttc.schema import load_yaml
from ttc.spec import library
from ttc.spec.fidelity import Fidelity, load_fidelities
from ttc.spec.groups import (
    ACTIVATIONS,
    ALWAYS_BF16,
    MODEL_ONLY,
    OPS,
    WEIGHTS,
    Setting,
    Settings,
    check_decoders,
    check_fidelity,
    ranges,
    read_settings,
)
from ttc.spec.model import ModelSpec

__all__ = ["EffectivePrecision", "Fidelity", "PrecisionProfile", "effective", "load_profile"]

type Phase = Literal["decode", "prefill"]
type Dtype = Literal["bf16", "bfp8", "bfp4"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionProfile:
    """A profile: `settings` by group, and what holds under them.

    base      the profile that this one extends, or None
    defaults  by kind (weights, activations, ops), of a profile that extends none
    """

    name: str
    base: "PrecisionProfile | None" = None
    defaults: Mapping[str, Setting]
    settings: Settings
    file: str
    at: Source
    decoders: Located | None = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectiveSetting:
    """What holds for one group, and the file, line and rule that decided it."""

    group: str
    decode: str
    prefill: str
    origin: str = field(compare=False)
    at: Source = field(compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectivePrecision:
    """What holds for one decoder, or outside the decoders. Equal when all values are equal."""

    settings: tuple[EffectiveSetting, ...]

    def dtype(self, group: str, phase: Phase = "decode") -> Dtype:
        """The storage of a group of weights or activations; weights have one for both phases."""
        assert group in WEIGHTS + ACTIVATIONS, f"'{group}' has no dtype"
        return cast(Dtype, getattr(self._find(group), phase))

    def fidelity(self, op_group: str, phase: Phase = "decode") -> Fidelity:
        """How a group of operations is computed."""
        assert op_group in OPS, f"'{op_group}' has no fidelity"
        return load_fidelities()[getattr(self._find(op_group), phase)]

    def shown(self, group: str) -> str:
        """The value as people read it: "bfp8", or "bf16, prefill bfp8"."""
        found = self._find(group)
        same = found.decode == found.prefill
        return found.decode if same else f"{found.decode}, prefill {found.prefill}"

    def origin(self, group: str) -> str:
        """Which rule decided, such as 'profile group, precision_profiles/performance.yaml:9'."""
        return self._find(group).origin

    def source(self, group: str) -> Source:
        """The place to point at when the value of a group cannot be carried out."""
        return self._find(group).at

    def _find(self, group: str) -> EffectiveSetting:
        return next(each for each in self.settings if each.group == group)


class _Rule(NamedTuple):
    """Settings that may decide: `file` is "" where each setting says its own, `why` a remark.

    placed  whether they are written in a file
    """

    name: str
    file: str
    settings: Mapping[str, Setting]
    why: str = ""
    placed: bool = True


_ALWAYS_BF16_RULE = "fixed rule, bf16 whatever the defaults say"


def load_profile(wanted: str | Path) -> PrecisionProfile:
    """The profile in a file, or of that name in precision_profiles/.

    Raises SpecError with every problem of the file, UsageError when there is no such file.
    """
    return _load_profile(library.resolve(library.PROFILES, wanted), ())


def _load_profile(path: Path, extending: tuple[str, ...]) -> PrecisionProfile:
    """`extending` are the profiles that lead here, the last of them first."""
    data = load_yaml(path, "precision_profile", shown=library.shown(path))
    groups: dict[str, Located] = {}
    for kind in ("weights", "activations", "ops"):
        part = data.get(kind)
        groups |= part.fields() if part else {}
    fidelities = load_fidelities()
    settings, problems = read_settings(groups, data.get("decoders"), fidelities)
    name, default = data["profile"], data.get("default")
    problems += check_fidelity(default["ops"], fidelities) if default else []
    if name.text != path.stem:
        message = f"the profile '{name.text}' is in a file of another name"
        note, hint = f"the file is {path.name}", f"write '{path.stem}'"
        problems.append(Problem(message=message, at=name.at, note=note, help=hint))
    base, base_problems = _base(data, path, (name.text, *extending))
    raise_problems(problems + base_problems)
    defaults = {
        kind: Setting(group=kind, decode=each.text, prefill=each.text, at=each.at)
        for kind, each in (default.fields().items() if default else ())
    }
    return PrecisionProfile(
        name=name.text,
        base=base,
        defaults=MappingProxyType(defaults),
        settings=settings,
        file=library.stable(path),
        at=name.at,
        decoders=data.get("decoders"),
    )


@cache
def _taken_instead(path: Path) -> PrecisionProfile:
    """A profile that specs name: every decoder of every model asks for it."""
    return _load_profile(path, ())


def _base(
    data: Located, path: Path, extending: tuple[str, ...]
) -> tuple[PrecisionProfile | None, list[Problem]]:
    """The profile that a file extends; a file has that or a default of its own."""
    extends = data.get("extends")
    if (extends is None) == (data.get("default") is None):
        message = "a profile has either 'default' or 'extends'"
        hint = "extends: PROFILE takes everything not given here from another profile"
        return None, [Problem(message=message, at=data["profile"].at, help=hint)]
    if extends is None:
        return None, []
    if extends.text in extending:
        chain = " extends ".join((*reversed(extending), extends.text))
        return None, [Problem(message="profiles extend each other", at=extends.at, note=chain)]
    found = library.find(library.PROFILES, extends.text, near=path)
    if found is None:
        known = library.names(library.PROFILES, near=path)
        message, hint = (
            f"unknown precision profile '{extends.text}'",
            did_you_mean(extends.text, known),
        )
        return None, [Problem(message=message, at=extends.at, help=hint)]
    return _load_profile(found, extending), []


def effective(
    profile: PrecisionProfile, spec: ModelSpec, decoder: int | None
) -> EffectivePrecision:
    """What holds for one decoder of a model, or outside its decoders when `decoder` is None.

    Raises SpecError when the profile sets a decoder that the model does not have.
    """
    return EffectivePrecision(settings=tuple(_decide(list(_rules(profile, spec, decoder)))))


def _rules(
    profile: PrecisionProfile, spec: ModelSpec, decoder: int | None, *, exceptions: bool = True
) -> Iterator[_Rule]:
    """What may set a group, the strongest first."""
    raise_problems(check_decoders(profile.decoders, spec.dims.layers, spec.name))
    exception = spec.precision_exceptions.get(profile.name) if exceptions else None
    if exception and exception.instead:
        assert exception.at is not None, "what a spec says has a place"
        why = f", instead of {profile.name}: {_place(exception.at)}"
        other = _taken_instead(exception.instead)
        # Two profiles may stand for each other: the exceptions of the other are not asked again.
        for rule in _rules(other, spec, decoder, exceptions=False):
            yield rule._replace(why=why)
        return
    if exception:
        if decoder is not None:
            yield _Rule("spec decoder exception", "", exception.decoders.get(decoder, {}))
        yield _Rule("spec exception", "", exception.groups)
    if decoder is not None:
        single = profile.settings.decoders.get(decoder, {})
        yield _Rule("profile decoder entry", profile.file, single)
    yield _Rule("profile group", profile.file, profile.settings.groups)
    if profile.base is not None:
        yield from _rules(profile.base, spec, decoder, exceptions=exceptions)
    else:
        always, defaults = _defaults(profile)
        yield _Rule(_ALWAYS_BF16_RULE, "", always, placed=False)
        yield _Rule("profile default", profile.file, defaults)


def _defaults(profile: PrecisionProfile) -> tuple[dict[str, Setting], dict[str, Setting]]:
    """What no default changes, and what they say of all other groups."""
    kinds = {"weights": WEIGHTS, "activations": ACTIVATIONS, "ops": OPS}
    at = profile.defaults["weights"].at
    always = {
        group: Setting(group=group, decode="bf16", prefill="bf16", at=at) for group in ALWAYS_BF16
    }
    return always, {
        group: profile.defaults[kind]
        for kind, groups in kinds.items()
        for group in groups
        if group not in always
    }


def _decide(rules: list[_Rule]) -> Iterator[EffectiveSetting]:
    for group in WEIGHTS + ACTIVATIONS + OPS:
        rule = next(each for each in rules if group in each.settings)
        chosen = rule.settings[group]
        place = f"{rule.file}:{chosen.at.line}" if rule.file else _place(chosen.at)
        origin = f"{rule.name}, {place}" if rule.placed else rule.name
        yield EffectiveSetting(
            group=group,
            decode=chosen.decode,
            prefill=chosen.prefill,
            origin=f"{origin}{rule.why}",
            at=chosen.at,
        )


def _place(at: Source) -> str:
    """File and line, the same from any working directory."""
    return f"{library.stable(Path(at.path))}:{at.line}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRow:
    """A group in the decoders that share a value and its origin; "" where no decoder has it."""

    group: str
    decoders: str
    decode: str
    prefill: str
    origin: str


def precision_table(profile: PrecisionProfile, spec: ModelSpec) -> tuple[TableRow, ...]:
    """What holds for every group of a model, and the rule, file and line that decided it."""
    rows: dict[tuple[str, str, str, str], list[int]] = {}
    for each in effective(profile, spec, None).settings:
        if each.group in MODEL_ONLY:
            rows[each.group, each.decode, each.prefill, each.origin] = []
    for decoder in range(spec.dims.layers):
        for each in effective(profile, spec, decoder).settings:
            if each.group not in MODEL_ONLY:
                key = each.group, each.decode, each.prefill, each.origin
                rows.setdefault(key, []).append(decoder)
    groups = WEIGHTS + ACTIVATIONS + OPS
    return tuple(
        TableRow(group=key[0], decoders=ranges(held), decode=key[1], prefill=key[2], origin=key[3])
        for key, held in sorted(rows.items(), key=lambda row: groups.index(row[0][0]))
    )
