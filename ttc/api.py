"""What users call from Python: plan, compile, load, verify.

Torch, ttnn's host process and the tokenizers are imported by the calls that need them, so that
planning starts in a fraction of a second.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from ttc.checkpoint.cache import WeightCache
from ttc.checkpoint.files import Checkpoint, open_checkpoint
from ttc.checkpoint.index import IndexEntry, WeightSource, find_pending, link_weights
from ttc.checkpoint.names import bind
from ttc.checkpoint.tokenizer import eos_token_ids, write_tokenizer
from ttc.compile import Compiled, compile_model, plan_spec
from ttc.errors import ArtefactError, Problem, TtcError, UsageError
from ttc.hardware.hardware import load_mesh
from ttc.plan.plan import Plan
from ttc.runtime.artefact import (
    Artefact,
    CheckpointFacts,
    KvLayout,
    Manifest,
    MeshFacts,
    WeightFile,
    file_facts,
    new_artefact,
    read_artefact,
    ttc_version,
    ttnn_version,
    write_manifest,
)
from ttc.spec.model import ModelSpec, load_model
from ttc.spec.precision import load_profile

if TYPE_CHECKING:
    from ttc.runtime.model import Model
    from ttc.verify.report import Report

type Backends = Literal["all", "mock", "emulate"]

DEFAULT_MESH = "N150"
DEFAULT_PRECISION = "performance"
DEFAULT_CACHE = Path("~/.cache/ttc")
"""Converted weights, reference logits, and what the mock mesh keeps; safe to delete."""


class Progress(Protocol):
    """Called as a long step goes on; `total` 0 means that nobody knows how much there is."""

    def __call__(self, step: str, done: int = 0, total: int = 0) -> None: ...


def silent(step: str, done: int = 0, total: int = 0) -> None:
    """No progress is shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a spec is compiled for.

    context               tokens per user; None: as many as a conversation needs and as fit
    prefill_chunk_tokens  tokens of one prefill; None: the spec's value for the mesh, or what fits
    """

    mesh: str = DEFAULT_MESH
    precision: str = DEFAULT_PRECISION
    batch: int = 1
    context: int | None = None
    prefill_chunk_tokens: int | None = None


def plan(spec: str | Path, target: Target | None = None) -> Plan:
    """Every choice that compiling would make, and the memory it takes. Reads no weights."""
    target = target or Target()
    _, chosen = plan_spec(
        load_model(spec),
        load_mesh(target.mesh),
        load_profile(target.precision),
        batch=target.batch,
        context=target.context,
        chunk=target.prefill_chunk_tokens,
    )
    return chosen


def compile(
    spec: str | Path,
    *,
    mesh: str = DEFAULT_MESH,
    precision: str = DEFAULT_PRECISION,
    batch: int = 1,
    context: int | None = None,
    prefill_chunk_tokens: int | None = None,
    out: str | Path | None = None,
    weights: str | None = None,
    no_weights: bool = False,
    cache: str | Path = DEFAULT_CACHE,
    progress: Progress = silent,
) -> Artefact:
    """Plan, emit and convert weights: an artefact folder that needs nothing else to run.

    spec     a YAML file, or the name of one in specs/
    out      the folder to write; build/SPEC-MESH-PRECISION if not given. It appears when it is
             complete; an artefact that is there is replaced then, anything else is refused
    weights  a Hugging Face folder or id, a .gguf file or package:NAME/FILE; the spec's own if not
             given, and the hub if the spec has none
    cache    converted weights are kept here and linked into artefacts

    Raises SpecError, PlanError, CheckpointError, ArtefactError or UsageError.
    """
    progress("planning")
    model = load_model(spec)
    compiled = compile_model(
        model,
        load_mesh(mesh),
        load_profile(precision),
        batch=batch,
        context=context,
        chunk=prefill_chunk_tokens,
    )
    out = Path(out or f"build/{model.name}-{mesh.replace(':', '-')}-{compiled.plan.profile}")
    cache = Path(cache).expanduser()
    with new_artefact(out) as folder:
        (folder / "model.py").write_text(compiled.module)
        (folder / "plan.yaml").write_text(compiled.plan_yaml)
        files = ["model.py", "plan.yaml"]
        manifest = _manifest(model, compiled)
        if not no_weights:
            source = weights or default_weights(model)
            progress("opening the checkpoint")
            checkpoint = open_checkpoint(source)
            index = _convert(model, compiled, checkpoint, folder, cache, progress)
            files += write_tokenizer(checkpoint, folder)
            manifest = replace(
                manifest,
                checkpoint=CheckpointFacts(
                    description=checkpoint.description, fingerprint=checkpoint.fingerprint
                ),
                weights={
                    entry.name: WeightFile(
                        file=entry.file, bytes=entry.size_bytes, sha256=entry.sha256
                    )
                    for entry in index
                },
                eos_ids=eos_token_ids(folder),
            )
            _remember(cache, checkpoint.fingerprint, spec=spec, weights=source)
        facts = {name: file_facts(folder / name) for name in sorted(files)}
        write_manifest(folder, replace(manifest, files=facts))
    return read_artefact(out, need_weights=False)


def load(
    artefact: Artefact | str | Path,
    *,
    backend: str = "auto",
    mesh: str = "",
    simulator: bool = False,
) -> "Model":
    """A compiled model, ready to be asked. Close it, or use it as a context manager.

    backend    auto takes a device if there is one, else the emulator; see `Model.backend`
    mesh       refuse an artefact that was built for another mesh
    simulator  a simulated device is set up; auto then takes it
    """
    from ttc.runtime.backends import choose_backend
    from ttc.runtime.model import Model

    found = opened(artefact, mesh=mesh)
    name, _ = choose_backend(backend, simulator=simulator)
    return Model(found, name)


def opened(
    artefact: Artefact | str | Path, *, mesh: str = "", need_weights: bool = True
) -> Artefact:
    """The artefact, checked as it is on disk now."""
    folder = artefact.folder if isinstance(artefact, Artefact) else Path(artefact)
    return read_artefact(folder, mesh=mesh, need_weights=need_weights)


def verify(
    artefact: Artefact | str | Path,
    *,
    backend: Backends = "all",
    mesh: str = "",
    weights: str | None = None,
    cache: str | Path = DEFAULT_CACHE,
    progress: Progress = silent,
) -> "Report":
    """Check an artefact: real ttnn on a mock mesh, and its numbers against Hugging Face in fp32.

    backend  mock, emulate or all; an artefact without weights can only be checked on mock
    weights  where the checkpoint is, if it is not where it was when the artefact was compiled
    """
    from ttc.verify.report import Report, verify_on_emulator, verify_on_mock

    found = opened(artefact, mesh=mesh, need_weights=backend == "emulate")
    cache = Path(cache).expanduser()
    mock = emulate = None
    if backend != "emulate":
        progress("checking on a mock mesh")
        mock = verify_on_mock(found, cache / "mock")
    if backend != "mock" and found.manifest.weights is not None:
        spec, checkpoint = _checkpoint_of(found, cache, weights)
        emulate = verify_on_emulator(found, spec, checkpoint, cache / "reference", progress)
    return Report(mock=mock, emulate=emulate)


def default_weights(spec: ModelSpec) -> str:
    """Where a spec's checkpoint is when nobody says: where the spec says, else on the hub."""
    return spec.weights or spec.model


def _manifest(spec: ModelSpec, compiled: Compiled) -> Manifest:
    chosen = compiled.plan
    mesh = load_mesh(chosen.mesh)
    return Manifest(
        ttc=ttc_version(),
        ttnn=ttnn_version(),
        name=spec.name,
        model=spec.model,
        mesh=MeshFacts(name=mesh.name, shape=(mesh.rows, mesh.cols)),
        precision=chosen.profile,
        batch=chosen.batch,
        context=chosen.context,
        kv=KvLayout(
            block_tokens=chosen.kv_cache.block_tokens,
            blocks=chosen.kv_cache.blocks,
            dtypes=chosen.kv_cache.dtypes,
        ),
        buckets=chosen.buckets,
        trace_region_bytes=chosen.memory.trace_region_bytes,
        plan=compiled.fingerprint,
        eos_ids=(),
        files={},
    )


def _convert(
    spec: ModelSpec,
    compiled: Compiled,
    checkpoint: Checkpoint,
    folder: Path,
    cache: Path,
    progress: Progress,
) -> Sequence[IndexEntry]:
    """Convert what the cache lacks, in a process that has the real ttnn, and link all of it."""
    source = WeightSource(checkpoint=checkpoint, binding=bind(spec, checkpoint))
    weights = WeightCache(cache / "weights")
    pending = find_pending(compiled.plan.weights, source, weights)
    if pending:
        from ttc.checkpoint.convert import Progress as Converted
        from ttc.checkpoint.convert import convert_weights
        from ttc.verify.mock_mesh import host_ttnn

        def show(converted: Converted) -> None:
            progress("converting weights", converted.done_bytes, converted.total_bytes)

        job = partial(convert_weights, pending=pending, source=source, cache=weights)
        host_ttnn(job, work_folder=cache / "mock", on_progress=show)
    return link_weights(compiled.plan.weights, source, weights, folder)


def _remember(cache: Path, fingerprint: str, *, spec: str | Path, weights: str) -> None:
    """Note where a checkpoint is, for verification; an artefact itself holds no path."""
    path = _note(cache, fingerprint)
    path.parent.mkdir(parents=True, exist_ok=True)
    place = str(Path(weights).expanduser().absolute()) if Path(weights).exists() else weights
    named = str(Path(spec).absolute()) if Path(spec).is_file() else str(spec)
    path.write_text(json.dumps({"spec": named, "weights": place}, sort_keys=True))


def _note(cache: Path, fingerprint: str) -> Path:
    return cache / "checkpoints" / f"{fingerprint}.json"


def _checkpoint_of(
    artefact: Artefact, cache: Path, weights: str | None
) -> tuple[ModelSpec, Checkpoint]:
    """The checkpoint an artefact was made from, and the spec that names its tensors."""
    facts = artefact.manifest.checkpoint
    assert facts is not None, "an artefact with weights names its checkpoint"
    path = _note(cache, facts.fingerprint)
    note = json.loads(path.read_text()) if path.exists() else {}
    source = weights or note.get("weights") or facts.description
    try:
        checkpoint = open_checkpoint(source)
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
