"""Check a YAML file of any kind, or all files of a tree: for `ttc check`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ttc.errors import Problem, TtcError
from ttc.hardware.hardware import USER_FOLDER, read_meshes
from ttc.located import Located, parse_yaml, problem_at_start, read_text
from ttc.schema import load_schema
from ttc.spec import library
from ttc.spec.architecture import load_architecture
from ttc.spec.model import load_model
from ttc.spec.precision import load_profile


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of YAML file: the folder such files lie in, the name of their schema, the loader."""

    name: str
    folder: str
    schema: str
    load: Callable[[Path], object]


KINDS = (
    Kind(name="spec", folder=library.SPECS, schema="model", load=load_model),
    Kind(
        name="architecture",
        folder=library.ARCHITECTURES,
        schema="architecture",
        load=load_architecture,
    ),
    Kind(
        name="precision profile",
        folder=library.PROFILES,
        schema="precision_profile",
        load=load_profile,
    ),
    Kind(name="mesh file", folder=USER_FOLDER, schema="meshes", load=read_meshes),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileCheck:
    """The verdict on one file; `kind` is "" when the file is of no known kind."""

    path: Path
    kind: str
    problems: tuple[Problem, ...]


def check_file(path: Path) -> FileCheck:
    """The kind of a file, told by its fields and then by its folder, and what is wrong in it."""
    try:
        root, problems = parse_yaml(read_text(path), library.shown(path))
    except TtcError as error:
        return FileCheck(path=path, kind="", problems=error.problems)
    kind = _kind_of(path, root)
    if kind is None:
        return FileCheck(
            path=path, kind="", problems=tuple(problems or [_unknown_kind(path, root)])
        )
    try:
        kind.load(path)
    except TtcError as error:
        return FileCheck(path=path, kind=kind.name, problems=error.problems)
    return FileCheck(path=path, kind=kind.name, problems=())


def check_all(root: Path) -> tuple[FileCheck, ...]:
    """Every YAML file in the specs/, architectures/ and precision_profiles/ of a tree."""
    files = (path for kind in KINDS for path in sorted((root / kind.folder).glob("*.yaml")))
    return tuple(check_file(path) for path in files)


def _kind_of(path: Path, root: Located | None) -> Kind | None:
    """The kind most of whose fields the file has; its folder decides between equals."""
    given = set(root.fields()) if root and isinstance(root.value, dict) else set[str]()

    def likeness(kind: Kind) -> tuple[int, bool]:
        fields: Mapping[str, object] = load_schema(kind.schema)["properties"]
        return len(given & set(fields)), path.absolute().parent.name == kind.folder

    best = max(KINDS, key=likeness)
    return best if any(likeness(best)) else None


def _unknown_kind(path: Path, root: Located | None) -> Problem:
    expected = ", ".join(f"{kind.name} ({kind.folder}/)" for kind in KINDS)
    if root is None:
        return problem_at_start(library.shown(path), "the file is empty", f"expected: {expected}")
    return Problem(message="the file is of no known kind", at=root.at, help=f"expected: {expected}")
