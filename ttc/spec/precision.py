"""Precision profiles: how every group of weights, values and operations is stored and computed.

Precedence, the first that sets a group wins:

    1. the spec's exception for the profile, its decoder entry before its group
    2. the profile's decoder entry
    3. the profile's group
    4. the profile's default
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal, cast

from ttc.errors import Problem, Source
from ttc.located import Located, raise_problems
from ttc.schema import load_yaml
from ttc.spec import library
from ttc.spec.fidelity import Fidelity, load_fidelities
from ttc.spec.groups import (
    ACTIVATIONS,
    ALWAYS_BF16,
    OPS,
    WEIGHTS,
    Setting,
    Settings,
    check_decoders,
    check_fidelity,
    read_settings,
)
from ttc.spec.model import ModelSpec

__all__ = ["EffectivePrecision", "Fidelity", "PrecisionProfile", "effective", "load_profile"]

type Phase = Literal["decode", "prefill"]
type Dtype = Literal["bf16", "bfp8", "bfp4"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionProfile:
    """A profile: `defaults` by kind (weights, activations, ops), `settings` by group."""

    name: str
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

    def fidelity(self, op_group: str) -> Fidelity:
        """How a group of operations is computed."""
        assert op_group in OPS, f"'{op_group}' has no fidelity"
        return load_fidelities()[self._find(op_group).decode]

    def origin(self, group: str) -> str:
        """Which rule decided, such as 'profile group, precision_profiles/performance.yaml:9'."""
        return self._find(group).origin

    def source(self, group: str) -> Source:
        """The place to point at when the value of a group cannot be carried out."""
        return self._find(group).at

    def _find(self, group: str) -> EffectiveSetting:
        return next(each for each in self.settings if each.group == group)


def load_profile(wanted: str | Path) -> PrecisionProfile:
    """The profile in a file, or of that name in precision_profiles/.

    Raises SpecError with every problem of the file, UsageError when there is no such file.
    """
    path = library.resolve(library.PROFILES, wanted)
    data = load_yaml(path, "precision_profile", shown=library.shown(path))
    groups: dict[str, Located] = {}
    for kind in ("weights", "activations", "ops"):
        part = data.get(kind)
        groups |= part.fields() if part else {}
    fidelities = load_fidelities()
    settings, problems = read_settings(groups, data.get("decoders"), fidelities)
    problems += check_fidelity(data["default"]["ops"], fidelities)
    name = data["profile"]
    if name.text != path.stem:
        message = f"the profile '{name.text}' is in a file of another name"
        note, hint = f"the file is {path.name}", f"write '{path.stem}'"
        problems.append(Problem(message=message, at=name.at, note=note, help=hint))
    raise_problems(problems)
    defaults = {
        kind: Setting(group=kind, decode=each.text, prefill=each.text, at=each.at)
        for kind, each in data["default"].fields().items()
    }
    return PrecisionProfile(
        name=name.text,
        defaults=MappingProxyType(defaults),
        settings=settings,
        file=library.stable(path),
        at=name.at,
        decoders=data.get("decoders"),
    )


def effective(
    profile: PrecisionProfile, spec: ModelSpec, decoder: int | None
) -> EffectivePrecision:
    """What holds for one decoder of a model, or outside its decoders when `decoder` is None.

    Raises SpecError when the profile sets a decoder that the model does not have.
    """
    raise_problems(check_decoders(profile.decoders, spec.dims.layers, spec.name))
    exception = spec.precision_exceptions.get(profile.name)
    rules: list[tuple[str, str, Mapping[str, Setting]]] = []
    if exception:
        if decoder is not None:
            rules.append(("spec decoder exception", spec.file, exception.decoders.get(decoder, {})))
        rules.append(("spec exception", spec.file, exception.groups))
    if decoder is not None:
        single = profile.settings.decoders.get(decoder, {})
        rules.append(("profile decoder entry", profile.file, single))
    rules.append(("profile group", profile.file, profile.settings.groups))
    rules.append(("profile default", profile.file, _defaults(profile)))
    return EffectivePrecision(settings=tuple(_decide(rules)))


def _defaults(profile: PrecisionProfile) -> Mapping[str, Setting]:
    kinds = {"weights": WEIGHTS, "activations": ACTIVATIONS, "ops": OPS}
    settings = {group: profile.defaults[kind] for kind, groups in kinds.items() for group in groups}
    for group in ALWAYS_BF16:
        at = profile.defaults["weights"].at
        settings[group] = Setting(group=group, decode="bf16", prefill="bf16", at=at)
    return settings


def _decide(rules: list[tuple[str, str, Mapping[str, Setting]]]) -> Iterator[EffectiveSetting]:
    for group in WEIGHTS + ACTIVATIONS + OPS:
        rule, file, settings = next(each for each in rules if group in each[2])
        chosen = settings[group]
        yield EffectiveSetting(
            group=group,
            decode=chosen.decode,
            prefill=chosen.prefill,
            origin=f"{rule}, {file}:{chosen.at.line}",
            at=chosen.at,
        )
