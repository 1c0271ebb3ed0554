"""Run the real ttnn on meshes that are not there.

ttnn 0.81.1 opens a mock cluster from a descriptor file: the allocator, the validation of every
operation and the program factories are the real ones, kernels are not run and reads give zeros.
A process is bound to the first cluster it opens and some calls crash it, so each job runs in a
process of its own; `MockHost` keeps one parent of them alive that has imported ttnn already.

    def grid(ttnn, device):
        size = device.compute_with_storage_grid_size()
        return size.x, size.y

    with MockHost(work_folder) as host:
        host.run(load_mesh("N150"), grid)      # (8, 8)
"""

import inspect
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from multiprocessing import Pipe, current_process
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from ttc.errors import Problem, TtcError
from ttc.hardware.descriptor import HOST_ONLY, cluster_descriptor, mesh_graph_descriptor
from ttc.hardware.hardware import Mesh
from ttc.verify.finding import MockFinding
from ttc.verify.mock_child import PROCESS_NAME, Exit, Message, Opening, Request, Settings
from ttc.verify.overlay import child_environment

_START = """
import sys
from multiprocessing.connection import Connection
sys.path[:] = sys.argv[2:]
from ttc.verify.mock_child import serve
serve(Connection(int(sys.argv[1])))
"""
_LOG_LINES = 12  # shown of what a crashed process printed
_START_SECONDS = 120  # the import takes 2 s, 10 s from a cold disk


class MockRefusal(Exception):
    """ttnn refused a call that the job made; `finding` says which and why."""

    def __init__(self, finding: MockFinding) -> None:
        self.finding = finding
        super().__init__(str(finding))


class MockCrash(TtcError):
    """The process ended by a signal or ran out of time, which says nothing about the program.

    Calls known to crash a mock device: trace capture and replay, wait_for_event, sub-device
    managers, point_to_point. `log` is the end of what the process printed.
    """

    def __init__(self, reason: str, log: str = "") -> None:
        self.reason = reason
        self.log = log
        super().__init__(
            Problem(
                message=f"the mock mesh gave no verdict: {reason}",
                details=tuple(log.strip().splitlines()[-_LOG_LINES:]),
                help="ttnn crashed or hung, which says nothing about the program; run it again, "
                "and report it if it happens again",
            )
        )

    def __reduce__(self) -> tuple[type[TtcError], tuple[Any, ...]]:
        return type(self), (self.reason, self.log)


class MockJobError(Exception):
    """The job itself raised something that is not ttnn's; the text is its traceback."""


class MockHost:
    """One process that has imported ttnn, and runs each job in a fork of itself.

    Kernel cache, runtime root and logs are kept in `work_folder`, which hosts may share. A job is
    a module-level function or a functools.partial of one; its arguments and its value must be
    picklable. Not thread-safe. Jobs raise MockRefusal, MockCrash, MockJobError, or the TtcError
    that the job raised.
    """

    def __init__(self, work_folder: Path) -> None:
        self._work_folder = work_folder.absolute()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def run[Value](
        self,
        mesh: Mesh,
        job: Callable[..., Value],
        *,
        timeout_seconds: float | None = None,
        open_device: bool = True,
        trace_region_bytes: int = 0,
        on_progress: Callable[[Any], None] | None = None,
    ) -> Value:
        """The value of `job(ttnn, device)` on a mock of `mesh`, or of `job(ttnn)` if not opened.

        `trace_region_bytes` of DRAM on each chip are set aside for traces when it is opened.

        With `on_progress` the job gets a further argument `report`, a function of one picklable
        value which is passed on to `on_progress` in this process.
        """
        opening = Opening(
            mesh=mesh.name,
            shape=(mesh.rows, mesh.cols),
            fabric=mesh.fabric,
            trace_region_bytes=trace_region_bytes,
        )
        return self._run(
            job,
            cluster_descriptor(mesh),
            mesh_graph_descriptor(mesh),
            opening if open_device else None,
            timeout_seconds,
            on_progress,
        )

    def run_without_device[Value](
        self,
        job: Callable[..., Value],
        *,
        timeout_seconds: float | None = None,
        on_progress: Callable[[Any], None] | None = None,
    ) -> Value:
        """The value of `job(ttnn)`: ttnn's host side only, such as packing weights."""
        return self._run(job, HOST_ONLY, "", None, timeout_seconds, on_progress)

    def close(self) -> None:
        """End the process, and a job it is running. The next job starts a new one."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def _run[Value](
        self,
        job: Callable[..., Value],
        cluster: str,
        mesh_graph: str,
        opening: Opening | None,
        timeout_seconds: float | None,
        on_progress: Callable[[Any], None] | None,
    ) -> Value:
        module, module_file = _module_of(job)
        try:
            control = self._start()
            with tempfile.TemporaryDirectory() as folder:
                descriptor, graph = Path(folder, "cluster.yaml"), Path(folder, "mesh.textproto")
                descriptor.write_text(cluster)
                graph.write_text(mesh_graph)
                request = Request(
                    job=pickle.dumps(job),
                    module=module,
                    module_file=module_file,
                    cluster=str(descriptor),
                    mesh_graph=str(graph) if mesh_graph else "",
                    opening=opening,
                    reports=on_progress is not None,
                    timeout_seconds=timeout_seconds,
                )
                outcome, ended = _converse(control, request, on_progress)
        except BaseException:  # also a keyboard interrupt: the child must not run on
            self.close()
            raise
        return cast(Value, _value_of(outcome, ended, timeout_seconds))

    def _start(self) -> Connection:
        if self._control is not None:
            return self._control
        if current_process().name == PROCESS_NAME:
            raise MockJobError(
                "a job cannot run jobs; a script that runs one needs `if __name__ == '__main__':`"
            )
        ours, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START, str(theirs.fileno()), *sys.path],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C reaches this process only, which closes the child
            )
        self._control = ours
        ours.send(
            Settings(
                environment=child_environment(self._work_folder),
                import_path=tuple(sys.path),
            )
        )
        if not ours.poll(_START_SECONDS):
            raise MockCrash(f"ttnn was not imported within {_START_SECONDS} seconds")
        try:
            problem = ours.recv()
        except EOFError:
            raise MockCrash("the process that imports ttnn ended") from None
        if problem:
            raise MockCrash("ttnn cannot be imported", problem)
        return ours


def run_on_mock[Value](
    mesh: Mesh,
    job: Callable[..., Value],
    *,
    work_folder: Path,
    timeout_seconds: float | None = None,
    open_device: bool = True,
    on_progress: Callable[[Any], None] | None = None,
) -> Value:
    """`MockHost.run` for a single job: pays the import of ttnn, about 2 seconds."""
    with MockHost(work_folder) as host:
        return host.run(
            mesh,
            job,
            timeout_seconds=timeout_seconds,
            open_device=open_device,
            on_progress=on_progress,
        )


def _module_of(job: Callable[..., Any]) -> tuple[str, str]:
    """Name and file of the module that defines the job."""
    function: Any = job
    while isinstance(function, partial):
        function = cast(Any, function).func
    assert "<locals>" not in function.__qualname__, "a job must be a module-level function"
    return function.__module__, inspect.getsourcefile(function) or ""


def _converse(
    control: Connection, request: Request, on_progress: Callable[[Any], None] | None
) -> tuple[Message | None, Exit]:
    """Send a request; the job's last message (None if it died before) and how it ended."""
    results, theirs = Pipe(duplex=False)
    with results:
        with theirs:
            control.send(request)
            send_handle(control, theirs.fileno(), None)
        outcome: Message | None = None
        while True:
            try:
                message = cast(Message, results.recv())
            except (EOFError, OSError):  # OSError: cut off within a message
                break
            if message[0] == "progress":
                assert on_progress is not None
                on_progress(message[1])
            else:
                outcome = message
        return outcome, cast(Exit, control.recv())


def _value_of(outcome: Message | None, ended: Exit, timeout_seconds: float | None) -> Any:
    if ended.timed_out:
        raise MockCrash(f"not finished after {timeout_seconds:g} seconds", ended.log)
    if ended.code < 0:
        raise MockCrash(f"ended by signal {-ended.code}", ended.log)
    if outcome is None:
        raise MockCrash(f"ended with exit code {ended.code}", ended.log)
    kind, content = outcome
    if kind == "value":
        return content
    if kind == "finding":
        raise MockRefusal(content)
    if kind == "user error":
        error_type, problems = content
        raise error_type(problems)
    raise MockJobError(content)
