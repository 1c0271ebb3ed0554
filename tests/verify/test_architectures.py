"""What ttnn says of every architecture, with decoders of each kind, on mock boards."""

from pathlib import Path

import pytest
from random_models import CONTEXT_TOKENS, make_case, variants_of

from ttc.compiler import compile_model
from ttc.hardware.hardware import load_mesh
from ttc.spec import library
from ttc.spec.architecture import load_architecture
from ttc.spec.model import load_model
from ttc.spec.precision import load_profile
from ttc.verify.mock_mesh import MockHost
from ttc.verify.mock_program import verify_program

pytestmark = [pytest.mark.emulate, pytest.mark.mock]

NAMES = sorted(path.stem for path in library.shipped(library.ARCHITECTURES).glob("*.yaml"))


@pytest.fixture(scope="module", params=NAMES)
def spec(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first variant of an architecture, which has all its kinds."""
    name = request.param
    folder = tmp_path_factory.mktemp(name)
    changes = next(iter(variants_of(name).values()))
    return make_case(folder, load_architecture(name).hf_classes[0], changes).spec


@pytest.mark.parametrize("mesh", ["N150", "P150", "T3K"])
def test_ttnn_takes_every_call(spec: Path, mesh: str, mock_host: MockHost, tmp_path: Path) -> None:
    compiled = compile_model(
        load_model(spec),
        load_mesh(mesh),
        load_profile("performance"),
        batch=2,
        context=CONTEXT_TOKENS,
    )
    path = tmp_path / "model.py"
    path.write_text(compiled.module)
    report = verify_program(path, compiled.mesh, host=mock_host)
    assert report.findings == ()
