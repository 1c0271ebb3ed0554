"""Where a program runs: the torch emulator or a device. Only the opening differs."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, cast

from ttc.errors import Problem, UsageError, did_you_mean
from ttc.hardware.hardware import Mesh
from ttc.runtime.mesh_graph import mesh_graph
from ttc.runtime.program import Tensor, TensorFacts, TensorForm

if TYPE_CHECKING:
    import torch

type BackendName = Literal["emulate", "device"]

CHOICES = ("auto", "emulate", "device")

DEVICE_FILES = Path("/dev/tenstorrent")
"""The kernel driver makes one file in it per card."""


def choose_backend(choice: str, *, simulator: bool = False) -> tuple[BackendName, str]:
    """The backend that `choice` stands for here, and why. `simulator`: a device is simulated."""
    if choice == "mock":
        raise UsageError(
            Problem(
                message="the mock backend computes no values",
                help="check an artefact on it with ttc verify --backend mock; "
                "run it with --backend emulate",
            )
        )
    if choice not in CHOICES:
        raise UsageError(
            Problem(message=f"there is no backend '{choice}'", help=did_you_mean(choice, CHOICES))
        )
    if choice != "auto":
        return choice, "asked for"
    if simulator:
        return "device", "a simulated device is set up"
    if DEVICE_FILES.exists():
        return "device", f"{DEVICE_FILES} exists"
    return "emulate", "no Tenstorrent device was found"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """An open mesh and the ttnn that drives it: the real one or the emulated one.

    Host tensors are torch tensors. `traces` says whether steps are recorded and replayed.
    """

    ttnn: ModuleType
    device: Any
    traces: bool = False

    def replicas(self, shape: tuple[int, int]) -> "tuple[Backend, ...]":
        """This backend for each mesh of `shape` (rows, columns) that the device divides into."""
        if tuple(self.device.shape) == shape:
            return (self,)
        parts = self.device.create_submeshes(cast(Any, self.ttnn).MeshShape(*shape))
        return tuple(replace(self, device=part) for part in parts)

    def put(self, values: "torch.Tensor", dtype: str) -> Tensor:
        """A row-major tensor in DRAM with these values."""
        return self.store(values, self._rows(dtype))

    def write(self, values: "torch.Tensor", tensor: Tensor, dtype: str) -> None:
        """Replace the values of a row-major tensor; its address stays."""
        self.replace(values, tensor, self._rows(dtype))

    def store(self, values: "torch.Tensor", form: TensorForm) -> Tensor:
        """A tensor with these values."""
        dtype, layout, memory_config = form
        return cast(Any, self.ttnn).from_torch(
            values, dtype=dtype, layout=layout, device=self.device, memory_config=memory_config
        )

    def replace(self, values: "torch.Tensor", tensor: Tensor, form: TensorForm) -> None:
        """Replace the values of a tensor of this form; its address stays."""
        ttnn, (dtype, layout, _) = cast(Any, self.ttnn), form
        host = ttnn.from_torch(values, dtype=dtype, layout=layout)
        ttnn.copy_host_to_device_tensor(host, tensor)

    def _rows(self, dtype: str) -> TensorForm:
        ttnn = cast(Any, self.ttnn)
        return getattr(ttnn, dtype), ttnn.ROW_MAJOR_LAYOUT, ttnn.DRAM_MEMORY_CONFIG

    def read(self, tensor: Tensor, *, parts: int = 1) -> "torch.Tensor":
        """The values on the first chip, or the columns that the first `parts` chips hold."""
        ttnn = cast(Any, self.ttnn)
        read = [ttnn.to_torch(one) for one in ttnn.get_device_tensors(tensor)[:parts]]
        return read[0] if parts == 1 else import_module("torch").cat(read, -1)

    def free(self, tensor: Tensor) -> None:
        cast(Any, self.ttnn).deallocate(tensor)

    def load(self, path: Path) -> Tensor:
        return cast(Any, self.ttnn).load_tensor(str(path), device=self.device)

    def semaphores(self, count: int) -> list[Any]:
        """Semaphores of value 0 on all worker cores of every chip."""
        ttnn, grid = cast(Any, self.ttnn), self.device.compute_with_storage_grid_size()
        last = ttnn.CoreCoord(grid.x - 1, grid.y - 1)
        cores = ttnn.CoreRangeSet([ttnn.CoreRange(ttnn.CoreCoord(0, 0), last)])
        return [ttnn.create_global_semaphore(self.device, cores, 0) for _ in range(count)]

    def allocate(self, facts: TensorFacts) -> Tensor:
        """A tensor of any content."""
        shape, dtype, layout, memory_config = facts
        return cast(Any, self.ttnn).empty(
            shape, dtype=dtype, layout=layout, device=self.device, memory_config=memory_config
        )

    def zeros(self, facts: TensorFacts) -> Tensor:
        """A tensor of zeros: attention reads whole blocks, and 0 times garbage may be NaN."""
        shape, dtype, layout, memory_config = facts
        return cast(Any, self.ttnn).zeros(
            shape, dtype=dtype, layout=layout, device=self.device, memory_config=memory_config
        )

    def record[Value](self, work: Callable[[], Value]) -> tuple[Any, Value]:
        """What the device is told to do in `work`, which is not done now, and its result."""
        ttnn = cast(Any, self.ttnn)
        trace = ttnn.begin_trace_capture(self.device, cq_id=0)
        try:
            result = work()
        finally:
            ttnn.end_trace_capture(self.device, trace, cq_id=0)
        return trace, result

    def replay(self, trace: Any) -> None:
        """Queue what was recorded."""
        cast(Any, self.ttnn).execute_trace(self.device, trace, cq_id=0, blocking=False)

    def mark_live(self, tokens: Tensor, *counts: int, parts: int = 1) -> None:
        """Of each of `parts` equal parts only the first so many entries matter. A device computes
        the others all the same."""


class EmulatorBackend(Backend):
    """The emulator, which saves itself what a device cannot."""

    def replace(self, values: "torch.Tensor", tensor: Tensor, form: TensorForm) -> None:
        cast(Any, self.ttnn).copy(self.store(values, form), tensor)

    def zeros(self, facts: TensorFacts) -> Tensor:
        """Emulated empty tensors are zeros, and take no memory before they are written."""
        return self.allocate(facts)

    def mark_live(self, tokens: Tensor, *counts: int, parts: int = 1) -> None:
        cast(Any, self.ttnn).mark_live_rows(tokens, *counts, parts=parts)


@contextmanager
def open_backend(
    name: BackendName,
    mesh: Mesh,
    *,
    trace_region_bytes: int = 0,
    rounding: bool = True,
    emulator_device: str = "cpu",
) -> Generator[Backend]:
    """Open the mesh on a backend; it is closed at the end of the block.

    rounding         False: the emulator keeps every value in float32
    emulator_device  where torch emulates: cpu, cpu-exact, cuda or cuda:N; sums of products are
                     float32 on the CPU, else float64, which gives the same bits everywhere
    """
    if name == "emulate":
        ttnn = import_module("ttc.emulate.ttnn")
        device = _open_emulated(ttnn, mesh, rounding, emulator_device)
        backend = EmulatorBackend(ttnn=ttnn, device=device)
        with _closing(backend):
            yield backend
        return
    with mesh_graph(mesh):
        ttnn = import_module("ttnn")
        device = _open_device(ttnn, mesh, trace_region_bytes)
        backend = Backend(ttnn=ttnn, device=device, traces=trace_region_bytes > 0)
        with _closing(backend):
            yield backend


@contextmanager
def _closing(backend: Backend) -> Generator[None]:
    try:
        yield
    finally:
        for part in (*backend.device.get_submeshes(), backend.device):
            cast(Any, backend.ttnn).close_mesh_device(part)


def _open_emulated(ttnn: Any, mesh: Mesh, rounding: bool, emulator_device: str) -> Any:
    where, sums = torch_device(emulator_device)
    chip, arch = mesh.chip, import_module("ttc.emulate.device").Arch
    return ttnn.open_mesh_device(
        ttnn.MeshShape(mesh.rows, mesh.cols),
        grid=(chip.grid.x, chip.grid.y),
        dram_banks=chip.dram_banks,
        arch=arch[chip.arch.upper()],
        topology=ttnn.Topology.Ring if mesh.topology == "ring" else ttnn.Topology.Linear,
        rounding=rounding,
        torch_device=where,
        sums=sums,
    )


def torch_device(name: str) -> tuple[str, Any]:
    """torch's name of an emulator device, and what it sums in.

    Raises UsageError for a device that torch does not have here.
    """
    import torch

    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    found = ["cpu", "cpu-exact", *(["cuda"] if gpus else []), *gpus]
    if name not in found:
        raise UsageError(
            Problem(
                message=f"torch has no device '{name}' here",
                help=f"valid choices are {', '.join(found)}",
            )
        )
    return name.removesuffix("-exact"), torch.float32 if name == "cpu" else torch.float64


def _open_device(ttnn: Any, mesh: Mesh, trace_region_bytes: int) -> Any:
    if mesh.fabric != "none":
        ttnn.set_fabric_config(getattr(ttnn.FabricConfig, mesh.fabric))
    try:
        device = ttnn.open_mesh_device(
            ttnn.MeshShape(mesh.rows, mesh.cols), trace_region_size=trace_region_bytes
        )
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(
            Problem(
                message=f"the mesh {mesh.name} cannot be opened on this machine",
                details=(reason,),
                help="run on the emulator with --backend emulate",
            )
        ) from error
    grid = device.compute_with_storage_grid_size()
    if (grid.x, grid.y) != (mesh.chip.grid.x, mesh.chip.grid.y):
        ttnn.close_mesh_device(device)
        raise UsageError(
            Problem(
                message=f"this device has {grid.x}x{grid.y} cores, a {mesh.name} has "
                f"{mesh.chip.grid}",
                help="compile for the mesh that this machine has",
            )
        )
    return device
