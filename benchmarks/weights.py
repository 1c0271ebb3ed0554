"""The rate of weight conversion against ttnn's own packing, and what a whole compile takes.

    python -m benchmarks.weights                         # rates, of random matrices
    python -m benchmarks.weights --spec SPEC --mesh MESH --checkpoint FOLDER [--precision PROFILE]

A rate is GB of bf16 input per second, by the clock and by the seconds that all cores worked; the
ratio of the two ways is measured in one run, in turns, as the load of a machine changes. A compile
is a process of its own, first with an empty cache and then with a full one.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ttc.checkpoint.packing import Packer, round_to_bf16
from ttc.plan.placement import TILE, TILE_BYTES, DType
from ttc.verify.mock_mesh import MockHost

OUT, IN, REPEATS, CORES = 8192, 2048, 3, 2
DTYPES: dict[DType, str] = {"bfp8": "bfloat8_b", "bfp4": "bfloat4_b", "bf16": "bfloat16"}


def matrix() -> NDArray[np.uint16]:
    """Random bf16 bits [OUT, IN]: a feed-forward matrix of a model of 1 B parameters."""
    random = np.random.default_rng(0)
    return round_to_bf16(random.standard_normal((OUT, IN), dtype=np.float32) * 0.02)


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Time by the clock, and of all threads together."""
    clock, cores = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - cores


def pack(values: NDArray[np.uint16], dtype: DType) -> None:
    """One matrix, transposed and packed."""
    packed = np.empty((IN // TILE, OUT // TILE, TILE_BYTES[dtype]), np.uint8)
    packer = Packer(dtype)
    for row in range(0, OUT, TILE):
        packer.pack(values[row : row + TILE], packed[:, row // TILE])


def compare(ttnn: Any) -> dict[str, dict[str, list[float]]]:
    """Clock and core seconds for CORES matrices by both ways, in turns."""
    import torch

    values = matrix()
    tensor = torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
    times: dict[str, dict[str, list[float]]] = {}
    with ThreadPoolExecutor(CORES) as pool:
        for dtype, name in DTYPES.items():

            def theirs(_: int, name: str = name) -> None:
                ttnn.from_torch(tensor.t(), dtype=getattr(ttnn, name), layout=ttnn.TILE_LAYOUT)

            def ours(_: int, dtype: DType = dtype) -> None:
                pack(values, dtype)

            runs = times.setdefault(dtype, {"ttc": [0.0, 0.0], "ttnn": [0.0, 0.0]})
            for _ in range(REPEATS):
                for way, work in (("ttc", ours), ("ttnn", theirs)):
                    clock, cores = seconds(lambda work=work: list(pool.map(work, range(CORES))))
                    runs[way] = [runs[way][0] + clock, runs[way][1] + cores]
    return times


def rates() -> None:
    """Print GB/s of both ways and their ratio."""
    with tempfile.TemporaryDirectory() as folder, MockHost(Path(folder)) as host:
        times = host.run_without_device(compare)
    gigabytes = REPEATS * CORES * OUT * IN * 2 / 1e9
    print(f"{'dtype':6} {'ttc GB/s':>9} {'ttnn GB/s':>10} {'ratio':>6} {'per core-second':>16}")
    for dtype, runs in times.items():
        (clock, cores), (their_clock, their_cores) = runs["ttc"], runs["ttnn"]
        print(
            f"{dtype:6} {gigabytes / clock:9.2f} {gigabytes / their_clock:10.2f} "
            f"{their_clock / clock:6.1f} {their_cores / cores:16.1f}"
        )


def compiles(arguments: argparse.Namespace) -> None:
    """Print seconds and peak memory of a compile with an empty and with a full cache."""
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        command = [sys.executable, "-m", "ttc", "compile", arguments.spec, "--json"]
        command += ["--mesh", arguments.mesh, "--precision", arguments.precision]
        command += ["--weights", arguments.checkpoint, "--cache", f"{folder}/cache"]
        for state in ("cold", "warm"):
            start = time.perf_counter()
            process = subprocess.Popen(
                [*command, "-o", f"{folder}/out"], stdout=subprocess.PIPE, text=True
            )
            out = cast(io.TextIOBase, process.stdout).read()
            _, status, usage = os.wait4(process.pid, 0)
            taken = time.perf_counter() - start
            assert status == 0, "the compile failed"
            print(
                f"{state}: {taken:.1f} s by the clock, {usage.ru_utime + usage.ru_stime:.1f} "
                f"core-seconds, peak {usage.ru_maxrss / 1e6:.2f} GB, "
                f"{json.loads(out)['weights']} weights"
            )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.weights")
    parser.add_argument("--spec", help="compile it, and do not measure rates")
    parser.add_argument("--checkpoint", help="where its weights are")
    parser.add_argument("--mesh", default="N150")
    parser.add_argument("--precision", default="performance")
    parser.add_argument("--folder", help="where cache and artefact are written meanwhile")
    arguments = parser.parse_args()
    if arguments.spec:
        compiles(arguments)
    else:
        rates()


if __name__ == "__main__":
    main()
