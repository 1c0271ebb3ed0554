"""The weights of an artefact: from a checkpoint into the folder, and back to the checkpoint."""

import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from ttc.checkpoint.cache import WeightCache
from ttc.checkpoint.files import Checkpoint, open_checkpoint
from ttc.checkpoint.index import WeightSource, find_pending, link_weights
from ttc.checkpoint.names import bind
from ttc.checkpoint.tokenizer import chat_template_file, eos_token_ids, write_tokenizer
from ttc.compiler import Compiled
from ttc.errors import ArtefactError, CheckpointError, Problem, TtcError, UsageError
from ttc.progress import Progress
from ttc.runtime.artefact import Artefact
from ttc.runtime.chat import load_chat_template
from ttc.runtime.manifest import CheckpointFacts
from ttc.runtime.weight_files import WeightFile
from ttc.spec.model import ModelSpec, load_model


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedWeights:
    """What the manifest says of the weights and of the tokenizer that came with them."""

    checkpoint: CheckpointFacts
    weights: Mapping[str, WeightFile]
    tokenizer_files: tuple[str, ...]
    eos_ids: tuple[int, ...]


def add_weights(
    compiled: Compiled,
    folder: Path,
    *,
    named: str | Path,
    location: str,
    cache: Path,
    copy: bool,
    verify: bool,
    progress: Progress,
) -> AddedWeights:
    """Put the converted weights of the checkpoint at `location`, and its tokenizer, into a folder.

    copy     the files themselves, and not links to those of the cache
    verify   compare every byte of what is cached already, and convert again what differs

    Where the checkpoint is, and the spec that the user `named`, is noted in the cache folder for a
    later verification: an artefact itself holds no path.
    """
    progress("opening the checkpoint")
    checkpoint = open_checkpoint(location, cache / "fingerprints")
    weights = WeightCache(cache / "weights", verify=verify)
    source = _source(compiled, checkpoint)
    files = write_tokenizer(checkpoint, folder, compiled.spec.dims.vocab)
    _check_chat_template(checkpoint, folder)  # before minutes of conversion
    _convert(compiled, source, weights, progress)
    weights = WeightCache(weights.root)  # what was verified is not read again
    index = link_weights(compiled.plan.weights, source, weights, folder, copy=copy)
    checkpoint.check_unchanged()  # weights and tokenizer are of one time
    _remember(cache, checkpoint.fingerprint, spec=named, weights=location)
    return AddedWeights(
        checkpoint=CheckpointFacts(
            description=checkpoint.description, fingerprint=checkpoint.fingerprint
        ),
        weights={
            entry.name: WeightFile(
                file=entry.file,
                bytes=entry.size_bytes,
                sha256=entry.sha256,
                header_sha256=entry.header_sha256,
            )
            for entry in index
        },
        tokenizer_files=files,
        eos_ids=eos_token_ids(folder),
    )


def _check_chat_template(checkpoint: Checkpoint, folder: Path) -> None:
    """CheckpointError if the template that was written into an artefact's folder is none."""
    template = load_chat_template(folder)
    if template is None:
        return
    problems = replace(template, path=str(chat_template_file(checkpoint) or "")).check()
    if problems:
        help_text = "correct the template; without it, --no-chat-template is all that can be run"
        raise CheckpointError(replace(each, help=help_text) for each in problems)


def _source(compiled: Compiled, checkpoint: Checkpoint) -> WeightSource:
    """The weights of a checkpoint, by the names of the spec."""
    return WeightSource(
        checkpoint=checkpoint,
        binding=bind(compiled.spec, checkpoint),
        chip=compiled.plan.arch,
        mesh_shape=compiled.plan.parallel.replica_shape,
    )


def _convert(
    compiled: Compiled, source: WeightSource, weights: WeightCache, progress: Progress
) -> None:
    """Convert what the cache lacks, and say what of it was damaged."""
    progress("looking for converted weights")
    pending = find_pending(compiled.plan.weights, source, weights)
    for item in pending:
        if item.damage:
            logging.getLogger(__name__).warning(
                "the cached weight '%s' is damaged and converted again: %s",
                item.weight.full_name,
                item.damage,
            )
    if pending:
        from ttc.checkpoint.convert import Progress as Converted
        from ttc.checkpoint.convert import convert_weights

        def show(converted: Converted) -> None:
            progress("converting weights", converted.done_bytes, converted.total_bytes, "bytes")

        progress("converting weights")
        convert_weights(pending, source, weights, report=show)


def _remember(cache: Path, fingerprint: str, *, spec: str | Path, weights: str) -> None:
    path = _note(cache, fingerprint)
    place = str(Path(weights).expanduser().absolute()) if Path(weights).exists() else weights
    named = str(Path(spec).absolute()) if Path(spec).is_file() else str(spec)
    with suppress(OSError):  # a read-only cache: a verification will ask where the weights are
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"spec": named, "weights": place}, sort_keys=True))


def _note(cache: Path, fingerprint: str) -> Path:
    return cache / "checkpoints" / f"{fingerprint}.json"


def checkpoint_of(
    artefact: Artefact, cache: Path, weights: str | None
) -> tuple[ModelSpec, Checkpoint]:
    """The checkpoint an artefact was made from, and the spec that names its tensors."""
    facts = artefact.manifest.checkpoint
    assert facts is not None, "an artefact with weights names its checkpoint"
    path = _note(cache, facts.fingerprint)
    note = cast(dict[str, str], json.loads(path.read_text())) if path.exists() else {}
    source = weights or note.get("weights") or facts.description
    try:
        checkpoint = open_checkpoint(source, cache / "fingerprints")
    except TtcError as error:
        if weights:
            raise
        raise UsageError(
            Problem(
                message=f"the checkpoint of {artefact.folder} is not here: {facts.description}",
                details=(str(error).splitlines()[0],),
                help="say where it is with --weights",
            )
        ) from error
    if checkpoint.fingerprint != facts.fingerprint:
        raise ArtefactError(
            Problem(
                message=f"{artefact.folder} was made from another checkpoint than {source}",
                help="name the checkpoint with --weights, or run ttc compile again",
            )
        )
    return load_model(note.get("spec", artefact.manifest.name)), checkpoint
