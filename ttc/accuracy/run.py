"""`ttc accuracy`: a program scored against a reference, and what is written down of it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from ttc.accuracy.layers import Row, compare_layers, first_bad, write_layers
from ttc.accuracy.plot import draw_scores
from ttc.accuracy.reference import (
    Reference,
    load_reference,
    make_reference,
    reference_path,
    save_reference,
)
from ttc.accuracy.scores import Scores, write_csv
from ttc.accuracy.teacher import TEXT, Room, Split, check_length, force
from ttc.checkpoint.files import Checkpoint
from ttc.errors import Problem, UsageError
from ttc.hardware.hardware import load_mesh
from ttc.located import read_text
from ttc.progress import Progress
from ttc.runtime.artefact import Artefact
from ttc.runtime.backends import BackendName, torch_device
from ttc.runtime.model import Model
from ttc.runtime.tokens import load_tokenizer
from ttc.spec.model import ModelSpec
from ttc.weights import checkpoint_of

SPLIT = Split(prefill=512, steps=511)
"""That of tt-transformers."""

LAYER_TOKENS = 96
"""Tokens of the text that are compared value by value: more would only repeat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracySettings:
    """What is measured, and where it is written.

    text            a text file; the one that comes with ttc if None
    reference       a .refpt file, which has its own text; or where to write one that is made
    make_reference  ask Hugging Face transformers, and keep the answer
    layers          also compare every named value
    out             a folder for tables and pictures; None writes none
    """

    text: Path | None = None
    split: Split = SPLIT
    reference: Path | None = None
    make_reference: bool = False
    layers: bool = False
    out: Path | None = None
    emulator_device: str = "cpu"

    def check(self) -> None:
        """Raise UsageError where a reference would be lost, or a text not be read."""
        reference = self.reference
        if reference is not None and self.make_reference and reference.exists():
            raise UsageError(
                Problem(
                    message=f"there is a file {reference} already",
                    note="--make-reference would write it anew",
                    help="name another one with --reference, or leave out --make-reference to use "
                    "it as it is",
                )
            )
        if reference is not None and self.text is not None and not self.make_reference:
            raise UsageError(
                Problem(
                    message="--text and --reference name two texts",
                    note="a reference has a text of its own",
                    help="leave one of them out, or add --make-reference to write a reference of "
                    "that text",
                )
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyReport:
    """The scores of one program on one text, and the files they were written to."""

    scores: Scores
    vocab: int
    reference: Path
    files: tuple[Path, ...] = ()
    layers: tuple[Row, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """What `ttc accuracy --json` prints; the headline is what tt-transformers counts."""
        scores = self.scores
        prefill = scores.summary(0, scores.prefill)
        decode = scores.summary(scores.prefill, len(scores.top1)) if self._steps else None
        return scores.headline.to_json() | {
            "prefill": prefill.to_json(),
            "decode": decode.to_json() if decode else None,
            "all": scores.everything.to_json(),
            "reference": str(self.reference),
            "files": [str(path) for path in self.files],
            "first_bad_value": asdict(bad) if (bad := self.first_bad) else None,
        }

    @property
    def foreign(self) -> bool:
        """Whether the text is less likely than tokens drawn at random: then it is no text at all
        in the model's tokens, but one in those of another tokenizer."""
        return self.scores.everything.perplexity > self.vocab

    @property
    def first_bad(self) -> Row | None:
        """The first value that an operation spoiled, if layers were compared."""
        return first_bad(self.layers)

    @property
    def _steps(self) -> int:
        return len(self.scores.top1) - self.scores.prefill


def measure(
    artefact: Artefact,
    *,
    backend: BackendName,
    settings: AccuracySettings,
    weights: str | None,
    cache: Path,
    progress: Progress,
) -> AccuracyReport:
    """Score an artefact. The checkpoint is opened only where a reference or layers need it.

    What can be refused is refused before anything is computed.
    """
    settings.check()
    if settings.out is not None:
        make_folder(settings.out)
    if backend == "emulate":
        torch_device(settings.emulator_device)
    text = find_text(artefact, settings, weights, cache, progress)
    with Model(artefact, backend, emulator_device=settings.emulator_device) as model:
        report = score(model, text, progress)
    if settings.layers:
        spec, checkpoint = checkpoint_of(artefact, cache, weights)
        mesh = load_mesh(artefact.manifest.mesh.name)
        ids = text.reference.token_ids[:LAYER_TOKENS]
        rows = compare_layers(artefact, mesh, spec, checkpoint, ids, progress)
        report = replace(report, layers=tuple(rows))
    if settings.out is not None:
        title = f"{artefact.manifest.name}, {artefact.manifest.precision}, {backend}"
        report = replace(report, files=write_report(report, settings.out, title))
    if settings.reference is not None and settings.make_reference:
        report = replace(report, files=(settings.reference, *report.files))
    return report


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceText:
    """A text with what Hugging Face makes of it, the file of that, and how it is read."""

    reference: Reference
    path: Path
    split: Split


def find_text(
    artefact: Artefact,
    settings: AccuracySettings,
    weights: str | None,
    cache: Path,
    progress: Progress,
) -> ReferenceText:
    """A named file as it is, unless it is to be made; else the one in the cache folder."""
    manifest = artefact.manifest
    room = Room(context=manifest.context, block=manifest.kv.block_tokens)
    if settings.reference is not None and not settings.make_reference:
        named = load_reference(settings.reference)
        check_length(room, settings.split, len(named.token_ids), what="reference")
        return ReferenceText(reference=named, path=settings.reference, split=settings.split)
    text = read_text(settings.text or TEXT).strip()
    token_ids = load_tokenizer(artefact.folder).encode(text)[: settings.split.tokens]
    check_length(room, settings.split, len(token_ids))
    spec, checkpoint = checkpoint_of(artefact, cache, weights)
    reference, path = find_reference(
        spec,
        checkpoint,
        token_ids,
        cache / "references",
        make=settings.make_reference,
        progress=progress,
    )
    if settings.reference is not None:
        save_reference(settings.reference, reference)
        path = settings.reference
    return ReferenceText(reference=reference, path=path, split=settings.split)


def make_folder(folder: Path) -> None:
    """A folder to write into, made if it is not there. Raises UsageError where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(
            Problem(
                message=f"nothing can be written into '{folder}'",
                note=error.strerror or str(error),
                help="name another folder with -o",
            )
        ) from None


def find_reference(
    spec: ModelSpec,
    checkpoint: Checkpoint,
    token_ids: Sequence[int],
    folder: Path,
    *,
    make: bool,
    progress: Progress,
) -> tuple[Reference, Path]:
    """The reference of a checkpoint for a text, made now if that was asked for."""
    path = reference_path(folder, checkpoint.fingerprint, token_ids)
    if make:
        progress("computing the reference")
        save_reference(path, make_reference(spec, checkpoint, token_ids))
    if not path.exists():
        raise UsageError(
            Problem(
                message=f"there is no reference for these {len(token_ids)} tokens of {spec.name}",
                note=f"looked for {path}",
                help="add --make-reference once, or name a .refpt file with --reference",
            )
        )
    return load_reference(path), path


def score(model: Model, text: ReferenceText, progress: Progress) -> AccuracyReport:
    """Teacher forcing over a text. Forgets what the users of the model have read."""

    def on_token(done: int) -> None:
        progress("teacher forcing", done, text.split.tokens - 1)

    on_token(0)
    return AccuracyReport(
        scores=force(model.session, text.reference, text.split, on_token),
        vocab=model.session.program.VOCAB,
        reference=text.path,
    )


def write_report(report: AccuracyReport, folder: Path, title: str) -> tuple[Path, ...]:
    """accuracy.csv with a line per position, its picture accuracy.png, and layers.csv."""
    table, picture = folder / "accuracy.csv", folder / "accuracy.png"
    write_csv(table, report.scores)
    draw_scores(picture, report.scores, title)
    if not report.layers:
        return table, picture
    write_layers(folder / "layers.csv", report.layers)
    return table, picture, folder / "layers.csv"
