"""The files beside the weights of a checkpoint: whether they are there, and what they may hold.

What a JSON file may hold is said by a schema of `ttc/schemas`. It is checked when an artefact is
made, at the place in the user's file: a run would blame the artefact for it.
"""

import json
import os
import stat
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ttc.checkpoint.stored import read_json, read_text
from ttc.errors import CheckpointError, Problem, Source
from ttc.located import Located, parse_json
from ttc.schema import check_schema, is_valid


def find_companion(folder: Path, name: str) -> Path | None:
    """The path of a file of a folder; None if the folder has nothing of that name.

    CheckpointError if it has, and that is no file: what cannot be read would else not be missed.
    """
    path = folder / name
    if not os.path.lexists(path):
        return None
    try:
        mode = path.stat().st_mode
    except OSError as error:
        what = f"it is a link to {path.readlink()}: " if path.is_symlink() else ""
        raise _no_file(path, f"{what}{error.strerror or error}") from error
    if not stat.S_ISREG(mode):
        raise _no_file(path, f"it is a {'folder' if stat.S_ISDIR(mode) else 'pipe or a device'}")
    return path


def read_checked(path: Path, schema: str) -> dict[str, Any]:
    """A JSON file that holds what `schema` allows; CheckpointError with all that it does not.

    NaN and Infinity, which Python's reader takes, are no numbers.
    """
    content = read_json(path)
    text = read_text(path)
    strict: object = json.loads(text, parse_constant=str)
    if is_valid(strict, schema):
        return content
    root = located(path)
    problems = check_schema(root, schema, strict) if root is not None else []
    if not problems:
        problems = [Problem(message=f"{path} does not hold what its schema says")]
    raise CheckpointError(
        replace(each, help=each.help or f"correct {path.name}, or remove the key")
        for each in problems
    )


def located(path: Path) -> Located | None:
    """A JSON file with the places of its values, as far as YAML can read it."""
    root, _ = parse_json(read_text(path), str(path))
    return root


def check_end_ids(ids: Iterable[int], vocab: int, path: Path | None, origin: str) -> None:
    """CheckpointError for ids of `eos_token_id` that a model of `vocab` tokens does not have."""
    wrong = [each for each in ids if each >= vocab]
    if not wrong:
        return
    at: Source | None = None
    if path is not None and (root := located(path)) is not None:
        entry = root.get("eos_token_id")
        at = entry.at if entry is not None else None
    where = "" if at is not None else f" of {origin}"
    raise CheckpointError(
        Problem(
            message=f"'eos_token_id'{where} names token {wrong[0]}, the model has {vocab}",
            at=at,
            note=f"expected 0 to {vocab - 1}",
            help="give the token that ends a text, or the files of the model's own tokenizer",
        )
    )


def _no_file(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        Problem(
            message=f"{path} cannot be read",
            note=what,
            help=f"put the {path.name} of the model there, or remove what is there now",
        )
    )
