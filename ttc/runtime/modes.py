"""Run modes: what `ttc run --mode NAME` asks for where no option says otherwise."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ttc.errors import Problem, UsageError, did_you_mean
from ttc.located import Located
from ttc.schema import load_yaml

FOLDER = Path(__file__).parent / "sample_prompts"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunMode:
    """One entry of modes.yaml.

    batch        users at once, each with a prompt of the file, which is gone through again and
                 again if it has fewer
    max_context  tokens of each user; None: what the program has
    temperature  None: as the model's generation_config.json says
    fit_context  whether contexts of prompts are cut to what fits
    """

    name: str
    prompts: Path
    batch: int
    max_new_tokens: int
    max_context: int | None
    temperature: float | None
    fit_context: bool


@cache
def run_modes() -> dict[str, RunMode]:
    """All modes by name."""
    root = load_yaml(FOLDER / "modes.yaml", "run_modes")
    return {name: _mode(name, entry) for name, entry in root.fields().items()}


def run_mode(name: str) -> RunMode:
    """The mode of this name. UsageError if there is none."""
    modes = run_modes()
    if name not in modes:
        raise UsageError(
            Problem(message=f"there is no mode '{name}'", help=did_you_mean(name, modes))
        )
    return modes[name]


def _mode(name: str, entry: Located) -> RunMode:
    context, temperature = entry.get("max_context"), entry.get("temperature")
    fit = entry.get("fit_context")
    return RunMode(
        name=name,
        prompts=FOLDER / entry["prompts"].text,
        batch=entry["batch"].integer,
        max_new_tokens=entry["max_new_tokens"].integer,
        max_context=context.integer if context else None,
        temperature=temperature.number if temperature else None,
        fit_context=fit.flag if fit else False,
    )
