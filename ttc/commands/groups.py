"""Options that several commands share, declared once and handed over as one value."""

# pyright: reportUnknownMemberType=false
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ttc.api import DEFAULT_CACHE, DEFAULT_MESH
from ttc.commands.environment import environment, weights_folder
from ttc.options import (
    Cache,
    EmulatorDevice,
    FrequencyPenalty,
    MeshOption,
    PresencePenalty,
    RepetitionPenalty,
    Seed,
    Spec,
    Stops,
    Temperature,
    TopK,
    TopP,
    Weights,
)
from ttc.runtime.request import Limits, Settings
from ttc.screen import Screen
from ttc.spec.model import load_model

if TYPE_CHECKING:
    from ttc.search.bench import BenchSettings


def takes(**groups: Callable[..., Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command whose parameters of these names are made by functions of other options.

    The options of a function stand where its parameter stood, as typer reads them.
    """

    def expand(command: Callable[..., None]) -> Callable[..., None]:
        parameters: list[inspect.Parameter] = []
        for one in inspect.signature(command, eval_str=True).parameters.values():
            made_by = groups.get(one.name)
            parameters += [one] if made_by is None else _parameters(made_by)

        @wraps(command)
        def run(**given: Any) -> None:
            for name, made_by in groups.items():
                own = {each.name: given.pop(each.name) for each in _parameters(made_by)}
                given[name] = made_by(**own)
            command(**given)

        by_name = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
        setattr(run, "__signature__", inspect.Signature(by_name))  # noqa: B010
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        return run

    return expand


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    return list(inspect.signature(function, eval_str=True).parameters.values())


def sampling_settings(
    stop: Stops = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    seed: Seed = None,
    repetition_penalty: RepetitionPenalty = None,
    presence_penalty: PresencePenalty = None,
    frequency_penalty: FrequencyPenalty = None,
) -> Settings:
    """How tokens are drawn and which texts end an answer."""
    return Settings(
        stop=stop or (),
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        repetition_penalty=repetition_penalty,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
    )


def check_settings(settings: Settings) -> None:
    """Raise UsageError for what is wrong whatever the model, before anything slow is loaded."""
    from ttc.runtime.sampling import Sampling

    Limits.of(settings).check()
    Sampling().changed(settings).check()


def check_sampling(settings: Settings, artefact: Path) -> None:
    """Raise UsageError for what is wrong with this model's own settings below."""
    from ttc.runtime.sampling import chosen_sampling

    chosen_sampling(artefact, settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """On what profiles of one spec are measured."""

    spec: str
    mesh: str
    context: int
    out: Path | None
    weights: str | None
    cache: Path
    emulator_device: str

    @property
    def model(self) -> str:
        """The name of the spec."""
        return load_model(self.spec).name

    def folder(self, verb: str) -> Path:
        """Where it keeps what was measured."""
        return self.out or Path(f"build/{verb}-{self.model}-{self.mesh.replace(':', '-')}")

    def settings(self, context: typer.Context, screen: Screen, verb: str) -> "BenchSettings":
        """The same for the bench of a command; says if LLAMA_DIR was used."""
        from ttc.search.bench import BenchSettings

        weights = self.weights or weights_folder(screen, environment(context), self.spec)
        return BenchSettings(
            spec=self.spec,
            mesh=self.mesh,
            weights=weights,
            context=self.context,
            cache=self.cache.expanduser(),
            folder=self.folder(verb),
            emulator_device=self.emulator_device,
        )


def kept_in(folder: Path) -> str:
    """What is said to who interrupts a bench."""
    return f"what was measured is kept in {folder}, the same command goes on from there"


def bench_options(
    spec: Spec,
    mesh: MeshOption = DEFAULT_MESH,
    context: Annotated[int, typer.Option(help="Tokens in the KV cache that a step reads.")] = 1024,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="A folder; it keeps what was measured for the next run."),
    ] = None,
    weights: Weights = None,
    cache: Cache = DEFAULT_CACHE,
    emulator_device: EmulatorDevice = "cpu",
) -> BenchOptions:
    """What ttc compare and ttc search measure on."""
    return BenchOptions(
        spec=spec,
        mesh=mesh,
        context=context,
        out=out,
        weights=weights,
        cache=cache,
        emulator_device=emulator_device,
    )
