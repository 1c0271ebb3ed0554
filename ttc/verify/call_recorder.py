"""CallRecorder: what each ttnn call of a program does on the device.

It answers to the name `ttnn` inside a loaded program, passes every call on, and notes the source
line, the programs the device was sent, and the memory in use before and after.
"""

import inspect
import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
class Work:
    """What a call makes the device do.

    `operations` are the device operations it launches; `l1_bytes_per_core` is what its buffers and
    its result need on the fullest core, beside the tensors that were there before, and
    `dram_bytes_per_bank` the most DRAM that it has at once, which may be freed before it returns.
    """

    operations: tuple[str, ...]
    l1_bytes_per_core: int
    dram_bytes_per_bank: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCall:
    """One ttnn call of a program, made by an emitted function on a line of the module.

    `layer` is the decoder it belongs to, -1 outside of the decoders. `l1_bytes_per_core` is the
    use of L1 while it runs: all tensors and its own buffers.
    """

    name: str
    line: int
    function: str
    layer: int
    operations: tuple[str, ...]
    l1_bytes_per_core: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfreed:
    """Memory that came free only when `function` returned, at `line`, and its variables went."""

    function: str
    line: int
    memory: Memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """What one run of an entry point did. `peak` is the highest use seen after a call."""

    calls: tuple[DeviceCall, ...]
    peak: Memory
    unfreed: tuple[Unfreed, ...]


class CallRecorder:
    """Stands in for `ttnn` in the program at `path`; `caches` are its (k, v) of each layer.

    Each line is looked at closely once in a recording, and so is what each function leaves behind:
    decoders that share a function have equal plans, and asking for the DRAM in use takes longer
    than an operation (0.3 ms with the tensors of 32 layers).
    """

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
        self._dram_banks = 0
        self._stack: list[tuple[str, int]] = []  # (function, number of this invocation)
        self._invocations = 0
        self._layers: dict[int, int] = {}  # invocation -> layer whose cache it used
        self._calls: list[tuple[DeviceCall, int]] = []  # the call, invocation below the entry
        self._unfreed: list[Unfreed] = []
        self._work: dict[tuple[str, int, str], Work] = {}
        self._returned: dict[str, int] = {}  # functions, and the line on which each returned
        self._at_return: tuple[str, Memory] | None = None  # not yet checked
        self._peak = Memory(dram=0, l1=0)

    def __getattr__(self, name: str) -> Any:
        return self._answer(name, getattr(self._ttnn, name))

    @contextmanager
    def recording(self) -> Generator[Callable[[], Recording]]:
        """Record the calls made in the block; the function it gives returns what was seen."""
        self._stack, self._invocations = [], 0
        self._layers, self._calls, self._work = {}, [], {}
        self._unfreed, self._returned, self._at_return = [], {}, None
        self._peak = self.in_use()
        self._on = True
        sys.setprofile(self._follow)
        try:
            yield self._recording
        finally:
            sys.setprofile(None)
            self._on = False

    def in_use(self) -> Memory:
        """Bytes allocated now."""
        dram = self._ttnn.get_memory_view(self._device, self._ttnn.BufferType.DRAM)
        self._dram_banks = dram.num_banks
        dram_bytes = dram.total_bytes_allocated_per_bank * dram.num_banks
        return Memory(dram=dram_bytes, l1=self._l1_in_use())

    def _l1_in_use(self) -> int:
        l1 = self._ttnn.get_memory_view(self._device, self._ttnn.BufferType.L1)
        return l1.total_bytes_allocated_per_bank

    def _recording(self) -> Recording:
        calls = tuple(
            replace(call, layer=self._layers.get(invocation, -1))
            for call, invocation in self._calls
        )
        return Recording(calls=calls, peak=self._peak, unfreed=tuple(self._unfreed))

    def _follow(self, frame: FrameType, event: str, _argument: object) -> None:
        """Keep the stack of emitted functions. On "return" the variables are still alive."""
        if frame.f_code.co_filename != self._file or event not in ("call", "return"):
            return
        self._note_unfreed()
        name = frame.f_code.co_name
        if event == "call":
            self._invocations += 1
            self._stack.append((name, self._invocations))
            return
        self._stack.pop()
        if name not in self._returned:
            self._returned[name] = frame.f_lineno
            self._at_return = name, self.in_use()

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
        l1_before = self._l1_in_use()
        key = (caller.f_code.co_name, caller.f_lineno, name)
        # The decoders that share a function have equal plans: one look at each line is enough.
        if key in self._work:
            result = function(*args, **kwargs)
        else:
            before = self.in_use()
            result, work = self._observe(function, args, kwargs)
            self._work[key] = work
            dram = before.dram + work.dram_bytes_per_bank * self._dram_banks
            l1 = max(self._peak.l1, self._l1_in_use())
            self._peak = Memory(dram=max(self._peak.dram, dram), l1=l1)
        below_entry = self._stack[1][1] if len(self._stack) > 1 else 0
        for argument in (*args, *kwargs.values()):
            layer = self._layer_of_cache.get(id(argument))
            if layer is not None:
                self._layers[below_entry] = layer
        work = self._work[key]
        call = DeviceCall(
            name=name,
            line=caller.f_lineno,
            function=caller.f_code.co_name,
            layer=-1,
            operations=work.operations,
            l1_bytes_per_core=l1_before + work.l1_bytes_per_core,
        )
        self._calls.append((call, below_entry))
        return result

    def _observe(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, Work]:
        """Run a call, then once more without dispatch.

        The first is the verdict: memory is allocated where it would be. Only the second lists all
        buffers of an operation, and it allocates nothing.
        """
        graph: Graph = []
        with captured(self._ttnn, "NORMAL", graph):
            result = function(*args, **kwargs)
        operations = device_operations(graph)
        dram = dram_peak(graph)
        if not operations:
            return result, Work(operations=(), l1_bytes_per_core=0, dram_bytes_per_bank=dram)
        graph = []
        with captured(self._ttnn, "NO_DISPATCH", graph):
            function(*args, **kwargs)
        usage = self._ttnn.graph.extract_resource_usage_per_core(graph)
        return result, Work(
            operations=operations, l1_bytes_per_core=usage.peak_total, dram_bytes_per_bank=dram
        )

    def _note_unfreed(self) -> None:
        """Note memory that came free when the variables of a function went away.

        What comes free while a function runs, by giving a variable another value, is no fault.
        """
        if self._at_return is None:
            return
        function, then = self._at_return
        now = self.in_use()
        freed = Memory(dram=max(0, then.dram - now.dram), l1=max(0, then.l1 - now.l1))
        if freed.dram or freed.l1:
            line = self._returned[function]
            self._unfreed.append(Unfreed(function=function, line=line, memory=freed))
        self._at_return = None


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


def dram_peak(graph: Graph) -> int:
    """The most bytes of one DRAM bank that a call had at once beside what was there before.

    A buffer is listed once for each device of a mesh; all of them hold the same.
    """
    held: dict[int, int] = {}
    peak = 0
    for node in graph:
        kind, params = node["node_type"], node["params"]
        if kind not in ("buffer_allocate", "buffer_deallocate") or params["type"] != "DRAM":
            continue
        device, size = int(params["device_id"]), int(params["max_size_per_bank"])
        held[device] = held.get(device, 0) + (size if kind == "buffer_allocate" else -size)
        peak = max(peak, held[device])
    return peak
