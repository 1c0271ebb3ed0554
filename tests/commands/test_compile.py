"""`ttc compile`: options that contradict each other."""

from pathlib import Path

import pytest

from ttc.cli import main

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("option", ["--copy-weights", "--verify-weights"])
def test_weights_that_are_left_out(
    capsys: pytest.CaptureFixture[str], tiny_spec: Path, option: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["compile", str(tiny_spec), "--no-weights", option])
    assert ended.value.code == 2
    assert f"{option} is for weights, and --no-weights leaves them out" in capsys.readouterr().err
