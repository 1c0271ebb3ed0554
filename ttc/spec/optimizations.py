"""Precision settings in the formats of tt-transformers, read as they are.

    --optimizations 'precision_cfg = {ff1_3: bfp4, wo: bf16}, fidelity_cfg = {li_ff1_3: lofi}'
    --decoder-config FILE   {"decoders": {"31": {"precision_cfg": {"FF1_FF3": "BFP8"}}}}

Both become a profile that changes another one. tt-transformers puts its own defaults under a
decoder entry that is not complete; here everything not given is what the profile below says, and
`differences` tells where the two would not run the same.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from ttc.errors import Problem, Source, SpecError, UsageError, did_you_mean
from ttc.located import parse_json, raise_problems
from ttc.schema import load_yaml
from ttc.spec import library
from ttc.spec.groups import Setting, Settings, ranges
from ttc.spec.model import ModelSpec
from ttc.spec.precision import EffectivePrecision, PrecisionProfile, effective, load_profile

type _Rule = Callable[[int], EffectivePrecision]

BASE = "base"
"""The profile under `--optimizations` when no other is named: the defaults of tt-transformers."""

_ACTIVATIONS = ("residual", "qkv", "attn_out", "ff_hidden", "ff_act")
_MIXED = "mixed"
_IGNORED = "accuracy"
"""An operation group that tt-transformers reads and gives to no operation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Key:
    """A key: as text in --optimizations, as the name of an enum in JSON; what it sets here."""

    text: str
    name: str
    groups: tuple[str, ...]


_TENSORS = (
    _Key(text="ff1_3", name="FF1_FF3", groups=("ff1_3",)),
    _Key(text="ff2", name="FF2", groups=("ff2",)),
    _Key(text="wqkv", name="WQKV", groups=("wqkv",)),
    _Key(text="wo", name="WO", groups=("wo",)),
    _Key(text="kv_cache", name="KV_CACHE", groups=("kv_cache",)),
    _Key(text="activation", name="ACTIVATION", groups=_ACTIVATIONS),
)
_OPS = (
    _Key(text="li_ff1_3", name="LI_FF1_FF3", groups=("li_ff1_3",)),
    _Key(text="li_ff2", name="LI_FF2", groups=("li_ff2",)),
    _Key(text="li_qkv_decode", name="LI_QKV_DECODE", groups=("li_qkv_decode",)),
    _Key(text="li_o_decode", name="LI_O_DECODE", groups=("li_o_decode",)),
    _Key(text="sdpa_decode", name="SDPA_DECODE", groups=("sdpa_decode",)),
    _Key(text="li_qkv_prefill", name="LI_QKV_PREFILL", groups=("li_qkv_prefill",)),
    _Key(text="li_o_prefill", name="LI_O_PREFILL", groups=("li_o_prefill",)),
    _Key(text="sdpa_prefill", name="SDPA_PREFILL", groups=("sdpa_prefill",)),
    _Key(text=_IGNORED, name="ACCURACY", groups=()),
)
_DTYPES = {"bfp4": "BFP4", "bfp8": "BFP8", "bf16": "BF16"}
_FIDELITIES = {
    "lofi": "LOFI",
    "hifi2": "HIFI2",
    "hifi2na": "HIFI2_NA",
    "hifi2fp16": "HIFI2_FP16",
    "hifi4": "HIFI4",
    "hifi4fp32": "HIFI4_FP32",
}
SECTIONS: Mapping[str, tuple[tuple[_Key, ...], Mapping[str, str]]] = {
    "precision_cfg": (_TENSORS, _DTYPES),
    "fidelity_cfg": (_OPS, _FIDELITIES),
}
_PACKED_ON_DEVICE = ("kv_cache", *_ACTIVATIONS)
_ARGUMENT = "--optimizations"
_EXAMPLE = "precision_cfg = {ff1_3: bfp4}, fidelity_cfg = {li_ff1_3: lofi}"
_WORD = re.compile(r"\w+")
_NEXT_SECTION = re.compile(r"\w+\s*=\s*\{")
_QUOTES = "\"'`\u2018\u2019\u201c\u201d"


def read_optimizations(text: str, below: PrecisionProfile | None = None) -> PrecisionProfile:
    """The profile that an --optimizations argument means: a name, or settings for all decoders.

    below  what holds where the text says nothing; None: the defaults of tt-transformers

    Raises SpecError with a place in the text, UsageError for the name of no profile, or of another
    one than lies below.
    """
    if re.fullmatch(r"\s*[\w.-]+\s*", text):
        named = load_profile(text.strip())
        if below is not None and below.name != named.name:
            raise UsageError(
                Problem(
                    message=f"--precision {below.name} and {_ARGUMENT} {named.name} name two "
                    "profiles",
                    help=f"leave one of them out; settings lie over a profile: {_EXAMPLE}",
                )
            )
        return named
    below = below or load_profile(BASE)
    if not text.strip():
        raise UsageError(Problem(message=f"{_ARGUMENT} says nothing", help=f"write {_EXAMPLE}"))
    problems: list[Problem] = []
    settings: dict[str, Setting] = {}
    for section, entries in _sections(text).items():
        settings |= _read_entries(section, entries, problems, by_name=False)
    raise_problems(problems)
    at = Source(path=_ARGUMENT, line=1, column=1, width=len(text), text=text)
    return PrecisionProfile(
        name=f"{below.name}+optimizations",
        base=below,
        defaults=MappingProxyType({}),
        settings=Settings(groups=MappingProxyType(settings), decoders=MappingProxyType({})),
        file=_ARGUMENT,
        at=at,
        decoders=None,
    )


def load_decoder_config(path: Path, below: PrecisionProfile) -> PrecisionProfile:
    """The profile `below` with the decoder entries of a JSON file of tt-transformers.

    Raises SpecError with every problem of the file, UsageError when there is no such file.
    """
    data = load_yaml(path, "decoder_config", shown=library.shown(path), parse=parse_json)
    problems: list[Problem] = []
    decoders: dict[int, Mapping[str, Setting]] = {}
    for number, entry in data["decoders"].fields().items():
        settings: dict[str, Setting] = {}
        for section, entries in entry.fields().items():
            located = [
                _Entry(key, each.key_at, each.written, each.at)
                for key, each in entries.fields().items()
            ]
            settings |= _read_entries(section, located, problems, by_name=True)
        if int(number) in decoders:
            problems.append(Problem(message=f"decoder {int(number)} is set twice", at=entry.key_at))
        decoders[int(number)] = MappingProxyType(settings)
    raise_problems(problems)
    return PrecisionProfile(
        name=f"{below.name}+{path.stem}",
        base=below,
        defaults=MappingProxyType({}),
        settings=Settings(groups=MappingProxyType({}), decoders=MappingProxyType(decoders)),
        file=library.stable(path),
        at=data["decoders"].at,
        decoders=data["decoders"],
    )


def differences(profile: PrecisionProfile, spec: ModelSpec) -> tuple[str, ...]:
    """Where tt-transformers would not run what a decoder_config profile says here, and why.

    A section of an entry that is not complete falls back there to its defaults, here to the
    profile; and decoders without an entry have none of the model's exceptions there.
    """
    entries, below = profile.settings.decoders, profile.base
    if below is None or not entries:
        return ()
    defaults = partial(effective, load_profile(BASE), spec)
    bare = partial(effective, below, _without_exceptions(spec, below))
    here = partial(effective, profile, spec)
    missing = [number for number in range(max(entries)) if number not in entries]
    told: list[str] = []
    for keys, _ in SECTIONS.values():
        section = {group for key in keys for group in key.groups}
        for key, group in ((key, key.groups[0]) for key in keys if key.groups):
            begun = [n for n, entry in entries.items() if entry.keys() & section]
            found = _differing([n for n in begun if group not in entries[n]], group, here, defaults)
            told += [f"{key.text} of {each}: its default under an entry" for each in found]
            found = _differing(missing, group, here, bare)
            told += [f"{key.text} of {each}: it forgets the model's exceptions" for each in found]
    if max(entries) + 1 < spec.dims.layers:
        told.append(f"decoders from {max(entries) + 1} on: the profile here, an error there")
    return tuple(told)


def _differing(decoders: Sequence[int], group: str, here: _Rule, there: _Rule) -> list[str]:
    """Where two rules say two things of a group: "decoder 0-3, bf16 here and bfp8 there"."""
    spans: dict[str, list[int]] = {}
    for number in decoders:
        ours, theirs = here(number).shown(group), there(number).shown(group)
        if ours != theirs:
            spans.setdefault(f"{ours} here and {theirs} there", []).append(number)
    return [f"decoder {ranges(numbers)}, {what}" for what, numbers in spans.items()]


def _without_exceptions(spec: ModelSpec, profile: PrecisionProfile) -> ModelSpec:
    others = {n: each for n, each in spec.precision_exceptions.items() if n != profile.name}
    return replace(spec, precision_exceptions=MappingProxyType(others))


class _Entry(NamedTuple):
    key: str
    key_at: Source
    value: str
    at: Source


@dataclass(slots=True)
class _Scanner:
    """Goes through the text of an argument; raises SpecError where something else was expected."""

    text: str
    position: int = 0

    def next(self) -> str:
        """The word or the sign that comes next, "" at the end; blanks before it are passed."""
        while self.text[self.position : self.position + 1].isspace():
            self.position += 1
        found = _WORD.match(self.text, self.position)
        return found[0] if found else self.text[self.position : self.position + 1]

    def at(self, start: int, width: int) -> Source:
        return Source(path=_ARGUMENT, line=1, column=start + 1, width=width, text=self.text)

    def word(self, expected: str) -> tuple[str, Source]:
        """The next word and its place."""
        word = self.next()
        if not _WORD.match(word):
            raise self.unexpected(expected)
        start, self.position = self.position, self.position + len(word)
        return word, self.at(start, len(word))

    def sign(self, *signs: str) -> str:
        """The next sign, which is one of these."""
        sign = self.next()
        if sign not in signs:
            raise self.unexpected(" or ".join(f"'{each}'" for each in signs))
        self.position += 1
        return sign

    def unexpected(self, expected: str) -> SpecError:
        found = self.next()
        at = self.at(self.position, max(1, len(found)))
        if found and found in _QUOTES:
            message, hint = "names and values stand without quotes", "leave the quotes out"
            return SpecError(Problem(message=message, at=at, help=hint))
        note = f"got '{found}'" if found else "the text ends here"
        return SpecError(
            Problem(message=f"expected {expected}", at=at, note=note, help=f"write {_EXAMPLE}")
        )


def _sections(text: str) -> dict[str, list[_Entry]]:
    """`name = {key: value, ...}, ...` by name. Raises SpecError at what is not of that form."""
    scanner = _Scanner(text)
    sections: dict[str, list[_Entry]] = {}
    problems: list[Problem] = []
    while not sections or scanner.next():
        if sections:
            scanner.sign(",")
        name, at = scanner.word(" or ".join(SECTIONS))
        if name not in SECTIONS:
            hint = did_you_mean(name, SECTIONS)
            problems.append(Problem(message=f"unknown section '{name}'", at=at, help=hint))
        if name in sections:
            problems.append(Problem(message=f"'{name}' is given twice", at=at))
        scanner.sign("=")
        sections[name] = _entries(scanner)
    raise_problems(problems)
    return sections


def _entries(scanner: _Scanner) -> list[_Entry]:
    """`{key: value, ...}`."""
    scanner.sign("{")
    opened = scanner.position - 1
    entries: list[_Entry] = []
    ended = scanner.next() == "}" and scanner.sign("}")
    while not ended:
        if not scanner.next() or _NEXT_SECTION.match(scanner.text, scanner.position):
            raise _unclosed(scanner, opened)
        key, key_at = scanner.word("a group")
        scanner.sign(":")
        value, at = scanner.word("a value")
        entries.append(_Entry(key, key_at, value, at))
        if not scanner.next():
            raise _unclosed(scanner, opened)
        ended = scanner.sign(",", "}") == "}"
    return entries


def _unclosed(scanner: _Scanner, opened: int) -> SpecError:
    message, hint = "this '{' is not closed", "add '}' behind its last setting"
    return SpecError(Problem(message=message, at=scanner.at(opened, 1), help=hint))


def _read_entries(
    section: str, entries: Sequence[_Entry], problems: list[Problem], *, by_name: bool
) -> dict[str, Setting]:
    """The settings of one section; `by_name`: keys and values are the enum names of JSON files."""
    keys, values = SECTIONS[section]
    known = {key.name if by_name else key.text: key for key in keys}
    legal = {name if by_name else text: text for text, name in values.items()}
    settings: dict[str, Setting] = {}
    seen = set[str]()
    for entry in entries:
        key = known.get(entry.key)
        mixed = key is not None and key.groups == _ACTIVATIONS and entry.value.lower() == _MIXED
        value = legal.get(entry.value)
        if key is None:
            message, hint = f"unknown group '{entry.key}'", did_you_mean(entry.key, known)
            problems.append(Problem(message=message, at=entry.key_at, help=hint))
        elif entry.key in seen:
            problems.append(Problem(message=f"'{entry.key}' is set twice", at=entry.key_at))
        elif value is None and not mixed:
            message = f"'{entry.key}' cannot be '{entry.value}'"
            hint = did_you_mean(entry.value, legal)
            problems.append(Problem(message=message, at=entry.at, help=hint))
        elif value == "bfp4" and set(key.groups) & set(_PACKED_ON_DEVICE):
            message = f"'{entry.key}' cannot be {entry.value}"
            note = "the device's packer truncates it: 21 % error"
            problems.append(Problem(message=message, at=entry.at, note=note))
        elif value is not None:
            for group in key.groups:
                settings[group] = Setting(group=group, decode=value, prefill=value, at=entry.at)
        seen.add(entry.key)
    return settings
