"""Precision groups, and what a file sets for them: for all decoders, or for some.

`ttc/schemas/precision_profile.schema.json` says which storage each group may have.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from ttc.errors import Problem, Source, did_you_mean
from ttc.located import Located

WEIGHTS = (
    "wqkv",
    "wo",
    "ff1_3",
    "ff2",
    "lm_head",
    "embedding",
    "norms",
    "kv_cache",
    "collectives",
)
ACTIVATIONS = ("residual", "qkv", "attn_out", "ff_hidden", "ff_act", "ff_out", "logits")
OPS = (
    "li_qkv_decode",
    "li_qkv_prefill",
    "li_o_decode",
    "li_o_prefill",
    "li_ff1_3",
    "li_ff2",
    "sdpa_decode",
    "sdpa_prefill",
    "li_lm_head",
    "norm",
    "rope",
)
MODEL_ONLY = ("lm_head", "embedding", "logits", "li_lm_head")  # no decoder has them
ALWAYS_BF16 = ("embedding", "norms")  # ttnn reads these tables by row; no default changes them


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a file sets for one group: a dtype or the name of a fidelity in each phase."""

    group: str
    decode: str
    prefill: str
    at: Source = field(compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings by group, for every decoder, and by decoder number where one differs.

    instead  of a spec's exception: the file of the profile that the model takes, said at `at`
    """

    groups: Mapping[str, Setting]
    decoders: Mapping[int, Mapping[str, Setting]]
    instead: Path | None = None
    at: Source | None = field(default=None, compare=False)


def read_settings(
    groups: Mapping[str, Located], decoders: Located | None, fidelities: Collection[str]
) -> tuple[Settings, list[Problem]]:
    """The settings of a profile or of a spec's exception, whose schema holds."""
    problems: list[Problem] = []
    general = _read_groups(groups, fidelities, problems)
    single: dict[int, dict[str, Setting]] = {}
    for span, entry in decoders.fields().items() if decoders else ():
        settings = _read_groups(entry.fields(), fidelities, problems)
        for decoder in _decoders(span, entry, problems):
            known = single.setdefault(decoder, {})
            for group in known.keys() & settings.keys():
                message = f"'{group}' of decoder {decoder} is set twice"
                details = (f"the first time at {known[group].at}",)
                problems.append(Problem(message=message, at=entry[group].key_at, details=details))
            known.update(settings)
    decoder_settings = {number: MappingProxyType(each) for number, each in single.items()}
    return Settings(
        groups=MappingProxyType(general), decoders=MappingProxyType(decoder_settings)
    ), problems


def check_decoders(decoders: Located | None, layers: int, model: str) -> list[Problem]:
    """Decoder numbers beyond the model's last decoder."""
    spans = decoders.fields().items() if decoders else ()
    return [
        Problem(
            message=f"there is no decoder {span.split('-')[-1]}",
            at=entry.key_at,
            note=f"{model} has decoders 0 to {layers - 1}",
        )
        for span, entry in spans
        if int(span.split("-")[-1]) >= layers
    ]


def _decoders(span: str, entry: Located, problems: list[Problem]) -> range:
    first, _, last = span.partition("-")
    if last and int(last) < int(first):
        message = f"the range '{span}' ends before it starts"
        problems.append(Problem(message=message, at=entry.key_at, help=f"write {last}-{first}"))
    return range(int(first), int(last or first) + 1)


def _read_groups(
    groups: Mapping[str, Located], fidelities: Collection[str], problems: list[Problem]
) -> dict[str, Setting]:
    settings: dict[str, Setting] = {}
    for group, value in groups.items():
        if isinstance(value.value, dict):
            decode, prefill = value["decode"].text, value["prefill"].text
        else:
            decode = prefill = value.text
        if group in OPS:
            both = value.fields().values() if isinstance(value.value, dict) else (value,)
            problems += [each for one in both for each in check_fidelity(one, fidelities)]
        settings[group] = Setting(group=group, decode=decode, prefill=prefill, at=value.at)
    return settings


def check_fidelity(value: Located, fidelities: Collection[str]) -> list[Problem]:
    """A fidelity must be one of `fidelities.yaml`."""
    if value.text in fidelities:
        return []
    hint = did_you_mean(value.text, fidelities)
    return [Problem(message=f"unknown fidelity '{value.text}'", at=value.at, help=hint)]


def ranges(numbers: Iterable[int]) -> str:
    """Decoder numbers as files write them: 0, 1, 2 and 5 are "0-2, 5"."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(f"{a}-{b}" if a < b else str(a) for a, b in spans)
