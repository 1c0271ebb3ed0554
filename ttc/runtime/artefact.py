"""The artefact folder: what makes it valid, and how it is written in one piece."""

import glob
import hashlib
import os
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ttc.checkpoint.cache import HEADER_BYTES, file_sha256
from ttc.errors import ArtefactError, Problem
from ttc.hardware.hardware import load_mesh
from ttc.runtime.manifest import (
    FORMAT,
    MANIFEST,
    PLAN,
    WEIGHTS,
    FileFacts,
    Manifest,
    compare_with_plan,
    parse_manifest,
    read_record,
)
from ttc.runtime.weight_files import WeightFile, changed_weight

WRITTEN = (
    MANIFEST,
    "model.py",
    PLAN,
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefact:
    """A compiled model on disk."""

    folder: Path
    manifest: Manifest

    @property
    def program(self) -> Path:
        return self.folder / "model.py"


@cache
def ttc_version() -> str:
    return version("ttc")


@cache
def ttnn_version() -> str:
    return version("ttnn")


def file_facts(path: Path) -> FileFacts:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileFacts(bytes=path.stat().st_size, sha256=digest)


def read_artefact(
    folder: Path, *, mesh: str = "", need_weights: bool = True, verify_weights: bool = False
) -> Artefact:
    """The artefact in `folder`, checked: versions, manifest, mesh, checksums of files and weights.

    mesh            refuse an artefact that was built for another one; "" takes any
    need_weights    refuse an artefact that was compiled without weights
    verify_weights  compare every byte of the weights, and not only their sizes and first bytes
    """
    record = read_record(folder)
    _check_versions(folder, record)
    manifest = parse_manifest(folder, record)
    problems = _check_files(folder, manifest) or compare_with_plan(folder, manifest)
    if mesh and mesh != manifest.mesh.name:
        load_mesh(mesh)  # refuses a mesh that does not exist
        problems.append(
            Problem(
                message=f"{folder} was built for the mesh {manifest.mesh.name}, not for {mesh}",
                help=f"run it with --mesh {manifest.mesh.name}, or compile again: "
                f"ttc compile {manifest.name} --mesh {mesh}",
            )
        )
    if manifest.weights is not None:
        problems += _check_weights(folder, manifest.weights, whole=verify_weights)
    elif need_weights:
        problems.append(
            Problem(
                message=f"{folder} holds no weights: it was compiled with --no-weights",
                help=f"compile it with weights: ttc compile {manifest.name} "
                f"--mesh {manifest.mesh.name} --precision {manifest.precision} -o {folder}",
            )
        )
    if problems:
        raise ArtefactError(problems)
    return Artefact(folder=folder, manifest=manifest)


def is_artefact(folder: Path) -> bool:
    """Whether `folder` was written by ttc, in whatever version and state."""
    try:
        return "format" in read_record(folder)
    except ArtefactError:
        return False


@contextmanager
def new_artefact(out: Path) -> Generator[Path]:
    """A folder to build in; it becomes `out` when the block ends without an exception.

    An artefact that is there already is replaced only then; where `out` is a link, what it points
    to. A folder that holds anything else is refused, because replacing it would destroy what ttc
    did not write. ArtefactError too if the folder cannot be made.
    """
    out = _made_room(out)
    building = out.parent / f".{out.name}.building-{os.getpid()}"
    replaced = out.parent / f".{out.name}.replaced-{os.getpid()}"
    try:
        yield building
        if out.exists():
            out.rename(replaced)
        try:
            building.rename(out)
        except OSError:  # another compile has put its own there meanwhile
            if replaced.exists() and not out.exists():
                replaced.rename(out)
            raise
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _made_room(out: Path) -> Path:
    """The folder that `out` is, through links, after the one to build in was made beside it."""
    try:
        out = out.resolve() if out.is_symlink() else out
        _refuse_foreign(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        _sweep(out)
        (out.parent / f".{out.name}.building-{os.getpid()}").mkdir()
    except (OSError, RuntimeError) as error:  # pathlib's answer to links that go round
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ArtefactError(
            Problem(
                message=f"cannot make the artefact folder {out}",
                note=why or str(error),
                help="choose another folder with -o",
            )
        ) from error
    return out


def _refuse_foreign(out: Path) -> None:
    """ArtefactError unless `out` is free, empty, or an artefact with nothing else in it."""
    if out.exists() and not (is_artefact(out) or (out.is_dir() and not any(out.iterdir()))):
        raise ArtefactError(
            Problem(
                message=f"{out} exists and is not an artefact",
                help="choose another folder with -o",
            )
        )
    if foreign := _foreign_files(out):
        raise ArtefactError(
            Problem(
                message=f"{out} holds files that ttc did not write",
                details=foreign[:10],
                help="move them elsewhere, or choose another folder with -o",
            )
        )


def _sweep(out: Path) -> None:
    """Remove what processes that were killed left beside `out`; an artefact that one of them had
    moved away, to put its own there, comes back.
    """
    for left in sorted(out.parent.glob(f".{glob.escape(out.name)}.*-*")):
        kind, _, process = left.name.removeprefix(f".{out.name}.").rpartition("-")
        if kind not in ("building", "replaced") or not process.isdigit():
            continue
        if int(process) != os.getpid() and _is_running(int(process)):
            continue
        if kind == "replaced" and not out.exists():
            left.rename(out)
        else:
            shutil.rmtree(left, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _foreign_files(folder: Path) -> tuple[str, ...]:
    """Files of an artefact's folder that replacing it would destroy although they are not ours."""
    files = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if not path.is_dir())
    return tuple(
        str(path)
        for path in files
        if str(path) not in WRITTEN and not path.match("weights/*.tensorbin")
    )


def _check_versions(folder: Path, record: Mapping[str, Any]) -> None:
    """Before anything else is read: another version may have other fields."""
    found = record.get("format")
    built, this = record.get("ttc"), ttc_version()
    if found != FORMAT:
        what = f"has artefact format {found}, this is format {FORMAT}"
    elif built != this:
        what = f"was built by ttc {built}, this is {this}"
    elif record.get("ttnn") != ttnn_version():
        what = f"was built for ttnn {record.get('ttnn')}, this is {ttnn_version()}"
    else:
        return
    raise ArtefactError(Problem(message=f"{folder} {what}", help="run ttc compile again"))


def _check_files(folder: Path, manifest: Manifest) -> list[Problem]:
    problems: list[Problem] = []
    for name, expected in sorted(manifest.files.items()):
        path = folder / name
        if not path.is_file():
            problems.append(Problem(message=f"{path} is missing", help="run ttc compile again"))
        elif file_facts(path) != expected:
            problems.append(
                Problem(
                    message=f"{path} was changed after it was built",
                    note="its checksum differs from the manifest",
                    help="restore it, or run ttc compile again; a change of the program belongs "
                    "into the spec",
                )
            )
    return problems


def _check_weights(
    folder: Path, weights: Mapping[str, WeightFile], *, whole: bool
) -> list[Problem]:
    """Size and first bytes; all of a file that was written to after the manifest, or if asked for.

    All of the others is compared when they are loaded, see `checked_files`.
    """
    listed = {weight.file for weight in weights.values()}
    found = (f"{WEIGHTS}/{path.name}" for path in (folder / WEIGHTS).glob("*.tensorbin"))
    problems = [
        Problem(
            message=f"{folder / file} is not in {MANIFEST}",
            note="nothing says what it should hold",
            help="remove it if it is yours, or run ttc compile again",
        )
        for file in sorted(set(found) - listed)
    ]
    built_ns = (folder / MANIFEST).stat().st_mtime_ns
    for name, weight in sorted(weights.items()):
        path = folder / weight.file
        if not path.is_file():
            problems.append(
                Problem(
                    message=f"the weight {name} is missing: {path}",
                    help="run ttc compile again; weights that are still cached are not converted "
                    "twice",
                )
            )
            continue
        facts = path.stat()
        if facts.st_size != weight.bytes:
            problems.append(
                Problem(
                    message=f"the weight {name} is truncated: {path} has {facts.st_size} bytes, "
                    f"expected {weight.bytes}",
                    help="run ttc compile again",
                )
            )
        elif file_sha256(path, HEADER_BYTES) != weight.header_sha256 or (
            (whole or facts.st_mtime_ns > built_ns) and file_sha256(path) != weight.sha256
        ):
            problems.append(changed_weight(name, path))
    return problems
