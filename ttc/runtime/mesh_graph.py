"""The grid in which ttnn shall see the chips of a machine that it does not know."""

import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from ttc.hardware.descriptor import MESH_GRAPH_VARIABLE, mesh_graph_descriptor
from ttc.hardware.hardware import Mesh


@contextmanager
def mesh_graph(mesh: Mesh) -> Generator[None]:
    """A mesh graph descriptor for ttnn within the block; one that the user has set goes first.

    ttnn reads the variable when it opens its first device, and knows most machines without.
    """
    text = mesh_graph_descriptor(mesh)
    if not text:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "mesh.textproto")
        path.write_text(text)
        ours = os.environ.setdefault(MESH_GRAPH_VARIABLE, str(path)) == str(path)
        try:
            yield
        finally:
            if ours:
                del os.environ[MESH_GRAPH_VARIABLE]
