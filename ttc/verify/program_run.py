"""The job of `verify_program`: runs in the child, with the real ttnn and a mock device."""

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from ttc.runtime.backends import Backend
from ttc.runtime.program import Program, load_program
from ttc.verify.call_recorder import (
    CallRecorder,
    DeviceCall,
    Memory,
    Recording,
    Unfreed,
)
from ttc.verify.finding import MockFinding, finding_of

_TILE_ROWS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseRun:
    """One run of an entry point. `leaked` is what its end did not give back."""

    name: str
    calls: tuple[DeviceCall, ...]
    peak: Memory
    leaked: Memory
    unfreed: tuple[Unfreed, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramRun:
    """`resident` is in use between steps: weights, caches, inputs."""

    findings: tuple[MockFinding, ...]
    phases: tuple[PhaseRun, ...]
    resident: Memory


@dataclass(slots=True, kw_only=True)
class _Run:
    """What a run has gathered so far."""

    backend: Backend
    report: Callable[[str], None]
    findings: list[MockFinding] = field(default_factory=list[MockFinding])

    @property
    def ttnn(self) -> Any:
        return self.backend.ttnn

    def row_major(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """A tensor of unknown content: no data is made on the host."""
        ttnn = self.ttnn
        return self.backend.allocate((shape, dtype, ttnn.ROW_MAJOR_LAYOUT, ttnn.DRAM_MEMORY_CONFIG))

    def integers(self, values: list[int]) -> Any:
        """A tensor of int32 whose values matter."""
        torch = import_module("torch")
        return self.backend.put(torch.tensor(values, dtype=torch.int32), "int32")

    def phase[Value](self, name: str, work: Callable[[], Value]) -> Value | None:
        """The value of `work`, or None and one more finding when ttnn refused a call in it."""
        self.report(name)
        try:
            return work()
        except Exception as error:
            finding = finding_of(error, Path(str(self.ttnn.__file__)).parent)
            if finding is None:
                raise
            self.findings.append(replace(finding, phase=name))
            error.__traceback__ = None  # its frames hold tensors
        gc.collect()
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Inputs:
    """The tensors that a session keeps between steps."""

    weights: SimpleNamespace
    caches: list[tuple[Any, Any]]
    tokens: Any
    positions: Any
    rope_positions: Any
    page_table: Any
    how: Any


def run_program(
    path: Path, ttnn: ModuleType, device: Any, report: Callable[[str], None]
) -> ProgramRun:
    """Allocate all a program needs, run each entry point, and say what happened.

    On a mesh of several replicas one of them runs, as all would do the same.
    """
    run = _Run(backend=Backend(ttnn=ttnn, device=device), report=report)
    nothing = ProgramRun(findings=(), phases=(), resident=Memory(dram=0, l1=0))
    program = run.phase("load", partial(load_program, path, ttnn))
    if program is None:
        return replace(nothing, findings=tuple(run.findings))
    run.backend = run.backend.replicas(program.MESH_SHAPE)[0]
    inputs = run.phase("weights, caches and inputs", partial(_allocate, run, program))
    if inputs is None:
        return replace(nothing, findings=tuple(run.findings))
    recorder = CallRecorder(ttnn, run.backend.device, path, inputs.caches)
    setattr(program, "ttnn", recorder)  # noqa: B010  the functions of the module find it there
    resident = recorder.in_use()
    work = {
        each.name: partial(_run_prefill, run, program, inputs, recorder, each)
        for each in _prefills(program)
    }
    work["decode"] = partial(_run_decode, program, inputs, recorder)
    work["sample"] = partial(_run_draw, program, inputs, recorder)
    done = [run.phase(name, phase) for name, phase in work.items()]
    return ProgramRun(
        findings=tuple(run.findings),
        phases=tuple(phase for phase in done if phase is not None),
        resident=resident,
    )


def _allocate(run: _Run, program: Program) -> _Inputs:
    ttnn, empty = run.ttnn, run.backend.allocate
    weights = SimpleNamespace(
        **{name: empty(facts) for name, facts in program.MODEL_WEIGHTS.items()},
        **{name: empty(facts) for name, facts in program.BUFFERS.items()},
        decoders=[
            SimpleNamespace(**{name: empty(facts) for name, facts in layer.items()})
            for layer in program.DECODER_WEIGHTS
        ],
        device=run.backend.device,
        semaphores=run.backend.semaphores(program.SEMAPHORES),
    )
    return _Inputs(
        weights=weights,
        caches=[(empty(k), empty(v)) for k, v in program.CACHES],
        tokens=run.row_major((1, 1, 1, _TILE_ROWS), ttnn.uint32),
        positions=run.row_major((program.BATCH,), ttnn.int32),
        rope_positions=run.row_major((1, program.ROPE_POSITIONS), ttnn.uint32),
        page_table=run.row_major((program.BATCH, program.CONTEXT // program.KV_BLOCK), ttnn.int32),
        how=SimpleNamespace(**{name: empty(facts) for name, facts in program.SAMPLING.items()}),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prefill:
    """A program that reads `tokens` of each of `prompts`, from `start` on if one is given."""

    name: str
    entry: Callable[..., Any]
    prompts: int
    tokens: int
    start: int | None = None


def _prefills(program: Program) -> Iterator[_Prefill]:
    """All of them; those of later chunks from the first start and from the last of a context."""
    alone = {(1, tokens): entry for tokens, entry in program.PREFILL.items()}
    for (prompts, tokens), entry in (alone | dict(program.PREFILL_PROMPTS)).items():
        name = f"prefill_{_size(prompts, tokens)}"
        yield _Prefill(name=name, entry=entry, prompts=prompts, tokens=tokens)
    alone = {(1, tokens): entry for tokens, entry in program.PREFILL_CHUNK.items()}
    for (prompts, tokens), entry in (alone | dict(program.PREFILL_CHUNK_PROMPTS)).items():
        last = max(0, program.CONTEXT - tokens) // program.CHUNK_START * program.CHUNK_START
        for start in dict.fromkeys((0, last)):
            name = f"prefill_chunk_{_size(prompts, tokens)} from {start}"
            yield _Prefill(name=name, entry=entry, prompts=prompts, tokens=tokens, start=start)


def _size(prompts: int, tokens: int) -> str:
    return f"{tokens}" if prompts == 1 else f"{prompts}x{tokens}"


def _run_prefill(
    run: _Run, program: Program, inputs: _Inputs, recorder: CallRecorder, what: _Prefill
) -> PhaseRun:
    """One chunk of each prompt, and the head on its first rows or on the last of each.

    A second one where the first left something: ttnn keeps the semaphores of a collective from its
    first run on, and only what the second leaves would grow with every prompt.
    """
    uint32, int32 = run.ttnn.uint32, run.ttnn.int32
    prompts, tokens, start = what.prompts, what.tokens, what.start
    given = [
        run.row_major((1, prompts * tokens), uint32),
        run.row_major((1, tokens), uint32),
        run.row_major((prompts, -(-tokens // program.KV_BLOCK)), int32),
    ]
    last, user = None, list[int]()
    if prompts > 1:
        given.append(run.row_major((prompts,), int32))
        last = run.row_major((1, _TILE_ROWS), uint32)
    else:
        user = [0] if start is None else [0, start]
    if start is not None:
        given += [run.integers([start]), run.row_major((prompts, program.PAGES), int32)]

    def step() -> None:
        x = what.entry(*given, *user, inputs.caches, inputs.weights)
        if last is None:
            logits = program.head_prefill(x, 0, inputs.weights)
        else:
            logits = program.head_prompts(x, last, inputs.weights)
        recorder.deallocate(x)
        recorder.deallocate(logits)

    inputs_only = recorder.in_use()
    seen = _record(recorder, step)
    after = recorder.in_use()
    if after != inputs_only:
        inputs_only = after
        step()
        after = recorder.in_use()
    for tensor in (*given, *([] if last is None else [last])):
        run.ttnn.deallocate(tensor)
    return _phase_run(what.name, seen, after, inputs_only)


def _run_decode(program: Program, inputs: _Inputs, recorder: CallRecorder) -> PhaseRun:
    """Two steps: the second finds every program in the cache, as all later ones do."""

    def step() -> None:
        logits = _decode(program, inputs)
        program.greedy(logits, inputs.tokens)
        program.advance(inputs.positions, inputs.rope_positions)
        recorder.deallocate(logits)

    return _second_of("decode", recorder, step)


def _run_draw(program: Program, inputs: _Inputs, recorder: CallRecorder) -> PhaseRun:
    """What follows a decode step whose tokens are drawn: the second of two, for the same reason."""
    logits = _decode(program, inputs)

    def draw() -> None:
        for made in (
            *program.sample(logits, inputs.tokens, inputs.how),
            *program.logprobs(logits),
        ):
            recorder.deallocate(made)
        program.advance(inputs.positions, inputs.rope_positions)

    seen = _second_of("sample", recorder, draw)
    recorder.deallocate(logits)
    return seen


def _decode(program: Program, inputs: _Inputs) -> Any:
    return program.decode(
        inputs.tokens,
        inputs.positions,
        inputs.rope_positions,
        inputs.page_table,
        inputs.caches,
        inputs.weights,
    )


def _second_of(name: str, recorder: CallRecorder, work: Callable[[], None]) -> PhaseRun:
    _record(recorder, work)
    before = recorder.in_use()
    seen = _record(recorder, work)
    return _phase_run(name, seen, recorder.in_use(), before)


def _record(recorder: CallRecorder, step: Callable[[], None]) -> Recording:
    with recorder.recording() as result:
        step()
    return result()


def _phase_run(name: str, seen: Recording, after: Memory, before: Memory) -> PhaseRun:
    return PhaseRun(
        name=name,
        calls=seen.calls,
        peak=seen.peak,
        leaked=Memory(dram=after.dram - before.dram, l1=after.l1 - before.l1),
        unfreed=seen.unfreed,
    )
