"""manifest.json of an artefact: its fields, and what makes them valid.

What a field may hold is said by `ttc/schemas/manifest.schema.json`, and that it says what the plan
does is checked field by field. JSON is YAML, so that what is wrong is told at its place.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, cast

from ttc.errors import ArtefactError, Problem, Source, TtcError
from ttc.hardware.hardware import load_mesh
from ttc.located import Located, parse_yaml
from ttc.plan.text import fingerprint
from ttc.runtime.weight_files import WeightFile
from ttc.schema import is_valid, load_yaml

FORMAT = 3
"""Version of the folder's layout and of the manifest's fields."""

MANIFEST = "manifest.json"
PLAN = "plan.yaml"
WEIGHTS = "weights"
HELP = "restore it, or build the artefact again with ttc compile"


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


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write manifest.json: sorted keys and nothing that differs between two equal builds."""
    text = json.dumps(asdict(manifest), indent=2, sort_keys=True)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read_record(folder: Path) -> dict[str, Any]:
    """The fields of the manifest of any version; ArtefactError if there are none."""
    path = folder / MANIFEST
    if not folder.is_dir():
        raise ArtefactError(
            Problem(message=f"no artefact at {folder}", help="build one with ttc compile")
        )
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtefactError(
            Problem(
                message=f"{folder} is not an artefact: it has no {MANIFEST}",
                help="name a folder that ttc compile wrote",
            )
        ) from None
    except json.JSONDecodeError as error:
        text = (error.doc.splitlines() or [""])[min(error.lineno, error.doc.count("\n") + 1) - 1]
        at = Source(path=str(path), line=error.lineno, column=error.colno, text=text.rstrip())
        raise ArtefactError(
            Problem(message=f"{path} is damaged: it is not JSON", at=at, note=error.msg, help=HELP)
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(record, dict):
        raise _damaged(path, "it is not a JSON object")
    return cast(dict[str, Any], record)


def parse_manifest(folder: Path, record: Mapping[str, Any]) -> Manifest:
    """The manifest of this version; ArtefactError with all that its schema does not allow."""
    path = folder / MANIFEST
    if not is_valid(record, "manifest"):
        try:
            load_yaml(path, "manifest")
        except TtcError as error:
            raise ArtefactError(replace(each, help=HELP) for each in error.problems) from error
        raise _damaged(path, "it does not hold what its schema says")
    checkpoint, weights = record["checkpoint"], record["weights"]
    fields = dict(record) | {
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
    files = [*manifest.files, *(weight.file for weight in (manifest.weights or {}).values())]
    if outside := [file for file in files if not _is_inside(file)]:
        raise _damaged(path, f"{outside[0]!r} is not a file of the folder")
    for name, weight in (manifest.weights or {}).items():
        if weight.file != f"{WEIGHTS}/{name}.tensorbin":  # the name by which it will be loaded
            raise _damaged(path, f"the weight {name} is said to be {weight.file!r}")
    return manifest


def compare_with_plan(folder: Path, manifest: Manifest) -> list[Problem]:
    """Where the manifest and plan.yaml of a folder differ, each at its place in the manifest.

    ArtefactError if the plan does not hold what is compared.
    """
    try:
        plan = load_yaml(folder / PLAN, "plan")
    except TtcError as error:
        raise ArtefactError(replace(each, help=HELP) for each in error.problems) from error
    wrong = [
        (path, said, wanted, where)
        for path, said, wanted, where in _compared(folder, manifest, plan)
        if said != wanted
    ]
    if not wrong:
        return []
    root, _ = parse_yaml((folder / MANIFEST).read_text(), str(folder / MANIFEST))
    return [
        Problem(
            message=f"'{'.'.join(path)}' is not what {PLAN} says",
            at=_place(root, path),
            note=f"{PLAN}:{where.line} has {_shown(said, wanted)}",
            help=HELP,
        )
        for path, said, wanted, where in wrong
    ]


type _Fact = tuple[tuple[str, ...], object, object, Source]
"""A field of the manifest, what it holds, what the plan has, and where."""


def _compared(folder: Path, manifest: Manifest, plan: Located) -> Iterator[_Fact]:
    for field, name in (("model", "model"), ("precision", "profile")):
        yield (field,), getattr(manifest, field), plan[name].text, plan[name].at
    for name in ("batch", "context"):
        yield (name,), getattr(manifest, name), plan[name].integer, plan[name].at
    mesh = plan["mesh"]
    yield ("mesh", "name"), manifest.mesh.name, mesh.text, mesh.at
    if manifest.mesh.name == mesh.text:
        known = load_mesh(mesh.text)
        yield ("mesh", "shape"), manifest.mesh.shape, (known.rows, known.cols), mesh.at
    cache = plan["kv_cache"]
    for name in ("block_tokens", "blocks"):
        yield ("kv", name), getattr(manifest.kv, name), cache[name].integer, cache[name].at
    dtypes = tuple(each.text for each in cache["dtypes"].elements())
    yield ("kv", "dtypes"), manifest.kv.dtypes, dtypes, cache["dtypes"].at
    buckets = tuple(each["tokens"].integer for each in plan["prefill"].elements())
    yield ("buckets",), manifest.buckets, buckets, plan["prefill"].at
    region = plan["memory"]["trace_region_bytes"]
    yield ("trace_region_bytes",), manifest.trace_region_bytes, region.integer, region.at
    text = (folder / PLAN).read_text(encoding="utf-8")
    yield ("plan",), manifest.plan, fingerprint(text), plan.at
    if manifest.weights is not None:
        stored = {each.text.partition(" = ")[0] for each in plan["weights"].elements()}
        yield ("weights",), set(manifest.weights), stored, plan["weights"].at


def _place(root: Located | None, path: tuple[str, ...]) -> Source | None:
    for name in path:
        root = root.get(name) if root is not None and isinstance(root.value, dict) else None
    return root.at if root is not None else None


def _shown(said: object, wanted: object) -> str:
    """What the plan has, in the words of a note."""
    if isinstance(said, set) and isinstance(wanted, set):
        names = cast(set[str], said ^ wanted)
        return f"others, the first is '{min(names)}'"
    if isinstance(wanted, tuple):
        return f"[{', '.join(str(each) for each in cast(tuple[object, ...], wanted))}]"
    return str(wanted)


def _damaged(path: Path, why: str) -> ArtefactError:
    return ArtefactError(Problem(message=f"{path} is damaged: {why}", help=HELP))


def _is_inside(file: str) -> bool:
    """Whether a name of the manifest is a path that stays in the folder."""
    path = PurePosixPath(file)
    return bool(file) and not path.is_absolute() and ".." not in path.parts and "\0" not in file
