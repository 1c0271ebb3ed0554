"""CallRecorder: what each ttnn call of a program does on the device.

It answers to the name `ttnn` inside a loaded program, passes every call on, and notes the source
line, the programs the device was sent, and the memory in use before and after.
"""

import inspect
import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

type Graph = list[dict[str, Any]]
"""What ttnn.graph.end_graph_capture returns: nodes in the order in which they happened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes in use: DRAM on each chip, L1 on each core."""

    dram: int
    l1: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCall:
    """One ttnn call of a program. `operations` are the device operations it launched.

    `function` is the emitted function that made the call, `layer` the decoder it belongs to, -1
    outside of the decoders.
    """

    name: str
    line: int
    function: str
    layer: int
    operations: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfreed:
    """Memory that came free only because Python dropped a variable of `function`."""

    function: str
    line: int
    memory: Memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """What one run of an entry point did. `peak` is the highest use seen between two calls."""

    calls: tuple[DeviceCall, ...]
    peak: Memory
    unfreed: tuple[Unfreed, ...]


class CallRecorder:
    """Stands in for `ttnn` in the program at `path`; `caches` are its (k, v) of each layer."""

    def __init__(
        self, ttnn: ModuleType, device: Any, path: Path, caches: Iterable[tuple[Any, Any]]
    ) -> None:
        self._ttnn: Any = ttnn
        self._device = device
        self._file = str(path)
        self._layer_of_cache = {
            id(tensor): layer for layer, pair in enumerate(caches) for tensor in pair
        }
        self._on = False
        self._stack: list[tuple[str, int]] = []  # (function, number of this invocation)
        self._invocations = 0
        self._layers: dict[int, int] = {}  # invocation -> layer whose cache it used
        self._calls: list[tuple[DeviceCall, int]] = []  # the call, invocation below the entry
        self._unfreed: list[Unfreed] = []
        self._before = self._peak = Memory(dram=0, l1=0)

    def __getattr__(self, name: str) -> Any:
        return self._answer(name, getattr(self._ttnn, name))

    @contextmanager
    def recording(self) -> Generator[Callable[[], Recording]]:
        """Record the calls made in the block; the function it gives returns what was seen."""
        self._stack, self._invocations = [], 0
        self._layers, self._calls, self._unfreed = {}, [], []
        self._before = self._peak = self.in_use()
        self._on = True
        sys.setprofile(self._follow)
        try:
            yield self._recording
        finally:
            sys.setprofile(None)
            self._on = False

    def in_use(self) -> Memory:
        """Bytes allocated now."""
        types = self._ttnn.BufferType
        dram = self._ttnn.get_memory_view(self._device, types.DRAM)
        l1 = self._ttnn.get_memory_view(self._device, types.L1)
        return Memory(
            dram=dram.total_bytes_allocated_per_bank * dram.num_banks,
            l1=l1.total_bytes_allocated_per_bank,
        )

    def _recording(self) -> Recording:
        calls = tuple(
            DeviceCall(
                name=call.name,
                line=call.line,
                function=call.function,
                layer=self._layers.get(invocation, -1),
                operations=call.operations,
            )
            for call, invocation in self._calls
        )
        return Recording(calls=calls, peak=self._peak, unfreed=tuple(self._unfreed))

    def _follow(self, frame: FrameType, event: str, _argument: object) -> None:
        if frame.f_code.co_filename != self._file:
            return
        if event == "call":
            self._invocations += 1
            self._stack.append((frame.f_code.co_name, self._invocations))
        elif event == "return":
            self._stack.pop()

    def _answer(self, name: str, value: Any) -> Any:
        if inspect.ismodule(value):
            return _Namespace(partial(self._answer_in, name, value))
        if callable(value) and not inspect.isclass(value):
            return partial(self._call, f"ttnn.{name}", value)
        return value

    def _answer_in(self, name: str, module: ModuleType, member: str) -> Any:
        return self._answer(f"{name}.{member}", getattr(module, member))

    def _call(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not self._on:
            return function(*args, **kwargs)
        caller = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
        self._note_unfreed()
        graph: Graph = []
        with captured(self._ttnn, "NORMAL", graph):
            result = function(*args, **kwargs)
        below_entry = self._stack[1][1] if len(self._stack) > 1 else 0
        for argument in (*args, *kwargs.values()):
            layer = self._layer_of_cache.get(id(argument))
            if layer is not None:
                self._layers[below_entry] = layer
        call = DeviceCall(
            name=name,
            line=caller.f_lineno,
            function=caller.f_code.co_name,
            layer=-1,
            operations=device_operations(graph),
        )
        self._calls.append((call, below_entry))
        self._before = now = self.in_use()
        self._peak = Memory(dram=max(self._peak.dram, now.dram), l1=max(self._peak.l1, now.l1))
        return result

    def _note_unfreed(self) -> None:
        now = self.in_use()
        dram, l1 = self._before.dram - now.dram, self._before.l1 - now.l1
        if (dram > 0 or l1 > 0) and self._calls:
            last = self._calls[-1][0]
            self._unfreed.append(
                Unfreed(function=last.function, line=last.line, memory=Memory(dram=dram, l1=l1))
            )
        self._before = now


class _Namespace:
    """A submodule of ttnn, such as ttnn.transformer, seen through a recorder."""

    def __init__(self, answer: Callable[[str], Any]) -> None:
        self._member = answer

    def __getattr__(self, name: str) -> Any:
        return self._member(name)


@contextmanager
def captured(ttnn: Any, mode: str, graph: Graph) -> Generator[None]:
    """Capture the block in a ttnn.graph.RunMode, and add the nodes to `graph` at its end."""
    ttnn.graph.begin_graph_capture(getattr(ttnn.graph.RunMode, mode))
    try:
        yield
    finally:
        graph.extend(ttnn.graph.end_graph_capture())


def device_operations(graph: Graph) -> tuple[str, ...]:
    """The names of the functions in a graph of normal mode that sent a program to the device.

    An operation that runs on several devices sends one program to each and counts once.
    """
    running: list[tuple[int, str]] = []
    launched: dict[int, str] = {}
    for node in graph:
        match node["node_type"]:
            case "function_start":
                running.append((node["counter"], node["params"]["name"]))
            case "function_end":
                running.pop()
            case "program_execution":
                counter, name = running[-1]
                launched[counter] = name
            case _:
                pass
    return tuple(launched[counter] for counter in sorted(launched))
