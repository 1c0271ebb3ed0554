"""Options that several commands share."""

import inspect
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from ttc.commands.groups import sampling_settings, takes
from ttc.runtime.request import Settings

pytestmark = pytest.mark.fast


def test_options_of_a_group_stand_where_its_parameter_stood() -> None:
    said: list[tuple[str, int, Settings, bool]] = []

    @takes(how=sampling_settings)
    def command(
        name: str,
        count: Annotated[int, typer.Option()] = 1,
        *,
        how: Settings,
        loud: Annotated[bool, typer.Option("--loud")] = False,
    ) -> None:
        said.append((name, count, how, loud))

    names = list(inspect.signature(command).parameters)
    assert names[:3] == ["name", "count", "stop"]
    assert names[-1] == "loud"
    app = typer.Typer()
    app.command()(command)
    arguments = ["Ada", "--top-k", "3", "--stop", "a", "--stop", "b", "--loud"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    ((name, count, how, loud),) = said
    assert (name, count, loud) == ("Ada", 1, True)
    assert how.get("top_k") == 3
    assert how.get("stop") == ["a", "b"]
    assert how.get("temperature") is None
