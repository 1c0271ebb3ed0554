"""The artefact folder: its manifest, what makes it valid, and how it is written in one piece."""

import glob
import hashlib
import json
import os
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any, cast

from ttc.checkpoint.cache import HEADER_BYTES, file_sha256
from ttc.errors import ArtefactError, Problem
from ttc.hardware.hardware import load_mesh
from ttc.runtime.weight_files import WeightFile, changed_weight

FORMAT = 2
"""Version of the folder's layout and of the manifest's fields."""

MANIFEST = "manifest.json"
WEIGHTS = "weights"
WRITTEN = (
    MANIFEST,
    "model.py",
    "plan.yaml",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """Size and content of one file of the artefact."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshFacts:
    """The mesh the program was planned for, as [rows, columns]."""

    name: str
    shape: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class KvLayout:
    """The paged KV cache: keys and values are [blocks, kv_heads, block_tokens, head_dim]."""

    block_tokens: int
    blocks: int
    dtypes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointFacts:
    """Where the weights came from; `fingerprint` identifies the tensors, not their place."""

    description: str
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything about an artefact that its program and weights do not say themselves.

    weights is None when the artefact was compiled without a checkpoint.
    """

    ttc: str
    ttnn: str
    name: str
    model: str
    mesh: MeshFacts
    precision: str
    batch: int
    context: int
    kv: KvLayout
    buckets: tuple[int, ...]
    trace_region_bytes: int
    plan: str
    eos_ids: tuple[int, ...]
    files: Mapping[str, FileFacts]
    checkpoint: CheckpointFacts | None = None
    weights: Mapping[str, WeightFile] | None = None
    format: int = FORMAT


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


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write manifest.json: sorted keys and nothing that differs between two equal builds."""
    text = json.dumps(asdict(manifest), indent=2, sort_keys=True)
    (folder / MANIFEST).write_text(text + "\n")


def read_artefact(
    folder: Path, *, mesh: str = "", need_weights: bool = True, verify_weights: bool = False
) -> Artefact:
    """The artefact in `folder`, checked: versions, mesh, files and weights against checksums.

    mesh            refuse an artefact that was built for another one; "" takes any
    need_weights    refuse an artefact that was compiled without weights
    verify_weights  compare every byte of the weights, and not only their sizes and first bytes
    """
    record = _read_record(folder)
    _check_versions(folder, record)
    manifest = _parse(folder, record)
    problems = _check_files(folder, manifest)
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
        return "format" in _read_record(folder)
    except ArtefactError:
        return False


@contextmanager
def new_artefact(out: Path) -> Generator[Path]:
    """A folder to build in; it becomes `out` when the block ends without an exception.

    An artefact that is there already is replaced only then. A folder that holds anything else is
    refused, because replacing it would destroy what ttc did not write.
    """
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
    out.parent.mkdir(parents=True, exist_ok=True)
    building = out.parent / f".{out.name}.building-{os.getpid()}"
    replaced = out.parent / f".{out.name}.replaced-{os.getpid()}"
    _sweep(out)
    building.mkdir()
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


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not folder.is_dir():
        raise ArtefactError(
            Problem(message=f"no artefact at {folder}", help="build one with ttc compile")
        )
    try:
        record = json.loads(path.read_text())
    except FileNotFoundError:
        raise ArtefactError(
            Problem(
                message=f"{folder} is not an artefact: it has no {MANIFEST}",
                help="name a folder that ttc compile wrote",
            )
        ) from None
    except ValueError as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(record, dict):
        raise _damaged(path, "it is not a JSON object")
    return cast(dict[str, Any], record)


def _damaged(path: Path, why: str) -> ArtefactError:
    return ArtefactError(
        Problem(
            message=f"{path} is damaged: {why}",
            help="restore it, or build the artefact again with ttc compile",
        )
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


def _parse(folder: Path, record: dict[str, Any]) -> Manifest:
    try:
        fields = dict(record)
        checkpoint, weights = fields["checkpoint"], fields["weights"]
        fields |= {
            "mesh": MeshFacts(name=record["mesh"]["name"], shape=tuple(record["mesh"]["shape"])),
            "kv": KvLayout(**record["kv"] | {"dtypes": tuple(record["kv"]["dtypes"])}),
            "buckets": tuple(record["buckets"]),
            "eos_ids": tuple(record["eos_ids"]),
            "files": {name: FileFacts(**facts) for name, facts in record["files"].items()},
            "checkpoint": None if checkpoint is None else CheckpointFacts(**checkpoint),
            "weights": None
            if weights is None
            else {name: WeightFile(**facts) for name, facts in weights.items()},
        }
        manifest = Manifest(**fields)
    except KeyError as error:
        raise _damaged(folder / MANIFEST, f"it has no field {error}") from error
    except (TypeError, AttributeError, ValueError) as error:
        raise _damaged(folder / MANIFEST, str(error)) from error
    files = [*manifest.files, *(weight.file for weight in (manifest.weights or {}).values())]
    if outside := [file for file in files if not _is_inside(file)]:
        raise _damaged(folder / MANIFEST, f"{outside[0]!r} is not a file of the folder")
    for name, weight in (manifest.weights or {}).items():
        if weight.file != f"{WEIGHTS}/{name}.tensorbin":  # the name by which it will be loaded
            raise _damaged(folder / MANIFEST, f"the weight {name} is said to be {weight.file!r}")
    return manifest


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


def _is_inside(file: object) -> bool:
    """Whether a value of the manifest is a path that stays in the folder."""
    if not isinstance(file, str):
        return False
    path = PurePosixPath(file)
    return bool(file) and not path.is_absolute() and ".." not in path.parts and "\0" not in file
