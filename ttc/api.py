"""What users call from Python: plan, compile, load, verify.

Torch, ttnn's host process and the tokenizers are imported by the calls that need them, so that
planning starts in a fraction of a second.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ttc.compiler import Compiled, compile_model, plan_spec
from ttc.errors import PlanError, Problem, UsageError
from ttc.hardware.hardware import Topology, load_mesh, shipped_mesh_names, with_wires
from ttc.plan.limits import check_ring
from ttc.plan.paging import Paging
from ttc.plan.plan import Plan
from ttc.progress import Progress, silent
from ttc.runtime.artefact import (
    Artefact,
    file_facts,
    is_artefact,
    new_artefact,
    read_artefact,
    ttc_version,
    ttnn_version,
)
from ttc.runtime.backends import choose_backend
from ttc.runtime.manifest import KvLayout, Manifest, MeshFacts, write_manifest
from ttc.runtime.request import Serving
from ttc.scratch import scratch_folder, work_folder
from ttc.spec import library
from ttc.spec.model import ModelSpec, load_model
from ttc.spec.precision import PrecisionProfile, load_profile

if TYPE_CHECKING:
    from ttc.accuracy.run import AccuracyReport, AccuracySettings
    from ttc.runtime.model import Model
    from ttc.verify.emulated import EmulatorVerdict
    from ttc.verify.report import Report

type Backends = Literal["all", "mock", "emulate"]

DEFAULT_MESH = shipped_mesh_names()[0]
"""The first board of meshes.yaml."""

DEFAULT_PRECISION = "performance"
DEFAULT_CACHE = Path("~/.cache/ttc")
"""Converted weights, reference logits, and what the mock mesh keeps; safe to delete."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a spec is compiled for.

    context               tokens per user; None: as many as a conversation needs and as fit
    prefill_chunk_tokens  tokens of one prefill; None: the spec's value for the mesh, or what fits
    tp                    chips that share one user; None: the spec's value, or the planner's choice
    topology, links       what collectives may use of the mesh's wires; None: all there are
    paging                blocks of the KV caches; None: of 32 tokens, for every context
    """

    mesh: str = DEFAULT_MESH
    precision: str | PrecisionProfile = DEFAULT_PRECISION
    batch: int = 1
    context: int | None = None
    prefill_chunk_tokens: int | None = None
    tp: int | None = None
    topology: Topology | None = None
    links: int | None = None
    paging: Paging | None = None


def plan(spec: str | Path, target: Target | None = None) -> Plan:
    """Every choice that compiling would make, and the memory it takes. Reads no weights."""
    target = target or Target()
    _, chosen = plan_spec(
        load_model(spec),
        with_wires(load_mesh(target.mesh), topology=target.topology, links=target.links),
        _profile(target.precision),
        batch=target.batch,
        context=target.context,
        chunk=target.prefill_chunk_tokens,
        tp=target.tp,
        paging=target.paging,
    )
    if target.topology == "ring":
        check_ring(chosen)
    return chosen


def compile(
    spec: str | Path,
    *,
    mesh: str = DEFAULT_MESH,
    precision: str | PrecisionProfile = DEFAULT_PRECISION,
    batch: int = 1,
    context: int | None = None,
    prefill_chunk_tokens: int | None = None,
    tp: int | None = None,
    topology: Topology | None = None,
    links: int | None = None,
    page_block_size: int = 32,
    max_blocks: int | None = None,
    out: str | Path | None = None,
    weights: str | None = None,
    no_weights: bool = False,
    copy_weights: bool = False,
    verify_weights: bool = False,
    cache: str | Path = DEFAULT_CACHE,
    progress: Progress = silent,
) -> Artefact:
    """Plan, emit and convert weights: an artefact folder that needs nothing else to run.

    spec     a YAML file, or the name of one in specs/; of a model that has none the checkpoint,
             a Hugging Face folder or id, as long as `ttc new` leaves nothing open
    batch    users of one replica; a mesh has as many replicas as `tp` chips fit into it
    tp       chips that share one user; the spec's or the planner's choice if not given
    topology, links  what collectives may use of the mesh's wires; all there are if not given
    page_block_size  tokens of a block of the KV caches: 32, 64, 128, ...
    max_blocks  blocks that the users of a replica share; every user's whole context if not given
    out      the folder to write; build/SPEC-MESH-PRECISION if not given. It appears when it is
             complete; an artefact that is there is replaced then, anything else is refused
    weights  a Hugging Face folder or id, a .gguf file or package:NAME/FILE; the spec's own if not
             given, and the hub if the spec has none
    no_weights      only the program; an artefact that has weights is not replaced by one without
    copy_weights    the artefact gets files of its own, not links to those of the cache
    verify_weights  compare every byte of cached weights, not only sizes and first bytes
    cache    converted weights are kept here and linked into artefacts

    Raises SpecError, PlanError, CheckpointError, ArtefactError or UsageError.
    """
    progress("planning")
    cache = Path(cache).expanduser()
    spec = named_spec(spec, cache)
    model = load_model(spec)
    compiled = compile_model(
        model,
        with_wires(load_mesh(mesh), topology=topology, links=links),
        _profile(precision),
        batch=batch,
        context=context,
        chunk=prefill_chunk_tokens,
        tp=tp,
        paging=Paging(block_tokens=page_block_size, max_blocks=max_blocks),
    )
    if topology == "ring":
        check_ring(compiled.plan)
    out = Path(out or f"build/{model.name}-{mesh.replace(':', '-')}-{compiled.plan.profile}")
    if no_weights:
        _keep_weights(out)
    with new_artefact(out) as folder:
        (folder / "model.py").write_text(compiled.module)
        (folder / "plan.yaml").write_text(compiled.plan_yaml)
        files = ["model.py", "plan.yaml"]
        manifest = _manifest(model, compiled)
        if not no_weights:
            from ttc.weights import add_weights

            added = add_weights(
                compiled,
                folder,
                named=spec,
                location=weights or default_weights(model),
                cache=cache,
                copy=copy_weights,
                verify=verify_weights,
                progress=progress,
            )
            files += added.tokenizer_files
            manifest = replace(
                manifest,
                checkpoint=added.checkpoint,
                weights=added.weights,
                eos_ids=added.eos_ids,
            )
        facts = {name: file_facts(folder / name) for name in sorted(files)}
        write_manifest(folder, replace(manifest, files=facts))
    return read_artefact(out, need_weights=False)


def named_spec(wanted: str | Path, cache: str | Path = DEFAULT_CACHE) -> str | Path:
    """A spec as it was named, or the one drafted for a checkpoint that has none.

    UsageError when it is neither, CheckpointError when the draft leaves something open.
    """
    if isinstance(wanted, Path) or wanted.endswith(library.SUFFIXES):
        return wanted
    from ttc.new import spec_or_draft  # 0.3 s that files need not wait for

    return spec_or_draft(wanted, Path(cache).expanduser() / "drafts")


def load(
    artefact: Artefact | str | Path,
    *,
    backend: str = "auto",
    mesh: str = "",
    simulator: bool = False,
    emulator_device: str = "cpu",
    verify_weights: bool = False,
    batch: int | None = None,
    context: int | None = None,
    max_blocks: int | None = None,
    prefix_reuse: bool = True,
) -> "Model":
    """A compiled model, ready to be asked. Close it, or use it as a context manager.

    backend    auto takes a device if there is one, else the emulator; see `Model.backend`
    mesh       refuse an artefact that was built for another mesh
    simulator  a simulated device is set up; auto then takes it
    emulator_device  where torch emulates: cpu, cpu-exact, cuda or cuda:N, see `open_backend`
    verify_weights  compare every byte of the weights with its checksum first
    batch, context, max_blocks, prefix_reuse  use less than the program was compiled for, see
                                              `ttc.runtime.request.Serving`

    Raises ArtefactError, and UsageError for what the machine or the program does not have.
    """
    found = opened(artefact, mesh=mesh, verify_weights=verify_weights)
    name, why = choose_backend(backend, simulator=simulator)
    if backend == "auto":
        logging.getLogger(__name__).warning("running on the backend '%s': %s", name, why)
    from ttc.runtime.model import Model

    serving = Serving(
        batch=batch, context=context, max_blocks=max_blocks, prefix_reuse=prefix_reuse
    )
    return Model(found, name, emulator_device=emulator_device, serving=serving)


def opened(
    artefact: Artefact | str | Path,
    *,
    mesh: str = "",
    need_weights: bool = True,
    verify_weights: bool = False,
) -> Artefact:
    """The artefact, checked as it is on disk now."""
    folder = artefact.folder if isinstance(artefact, Artefact) else Path(artefact)
    return read_artefact(
        folder, mesh=mesh, need_weights=need_weights, verify_weights=verify_weights
    )


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

    Every byte of its files and weights is compared with the manifest first: ArtefactError.

    backend  mock, emulate or all; an artefact without weights can only be checked on mock
    weights  where the checkpoint is, if it is not where it was when the artefact was compiled
    """
    found = opened(artefact, mesh=mesh, need_weights=backend == "emulate", verify_weights=True)
    cache = Path(cache).expanduser()
    with work_folder(cache) as work:
        return _verify(found, cache, work, backend=backend, weights=weights, progress=progress)


def _verify(
    found: Artefact,
    cache: Path,
    work: Path,
    *,
    backend: Backends,
    weights: str | None,
    progress: Progress,
) -> "Report":
    from ttc.verify.report import verify_both, verify_on_emulator, verify_on_mock
    from ttc.weights import checkpoint_of

    def on_emulator() -> "EmulatorVerdict":
        spec, checkpoint = checkpoint_of(found, cache, weights)
        with load(found, backend="emulate") as model:
            return verify_on_emulator(model, spec, checkpoint, work / "reference", progress)

    with_weights = found.manifest.weights is not None
    return verify_both(
        mock=None if backend == "emulate" else partial(verify_on_mock, found, work / "mock"),
        emulate=on_emulator if backend != "mock" and with_weights else None,
        progress=progress,
    )


def verify_meshes(
    spec: str | Path,
    meshes: Sequence[str],
    *,
    precision: str | PrecisionProfile = DEFAULT_PRECISION,
    batch: int = 1,
    context: int | None = None,
    tp: int | None = None,
    cache: str | Path = DEFAULT_CACHE,
    progress: Progress = silent,
) -> "Iterator[tuple[str, Report | PlanError]]":
    """Compile a spec for one mesh after the other and check each program on a mock of it.

    A spec that does not fit a mesh gives its PlanError in place of the report.
    """
    from ttc.verify.mock_mesh import MockHost
    from ttc.verify.report import Report, verify_on_host

    with (
        work_folder(Path(cache).expanduser()) as folder,
        scratch_folder(folder) as scratch,
        MockHost(folder / "mock") as host,
    ):
        for mesh in meshes:
            out = scratch / mesh.replace(":", "-")
            try:
                artefact = compile(
                    spec,
                    mesh=mesh,
                    precision=precision,
                    batch=batch,
                    context=context,
                    tp=tp,
                    out=out,
                    no_weights=True,
                )
            except PlanError as error:
                yield mesh, error
                continue
            progress(f"checking on a mock {mesh}")
            yield mesh, Report(mock=verify_on_host(artefact, host))


def accuracy(
    artefact: Artefact | str | Path,
    *,
    backend: str = "auto",
    settings: "AccuracySettings | None" = None,
    weights: str | None = None,
    cache: str | Path = DEFAULT_CACHE,
    progress: Progress = silent,
    simulator: bool = False,
) -> "AccuracyReport":
    """Teacher forcing over a text: agreement with Hugging Face, KL divergence, perplexity.

    weights  where the checkpoint is, if it is not where it was when the artefact was compiled
    """
    from ttc.accuracy.run import AccuracySettings, measure

    name, _ = choose_backend(backend, simulator=simulator)
    return measure(
        opened(artefact),
        backend=name,
        settings=settings or AccuracySettings(),
        weights=weights,
        cache=Path(cache).expanduser(),
        progress=progress,
    )


def verify_answer(
    model: "Model",
    prompt: str,
    *,
    weights: str | None = None,
    cache: str | Path = DEFAULT_CACHE,
    progress: Progress = silent,
) -> "Report":
    """As `verify`, with the logits of one prompt instead of a text: seconds, not a minute."""
    from ttc.verify.report import verify_both, verify_on_emulator, verify_on_mock
    from ttc.weights import checkpoint_of

    cache = Path(cache).expanduser()

    def on_emulator() -> "EmulatorVerdict":
        spec, checkpoint = checkpoint_of(model.artefact, cache, weights)
        return verify_on_emulator(
            model, spec, checkpoint, cache / "reference", progress, token_ids=model.encode(prompt)
        )

    return verify_both(
        mock=partial(verify_on_mock, model.artefact, cache / "mock"),
        emulate=on_emulator,
        progress=progress,
    )


def _profile(wanted: str | PrecisionProfile) -> PrecisionProfile:
    return load_profile(wanted) if isinstance(wanted, str) else wanted


def default_weights(spec: ModelSpec) -> str:
    """Where a spec's checkpoint is when nobody says: where the spec says, else on the hub."""
    return spec.weights or spec.model


def _keep_weights(out: Path) -> None:
    """Refuse to replace an artefact with weights by one without."""
    if is_artefact(out) and any((out / "weights").glob("*.tensorbin")):
        raise UsageError(
            Problem(
                message=f"{out} holds weights, which --no-weights would delete",
                help="choose another folder with -o, leave --no-weights out (what is cached is "
                "not converted again), or delete the folder first",
            )
        )


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
