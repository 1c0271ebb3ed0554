"""The precision profile that a command's options mean."""

# pyright: reportUnknownMemberType=false
from pathlib import Path

import typer
from click.core import ParameterSource

from ttc.screen import Screen
from ttc.spec.model import load_model
from ttc.spec.optimizations import differences, load_decoder_config, read_optimizations
from ttc.spec.precision import PrecisionProfile, load_profile


def chosen_profile(
    context: typer.Context,
    screen: Screen,
    spec: str,
    *,
    optimizations: str | None,
    decoder_config: Path | None,
) -> PrecisionProfile:
    """--precision, under what the formats of tt-transformers change in it.

    Says once where tt-transformers would run something else.
    """
    named = context.get_parameter_source("precision") is not ParameterSource.DEFAULT
    profile = load_profile(context.params["precision"])
    if optimizations is not None:
        profile = read_optimizations(optimizations, profile if named else None)
    if decoder_config is not None:
        profile = load_decoder_config(decoder_config, profile)
        told = differences(profile, load_model(spec))
        if told:
            screen.note("tt-transformers would run something else:\n  " + "\n  ".join(told))
    return profile
