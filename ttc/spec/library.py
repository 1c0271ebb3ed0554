"""Where the YAML files of specs/, architectures/ and precision_profiles/ are.

In a checkout the three folders lie beside the package, in an installed wheel in `ttc/data/`. The
user's own folders come first: those beside a spec for what the spec names, those of the working
directory for what the command line names.
"""

from pathlib import Path

from ttc.errors import Problem, UsageError, did_you_mean

SPECS, ARCHITECTURES, PROFILES = "specs", "architectures", "precision_profiles"
SUFFIXES = (".yaml", ".yml")
_SINGULAR = {SPECS: "spec", ARCHITECTURES: "architecture", PROFILES: "precision profile"}


def shipped(folder: str) -> Path:
    """The folder that comes with ttc."""
    package = Path(__file__).parent.parent
    installed = package / "data" / folder
    return installed if installed.is_dir() else package.parent / folder


def find(folder: str, name: str, *, near: Path) -> Path | None:
    """NAME.yaml in `folder` of the tree that the file `near` belongs to, else the shipped one."""
    for place in _places(folder, near.parent):
        if (place / f"{name}.yaml").is_file():
            return place / f"{name}.yaml"
    return None


def names(folder: str, *, near: Path) -> list[str]:
    """The names that `find` would find."""
    places = _places(folder, near.parent)
    return sorted({path.stem for place in places for path in place.glob("*.yaml")})


def resolve(folder: str, wanted: str | Path) -> Path:
    """A command line argument -> the file: a path, or the name of a file in `folder`.

    Raises UsageError that names the nearest file when there is none of that name.
    """
    if isinstance(wanted, Path) or wanted.endswith(SUFFIXES) or "/" in wanted:
        return Path(wanted)
    here = Path.cwd() / "_"
    found = find(folder, wanted, near=here)
    if found is None:
        kind = _SINGULAR[folder]
        raise UsageError(
            Problem(
                message=f"there is no {kind} '{wanted}'",
                note=f"looked for {folder}/{wanted}.yaml here and in ttc's own {folder}",
                help=did_you_mean(wanted, names(folder, near=here)),
            )
        )
    return found


def shown(path: Path) -> str:
    """The path to print: relative to the working directory or to ttc's own files if it can be."""
    path = path.absolute()
    for root in (Path.cwd(), shipped(SPECS).parent):
        if path.is_relative_to(root):
            return path.relative_to(root).as_posix()
    return path.as_posix()


def stable(path: Path) -> str:
    """Folder and file name: the same from any working directory, for what is written to disk."""
    return "/".join(path.absolute().parts[-2:])


def _places(folder: str, start: Path) -> tuple[Path, ...]:
    return (start / folder, start.absolute().parent / folder, shipped(folder))
