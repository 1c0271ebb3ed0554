"""The process on the other side of `MockHost`: imports ttnn once, runs each job in a fork.

Run as a child only. It reads requests from one socket, and has three duties: set the environment
before ttnn is imported, keep everything ttnn prints away from the user, and tell a crash of one
job from its result. Forking here is safe because this process never computes anything: the
caller's process, which may hold torch's threads, is never forked.
"""

import faulthandler
import importlib
import importlib.util
import os
import pickle
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import current_process
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from pathlib import Path
from typing import IO, Any, Literal, cast

from ttc.errors import Problem, TtcError, UsageError
from ttc.hardware.descriptor import MESH_GRAPH_VARIABLE
from ttc.verify.finding import finding_of

PROCESS_NAME = "mock child"
_LOG_TAIL_CHARACTERS = 2000
_CRASH_TRACE_END = "\nExtension modules:"  # faulthandler adds a long list


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the child needs before it can import ttnn. `environment` is added to its own."""

    environment: dict[str, str]
    import_path: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """How to open the device: rows and columns, a ttnn.FabricConfig by name or "none".

    `mesh` is what the user calls it.
    """

    mesh: str
    shape: tuple[int, int]
    fabric: str
    trace_region_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One job: the pickled callable, the module that defines it, and the device it wants.

    `cluster` is the path of the cluster descriptor, `mesh_graph` that of the mesh graph descriptor,
    "" for ttnn's own. With `reports` the job is given a function
    that sends progress.
    """

    job: bytes
    module: str
    module_file: str
    cluster: str
    mesh_graph: str
    opening: Opening | None
    reports: bool
    timeout_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How the fork that ran a job ended: exit code (negative: signal), and what it printed."""

    code: int
    timed_out: bool
    log: str


Message = tuple[Literal["progress", "value", "finding", "user error", "error"], Any]


def serve(control: Connection) -> None:
    """Answer requests until the caller closes the connection."""
    settings = cast(Settings, control.recv())
    current_process().name = PROCESS_NAME
    sys.path[:] = settings.import_path
    for name in list(os.environ):
        if name.startswith(("TT_", "TTNN_")):  # a user's device settings would change the verdict
            del os.environ[name]
    os.environ.update(settings.environment)
    with tempfile.TemporaryFile("w+") as log:
        _print_to(log)
        try:
            importlib.import_module("ttnn")
        except Exception:
            control.send(traceback.format_exc())
            return
        control.send("")
        while True:
            try:
                request = cast(Request, control.recv())
            except EOFError:
                return
            ended = _run_in_fork(request, control)
            if ended is None:
                return
            control.send(ended)


def _run_in_fork(request: Request, control: Connection) -> Exit | None:
    """Run one job in a fork of this process; None when the caller went away meanwhile.

    The module of the job is imported before the fork, so that later forks find it.
    """
    results = Connection(recv_handle(control))
    if request.module != "__main__":  # a script may do anything when it is executed
        with suppress(Exception):  # the fork will report it
            _import_job_module(request.module, request.module_file)
    with tempfile.TemporaryFile("w+") as log:
        pid = os.fork()
        if pid == 0:
            control.close()
            _print_to(log)
            faulthandler.enable(log, all_threads=False)  # a crash then names the line it came from
            _run_job(request, results)
            os._exit(0)  # no exit handlers: they would close devices and files of the parent
        results.close()
        deadline = None
        if request.timeout_seconds is not None:
            deadline = time.monotonic() + request.timeout_seconds
        ending = _wait(pid, control, deadline)
        if ending != "exited":
            os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        if ending == "abandoned":
            return None
        log.seek(0)
        return Exit(
            code=os.waitstatus_to_exitcode(status),
            timed_out=ending == "timed out",
            log=log.read().partition(_CRASH_TRACE_END)[0].strip()[-_LOG_TAIL_CHARACTERS:],
        )


def _wait(
    pid: int, control: Connection, deadline: float | None
) -> Literal["exited", "timed out", "abandoned"]:
    child = os.pidfd_open(pid)
    try:
        seconds = None if deadline is None else max(0.0, deadline - time.monotonic())
        # The caller sends nothing before it has our answer: if readable, it has hung up.
        ready = select.select([child, control], [], [], seconds)[0]
        if child in ready:
            return "exited"
        return "abandoned" if ready else "timed out"
    finally:
        os.close(child)


def _print_to(log: IO[str]) -> None:
    for descriptor in (1, 2):
        os.dup2(log.fileno(), descriptor)


def _run_job(request: Request, results: Connection) -> None:
    """Call the job and send what came of it. The last message is always the outcome."""
    ttnn = sys.modules["ttnn"]
    try:
        # The environment is read when the first device is opened, not at import.
        os.environ["TT_METAL_MOCK_CLUSTER_DESC_PATH"] = request.cluster
        if request.mesh_graph:
            os.environ[MESH_GRAPH_VARIABLE] = request.mesh_graph
        _import_job_module(request.module, request.module_file)
        job = cast(Callable[..., Any], pickle.loads(request.job))
        named: dict[str, Any] = {}
        if request.reports:
            named["report"] = lambda value: results.send(("progress", value))  # type: ignore[reportUnknownLambdaType]
        if request.opening is None:
            value = job(ttnn, **named)
        else:
            device = _open_device(ttnn, request.opening)
            value = job(ttnn, device, **named)
            ttnn.close_mesh_device(device)
        results.send(("value", value))
    except TtcError as error:
        results.send(("user error", (type(error), error.problems)))
    except Exception as error:
        # No device is closed on this way out: the tensors that the traceback holds would outlive
        # it. The process ends at once, and with it the device.
        finding = finding_of(error, Path(str(ttnn.__file__)).parent)
        if finding is None:
            results.send(("error", traceback.format_exc()))
        else:
            results.send(("finding", finding))


def _open_device(ttnn: Any, opening: Opening) -> Any:
    """Raises UsageError where ttnn opens no such mesh: no program was looked at then."""
    try:
        if opening.fabric != "none":
            ttnn.set_fabric_config(getattr(ttnn.FabricConfig, opening.fabric))
        return ttnn.open_mesh_device(
            ttnn.MeshShape(*opening.shape), trace_region_size=opening.trace_region_bytes
        )
    except Exception as error:
        finding = finding_of(error, Path(str(ttnn.__file__)).parent)
        raise UsageError(
            Problem(
                message=f"ttnn opens no mock of {opening.mesh}",
                note=finding.info if finding else str(error),
                help="compare the mesh's entry with the machine, see docs/adding-a-mesh.md; "
                "or leave the mock out with --backend emulate",
            )
        ) from error


def _import_job_module(name: str, file: str) -> None:
    """Make the module that defines the job importable under its own name, as pickle wants it.

    It may be a script (`__main__`) or a test module, which is not on the import path.
    """
    if name != "__main__":
        if name in sys.modules:
            return
        try:
            importlib.import_module(name)
            return
        except ModuleNotFoundError:
            pass
    spec = importlib.util.spec_from_file_location("mock_job" if name == "__main__" else name, file)
    assert spec is not None, f"no module at {file}"
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
