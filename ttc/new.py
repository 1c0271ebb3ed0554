"""`ttc new`: a checkpoint's headers become a spec file, and a spec is found without one."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from ttc.checkpoint.draft import (
    Draft,
    draft_family,
    draft_spec,
    hf_class,
    nearest,
    refuse_other_task,
)
from ttc.checkpoint.files import HUB_ID, Headers
from ttc.checkpoint.headers import open_headers
from ttc.checkpoint.names import bind_headers
from ttc.errors import CheckpointError, Problem, SpecError, UsageError
from ttc.spec import library
from ttc.spec.architecture import Architecture, load_architecture
from ttc.spec.model import find_spec, load_model


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """The files of a draft, and what it says of every key and tensor."""

    spec: Path
    architecture: Path | None
    draft: Draft


def new_spec(
    source: str,
    *,
    out: Path | None = None,
    extends: str | None = None,
    ignore: Collection[str] = (),
    force: bool = False,
) -> Written:
    """Write the spec of a checkpoint; of an unknown family also an architecture.

    out      the spec to write; specs/NAME.yaml if not given. The architecture goes where that spec
             finds it
    extends  a spec: only what differs from it is written
    ignore   keys of config.json that change nothing although ttc does not know them

    CheckpointError if config.json or the tensors do not fit the family, UsageError if a file is
    there and not `force`. A spec that leaves nothing open is loaded, and bound to the tensors,
    before it appears.
    """
    headers = open_headers(source)
    out = out or Path(library.SPECS) / f"{_file_name(source)}.yaml"
    found = _families(out)
    name = hf_class(headers)
    weights = str(Path(source).expanduser().absolute()) if Path(source).exists() else None
    model = source.partition("@")[0] if weights is None else _model_name(source)
    _refuse_existing(out, force)
    known = [each for each, _ in found if name in each.hf_classes]
    if not known:
        families = [each for each, _ in found]
        refuse_other_task(name, families)
        near, near_file = nearest(headers, found)
        taken = {each.name for each in families}
        draft = draft_family(headers, near, near_file, model=model, weights=weights, taken=taken)
        return _write_family(draft, out, force)
    base = load_model(extends) if extends else None
    draft = draft_spec(headers, known[0], model=model, weights=weights, ignore=ignore, base=base)
    if draft.undecided:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(draft.spec, encoding="utf-8")
    else:
        _write_checked(draft, headers, out)
    return Written(spec=out, architecture=None, draft=draft)


def spec_or_draft(wanted: str, drafts: Path) -> str:
    """What names a spec as it is; of a checkpoint without one the spec drafted into `drafts`.

    UsageError when it is neither, CheckpointError when the draft leaves something open.
    """
    try:
        if not find_spec(wanted).expanduser().is_dir():
            return wanted
    except UsageError:
        if not Path(wanted).expanduser().is_dir() and not HUB_ID.fullmatch(wanted):
            raise
    out = drafts / f"{_file_name(wanted)}.yaml"
    written = new_spec(wanted, out=out, force=True)
    if not written.draft.undecided:
        return str(out)
    family = written.architecture is not None
    raise CheckpointError(
        Problem(
            message=f"{wanted} is of a family that ttc does not know"
            if family
            else f"{wanted} does not say all of a spec",
            details=written.draft.undecided,
            help=f"draft it with `ttc new {wanted}`, and decide what it lists",
        )
    )


def _file_name(source: str) -> str:
    name = source.partition("@")[0] if HUB_ID.fullmatch(source) else str(Path(source).absolute())
    return re.sub(r"[^a-z0-9._-]+", "-", name.rstrip("/").rpartition("/")[2].lower()).strip("-.")


def _model_name(folder: str) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(folder).expanduser().absolute().name)
    return name.strip("-._") or "model"


def _families(out: Path) -> list[tuple[Architecture, Path]]:
    """Every architecture that a spec at `out` could name, and its file; drafts are left out."""
    found: list[tuple[Architecture, Path]] = []
    for name in library.names(library.ARCHITECTURES, near=out):
        path = library.find(library.ARCHITECTURES, name, near=out)
        assert path is not None, "it has just been listed"
        try:
            found.append((load_architecture(path), path))
        except SpecError:
            continue  # `ttc check` says what is wrong with it
    return found


def _refuse_existing(path: Path, force: bool) -> None:
    if path.exists() and not force:
        raise UsageError(
            Problem(
                message=f"{library.shown(path)} is there already",
                help="name another file with -o, or replace it with --force",
            )
        )


def _write_checked(draft: Draft, headers: Headers, out: Path) -> None:
    """Write a spec beside its place, load it and bind the tensors, and move it there."""
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(f".{out.name}")
    unfinished.write_text(draft.spec, encoding="utf-8")
    try:
        bind_headers(load_model(unfinished), headers)
        unfinished.replace(out)
    finally:
        unfinished.unlink(missing_ok=True)


def _write_family(draft: Draft, out: Path, force: bool) -> Written:
    folder = out.parent.parent if out.parent.name == library.SPECS else out.parent
    architecture = folder / library.ARCHITECTURES / f"{draft.architecture}.yaml"
    _refuse_existing(architecture, force)
    for path, text in ((out, draft.spec), (architecture, draft.architecture_text)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return Written(spec=out, architecture=architecture, draft=draft)
