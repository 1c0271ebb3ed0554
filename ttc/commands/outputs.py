"""Whether a file can be written: asked before the work of which it is to hold the result."""

from pathlib import Path

from ttc.errors import Problem, UsageError


def check_file(path: Path, option: str) -> None:
    """Raise UsageError where a file cannot be written. One that is there stays as it is."""
    new = not path.exists()
    try:
        with path.open("a"):
            pass
        if new:
            path.unlink()
    except OSError as error:
        folder = path.parent
        raise UsageError(
            Problem(
                message=f"{option} {path} cannot be written",
                note=f"there is no folder {folder}"
                if not folder.exists()
                else error.strerror or str(error),
                help="name a file in a folder that is there and can be written",
            )
        ) from None
