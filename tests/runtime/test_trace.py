"""Steps are compiled, recorded and replayed, and the host writes nothing in between."""

from types import SimpleNamespace
from typing import Any

import pytest

from ttc.runtime.backends import Backend
from ttc.runtime.trace import Traced

pytestmark = pytest.mark.fast


class Device:
    """Runs commands at once, or records them for later."""

    def __init__(self) -> None:
        self.traces: list[list[Any]] = []
        self.recording: list[Any] | None = None
        self.log: list[str] = []

    def run(self, name: str) -> str:
        if self.recording is None:
            self.log.append(name)
        else:
            self.recording.append(name)
        return f"result of {name}"

    def begin_trace_capture(self, device: Any, *, cq_id: int) -> int:
        self.recording = []
        self.log.append("begin")
        return len(self.traces)

    def end_trace_capture(self, device: Any, trace: int, *, cq_id: int) -> None:
        assert self.recording is not None
        self.traces.append(self.recording)
        self.recording = None
        self.log.append("end")

    def execute_trace(self, device: Any, trace: int, *, cq_id: int, blocking: bool) -> None:
        self.log += self.traces[trace]


def backend_of(device: Device, *, traces: bool) -> Backend:
    names = ("begin_trace_capture", "end_trace_capture", "execute_trace")
    ttnn: Any = SimpleNamespace(**{name: getattr(device, name) for name in names})
    return Backend(ttnn=ttnn, device=object(), traces=traces)


def test_work_is_compiled_then_recorded_then_replayed() -> None:
    device = Device()
    calls: list[str] = []

    def work() -> str:
        calls.append("host")
        return device.run("decode")

    step = Traced(backend=backend_of(device, traces=True), work=work)
    results = [step()]
    assert not step.keeps_result
    results += [step(), step(), step()]
    assert step.keeps_result
    assert results == ["result of decode"] * 4
    assert calls == ["host"] * 2
    assert device.log == ["decode", "begin", "end", "decode", "decode", "decode"]


def test_without_traces_the_host_does_every_step() -> None:
    device = Device()
    step = Traced(backend=backend_of(device, traces=False), work=lambda: device.run("decode"))
    for _ in range(3):
        step()
    assert device.log == ["decode"] * 3
    assert not step.keeps_result


def test_a_recording_that_fails_is_ended() -> None:
    """A device that is still recording runs nothing."""
    device = Device()

    def work() -> None:
        if device.recording is not None:
            raise ValueError("not in a recording")

    step = Traced(backend=backend_of(device, traces=True), work=work)
    step()
    with pytest.raises(ValueError, match="not in a recording"):
        step()
    assert device.recording is None
