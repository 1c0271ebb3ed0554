"""verify_program: does the real ttnn accept an emitted program, and does it fit?"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ttc.hardware.hardware import Mesh
from ttc.verify.call_recorder import DeviceCall
from ttc.verify.finding import MockFinding
from ttc.verify.mock_mesh import MockHost
from ttc.verify.program_run import PhaseRun, run_program
from ttc.verify.program_text import check_calls, kept_values, step_of


@dataclass(frozen=True, slots=True, kw_only=True)
class MockReport:
    """What the real ttnn says about a program, without hardware.

    `decode`, `prefill` and `prefill_chunk` (a chunk that continues a prompt) list the device
    operations of one decoder, the one with most of them over all layers and buckets, as
    `linear:123 MatmulDeviceOperation` with the line of the program. DRAM is per chip:
    `dram_bytes` holds weights, caches and inputs; the peak is reached
    during a step. L1 is per core: tensors, circular and dataflow buffers at their worst moment.
    """

    findings: tuple[MockFinding, ...]
    decode: tuple[str, ...]
    prefill: tuple[str, ...]
    prefill_chunk: tuple[str, ...]
    decode_step_ops: int
    sample_ops: int
    dram_bytes_per_chip: int
    dram_peak_bytes_per_chip: int
    l1_peak_bytes_per_core: int
    l1_peak_call: str
    l1_tensor_peak_bytes_per_core: int

    @property
    def ok(self) -> bool:
        return not self.findings

    @property
    def _by_kind(self) -> dict[str, tuple[str, ...]]:
        return {
            "decode": self.decode,
            "prefill": self.prefill,
            "prefill_chunk": self.prefill_chunk,
        }

    def to_json(self) -> dict[str, Any]:
        """The value of "mock" in what `ttc verify --json` prints."""
        return {
            "ok": self.ok,
            "findings": [asdict(finding) for finding in self.findings],
            "device_ops_per_decoder": {name: len(ops) for name, ops in self._by_kind.items()},
            "device_ops": {name: list(ops) for name, ops in self._by_kind.items()},
            "device_ops_per_decode_step": self.decode_step_ops,
            "device_ops_per_draw": self.sample_ops,
            "dram_bytes_per_chip": self.dram_bytes_per_chip,
            "dram_peak_bytes_per_chip": self.dram_peak_bytes_per_chip,
            "l1_peak_bytes_per_core": self.l1_peak_bytes_per_core,
            "l1_peak_call": self.l1_peak_call,
            "l1_tensor_peak_bytes_per_core": self.l1_tensor_peak_bytes_per_core,
        }


def verify_program(
    program: Path,
    mesh: Mesh,
    *,
    host: MockHost,
    trace_region_bytes: int = 0,
    timeout_seconds: float | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> MockReport:
    """Run every entry point of the emitted module at `program` on a mock of `mesh`.

    `on_progress` is called with the name of each phase as it begins. Raises MockCrash when ttnn
    crashed or did not finish, which is no verdict on the program.
    """
    program = program.absolute()
    run = host.run(
        mesh,
        partial(run_program, program),
        trace_region_bytes=trace_region_bytes,
        timeout_seconds=timeout_seconds,
        on_progress=on_progress or _ignore,
    )
    findings = [*check_calls(program), *run.findings]
    for phase in run.phases:
        findings += _memory_findings(program, phase)
    chunks = [phase for phase in run.phases if phase.name.startswith("prefill_chunk")]
    prefill = [
        each for each in run.phases if each.name.startswith("prefill") and each not in chunks
    ]
    decode, sample = (
        [phase for phase in run.phases if phase.name == name] for name in ("decode", "sample")
    )
    calls = [call for phase in run.phases for call in phase.calls]
    worst = max(calls, key=lambda call: call.l1_bytes_per_core, default=None)
    return MockReport(
        findings=tuple(replace(each, step=step_of(program, each.where)) for each in findings),
        decode=_decoder_operations(decode),
        prefill=_decoder_operations(prefill),
        prefill_chunk=_decoder_operations(chunks),
        decode_step_ops=_operations(decode),
        sample_ops=_operations(sample),
        dram_bytes_per_chip=run.resident.dram,
        dram_peak_bytes_per_chip=max(
            (phase.peak.dram for phase in run.phases), default=run.resident.dram
        ),
        l1_peak_bytes_per_core=worst.l1_bytes_per_core if worst else run.resident.l1,
        l1_peak_call=f"{_short_name(worst)} in {worst.function}" if worst else "",
        l1_tensor_peak_bytes_per_core=max(
            (phase.peak.l1 for phase in run.phases), default=run.resident.l1
        ),
    )


def _ignore(_phase: str) -> None:
    """Progress that nobody asked for."""


def _short_name(call: DeviceCall) -> str:
    return f"{call.name.removeprefix('ttnn.')}:{call.line}"


def _operations(phases: list[PhaseRun]) -> int:
    return sum(len(call.operations) for phase in phases for call in phase.calls)


def _decoder_operations(phases: list[PhaseRun]) -> tuple[str, ...]:
    """The device operations of the decoder that has most of them."""
    by_layer: list[list[str]] = [[]]
    for phase in phases:
        layers: dict[int, list[DeviceCall]] = {}
        for call in phase.calls:
            layers.setdefault(call.layer, []).append(call)
        by_layer += [
            [f"{_short_name(call)} {operation}" for call in calls for operation in call.operations]
            for layer, calls in layers.items()
            if layer >= 0
        ]
    return tuple(max(by_layer, key=len))


def _memory_findings(program: Path, phase: PhaseRun) -> list[MockFinding]:
    """Memory that a step keeps, and values that it does not free itself."""
    findings: list[MockFinding] = []
    for buffer, leaked in (("DRAM per chip", phase.leaked.dram), ("L1 per core", phase.leaked.l1)):
        if leaked > 0:
            findings.append(
                MockFinding(
                    kind="leak",
                    info=f"{leaked} bytes of {buffer} are still in use when the step is over",
                    phase=phase.name,
                )
            )
    for unfreed in phase.unfreed:
        values = " and ".join(kept_values(program, unfreed.function)) or "a value"
        sizes = [
            f"{size} bytes of {buffer}"
            for buffer, size in (
                ("DRAM per chip", unfreed.memory.dram),
                ("L1 per core", unfreed.memory.l1),
            )
            if size > 0
        ]
        findings.append(
            MockFinding(
                kind="not freed",
                info=f"{values} of {unfreed.function} is not deallocated: {' and '.join(sizes)} "
                f"stay in use until it returns",
                where=f"{program.name}:{unfreed.line}",
                phase=phase.name,
            )
        )
    return findings
