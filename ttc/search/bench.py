"""Measuring precision profiles on the emulator; what was measured is never measured again."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ttc import api
from ttc.accuracy.reference import (
    Reference,
    load_reference,
    make_reference,
    reduce_logits,
    reference_path,
    save_reference,
)
from ttc.accuracy.run import make_folder
from ttc.accuracy.scores import Scores
from ttc.accuracy.teacher import Room, Split, check_length, force
from ttc.checkpoint.files import Checkpoint
from ttc.hardware.hardware import load_mesh
from ttc.located import read_text
from ttc.plan.plan import Plan
from ttc.progress import Progress
from ttc.runtime.artefact import Artefact, ttc_version
from ttc.runtime.backends import Backend, EmulatorBackend, open_backend
from ttc.runtime.program import Tensor, load_program
from ttc.runtime.session import Session, open_session
from ttc.runtime.tokens import load_tokenizer
from ttc.scratch import scratch_folder
from ttc.spec.model import ModelSpec
from ttc.spec.precision import EffectivePrecision, PrecisionProfile, effective, load_profile
from ttc.weights import checkpoint_of

STORE = "measurements.jsonl"

type Profile = str | PrecisionProfile
"""A precision profile, the name or file of one, or its text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Means over all positions of a text: shares of 1 and nats.

    hits   by position: "1" where the program prefers what the reference prefers, else "0"
    kls    by position: the divergence, of which `kl` is the mean
    """

    top1: float
    top5: float
    kl: float
    perplexity: float
    tokens: int
    hits: str
    kls: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """The means, for `--json`."""
        return {
            "top1": self.top1,
            "top5": self.top5,
            "kl": self.kl,
            "perplexity": self.perplexity,
            "tokens": self.tokens,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSettings:
    """What is measured, and where: `spec` and `weights` as `ttc compile` takes them."""

    spec: str
    mesh: str
    weights: str | None
    context: int
    cache: Path
    folder: Path
    emulator_device: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _SharingBackend(EmulatorBackend):
    """Keeps loaded weights: the programs of a search have most of them in common."""

    loaded: dict[tuple[int, int], Tensor] = field(default_factory=dict[tuple[int, int], Tensor])

    def load(self, path: Path) -> Tensor:
        facts = path.stat()
        key = facts.st_dev, facts.st_ino  # links of the cache are one file
        if key not in self.loaded:
            self.loaded[key] = EmulatorBackend.load(self, path)
        return self.loaded[key]


@dataclass(slots=True, kw_only=True)
class Bench:
    """Runs programs of one model that differ in their precision profile. Use `open_bench`."""

    settings: BenchSettings
    model: ModelSpec
    progress: Progress
    _backend: Backend
    _scratch: Path
    _known: dict[str, Measured]

    def plan(self, profile: Profile) -> Plan:
        """The plan of a profile."""
        settings, chosen = self.settings, self._profile(profile)
        target = api.Target(mesh=settings.mesh, precision=chosen, context=settings.context)
        return api.plan(settings.spec, target)

    def precision(self, profile: Profile) -> Callable[[int | None], EffectivePrecision]:
        """What a profile says of a decoder of the model, or outside of them for None."""
        return partial(effective, self._profile(profile), self.model)

    def measure(self, profile: Profile, reference: Reference, split: Split) -> Measured:
        """Teacher forcing with a profile; from the store if it is there."""
        chosen = self._profile(profile)
        tokens = reference.token_ids[: split.tokens]
        known = hashlib.sha256(repr(reference.top_log_probs).encode()).hexdigest()
        facts = (self._content(chosen), tokens, str(split), known, ttc_version(), self._identity())
        key = hashlib.sha256(repr(facts).encode()).hexdigest()
        if key not in self._known:
            with self._session(chosen) as session:
                self._known[key] = _means(force(session, reference, split))
            line = json.dumps({"key": key} | asdict(self._known[key]))
            with (self.settings.folder / STORE).open("a") as file:
                file.write(line + "\n")
        return self._known[key]

    def encode(self, text: Path, split: Split) -> list[int]:
        """The token ids of a text file that a split reads, by the model's tokenizer.

        Raises UsageError where the text or the context of the search is too short for the split.
        """
        written, plan = read_text(text).strip(), self.plan("bf16")
        room = Room(context=plan.context, block=plan.kv_cache.block_tokens)
        with self._artefact(load_profile("bf16")) as artefact:
            tokens = load_tokenizer(artefact.folder).encode(written)
        check_length(room, split, len(tokens))
        return tokens[: split.tokens]

    def reference(self, token_ids: Sequence[int]) -> Reference:
        """What Hugging Face transformers expects, computed once for a text."""
        checkpoint = self._checkpoint()
        folder = self.settings.cache / "references"
        path = reference_path(folder, checkpoint.fingerprint, token_ids)
        if not path.exists():
            save_reference(path, make_reference(self.model, checkpoint, token_ids))
        return load_reference(path)

    def program_reference(self, profile: Profile, token_ids: Sequence[int]) -> Reference:
        """What a program itself expects: for how far others are from it."""
        facts = repr((self._content(self._profile(profile)), tuple(token_ids), self._identity()))
        name = hashlib.sha256(facts.encode()).hexdigest()[:32]
        path = self.settings.folder / f"base-{name}.refpt"
        if not path.exists():
            with self._session(self._profile(profile)) as session:
                logits = session.prefill_all(token_ids[:-1])
            save_reference(path, reduce_logits(token_ids, logits))
        return load_reference(path)

    def _profile(self, profile: Profile) -> PrecisionProfile:
        """A profile's text has lines, its name has none."""
        if isinstance(profile, PrecisionProfile):
            return profile
        if "\n" not in profile:
            return load_profile(profile)
        name = next(line for line in profile.splitlines() if line.startswith("profile: "))
        path = self._scratch / f"{name.removeprefix('profile: ')}.yaml"
        path.write_text(profile)
        return load_profile(path)

    def _content(self, profile: PrecisionProfile) -> list[tuple[str, str, str]]:
        """All that a profile sets for the model, whatever its name is and whoever says it."""
        return [
            (each.group, each.decode, each.prefill)
            for decoder in (None, *range(self.model.dims.layers))
            for each in effective(profile, self.model, decoder).settings
        ]

    def _identity(self) -> tuple[str, ...]:
        settings = self.settings
        return (self.model.name, settings.mesh, str(settings.context), settings.weights or "")

    def _checkpoint(self) -> Checkpoint:
        with self._artefact(load_profile("bf16")) as artefact:
            return checkpoint_of(artefact, self.settings.cache, self.settings.weights)[1]

    @contextmanager
    def _artefact(self, profile: PrecisionProfile) -> Iterator[Artefact]:
        with TemporaryDirectory(dir=self._scratch) as folder:
            yield api.compile(
                self.settings.spec,
                mesh=self.settings.mesh,
                precision=profile,
                context=self.settings.context,
                weights=self.settings.weights,
                cache=self.settings.cache,
                out=Path(folder) / "artefact",
            )

    @contextmanager
    def _session(self, profile: PrecisionProfile) -> Iterator[Session]:
        with self._artefact(profile) as artefact:
            program = load_program(artefact.program, self._backend.ttnn)
            yield open_session(program, artefact, self._backend)


@contextmanager
def open_bench(settings: BenchSettings, model: ModelSpec, progress: Progress) -> Iterator[Bench]:
    """A bench that knows what was measured in its folder before."""
    make_folder(settings.folder)
    with ExitStack() as stack:
        scratch = stack.enter_context(scratch_folder(settings.cache))
        mesh = load_mesh(settings.mesh)
        opened = stack.enter_context(
            open_backend("emulate", mesh, emulator_device=settings.emulator_device)
        )
        yield Bench(
            settings=settings,
            model=model,
            progress=progress,
            _backend=_SharingBackend(ttnn=opened.ttnn, device=opened.device),
            _scratch=scratch,
            _known=_read_store(settings.folder / STORE),
        )


def _read_store(path: Path) -> dict[str, Measured]:
    """What earlier runs measured. Half a line, of a run that was stopped, is measured again."""
    known: dict[str, Measured] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            record: dict[str, Any] = json.loads(line)
            key = record.pop("key")
            known[key] = Measured(**record | {"kls": tuple(record["kls"])})
        except (ValueError, KeyError, TypeError):
            continue
    return known


def _means(scores: Scores) -> Measured:
    every = scores.everything
    return Measured(
        top1=every.top1,
        top5=every.top5,
        kl=every.kl,
        perplexity=every.perplexity,
        tokens=every.tokens,
        hits="".join("1" if hit else "0" for hit in scores.top1),
        kls=tuple(float(f"{kl:.4g}") for kl in scores.kl),
    )
