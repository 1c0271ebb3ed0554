"""Both verdicts on an artefact, and how they are reached."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttc.checkpoint.files import Checkpoint
from ttc.hardware.hardware import load_mesh
from ttc.progress import Progress
from ttc.runtime.artefact import Artefact
from ttc.runtime.model import Model
from ttc.spec.model import ModelSpec
from ttc.verify.emulated import EmulatorVerdict, check_logits, score_text
from ttc.verify.mock_mesh import MockHost
from ttc.verify.mock_program import MockReport, verify_program
from ttc.verify.reference import TEXT, reference_logits


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the mock mesh and the emulator say; None where they were not asked."""

    mock: MockReport | None = None
    emulate: EmulatorVerdict | None = None

    @property
    def ok(self) -> bool:
        return all(verdict.ok for verdict in (self.mock, self.emulate) if verdict is not None)

    def to_json(self) -> dict[str, Any]:
        """What `ttc verify --json` prints."""
        return {
            "mock": self.mock.to_json() if self.mock else None,
            "emulate": self.emulate.to_json() if self.emulate else None,
        }


def verify_both(
    *,
    mock: Callable[[], MockReport] | None,
    emulate: Callable[[], EmulatorVerdict] | None,
    progress: Progress,
) -> Report:
    """Carry out both checks side by side, as the mock mesh is a process of its own."""
    with ThreadPoolExecutor(max_workers=1) as beside:
        pending = beside.submit(mock) if mock else None
        verdict = emulate() if emulate else None
        progress("checking on a mock mesh")
        return Report(mock=pending.result() if pending else None, emulate=verdict)


def verify_on_mock(artefact: Artefact, work_folder: Path) -> MockReport:
    """Whether the real ttnn accepts the program on a mock of its mesh, and whether it fits."""
    with MockHost(work_folder) as host:
        return verify_on_host(artefact, host)


def verify_on_host(artefact: Artefact, host: MockHost) -> MockReport:
    """As `verify_on_mock`, in a process that has imported ttnn already."""
    manifest = artefact.manifest
    return verify_program(
        artefact.program,
        load_mesh(manifest.mesh.name),
        host=host,
        trace_region_bytes=manifest.trace_region_bytes,
    )


def verify_on_emulator(
    model: Model,
    spec: ModelSpec,
    checkpoint: Checkpoint,
    cache: Path,
    progress: Progress,
    token_ids: Sequence[int] = (),
) -> EmulatorVerdict:
    """Whether the program computes what Hugging Face computes in float32 on the same checkpoint.

    The true tokens are read one after another, whatever the program prefers; without `token_ids`
    they are those of the text that comes with ttc, as many as the context holds. Reference logits
    are kept in `cache`.
    """
    token_ids = token_ids or model.tokenizer.encode(TEXT.read_text().strip())
    token_ids = token_ids[: model.session.program.CONTEXT]
    progress("computing reference logits")
    reference = reference_logits(spec, checkpoint, token_ids, cache)

    def on_token(done: int) -> None:
        progress("running on the emulator", done, len(token_ids))

    on_token(0)
    return check_logits(score_text(model.session, token_ids, on_token), reference)
