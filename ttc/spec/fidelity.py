"""Fidelities: named settings of the matrix unit, read from `fidelities.yaml`."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Literal, cast

from ttc.schema import load_yaml


@dataclass(frozen=True, slots=True, kw_only=True)
class Fidelity:
    """A setting of the matrix unit, as ttnn's compute kernel config takes it."""

    name: str
    math_fidelity: Literal["LoFi", "HiFi2", "HiFi3", "HiFi4"]
    math_approx: bool
    fp32_dest_acc: bool
    packer_l1_acc: bool


@cache
def load_fidelities() -> Mapping[str, Fidelity]:
    """The settings of `fidelities.yaml`, by name."""
    path = Path(__file__).parent / "fidelities.yaml"
    data = load_yaml(path, "fidelities", shown="ttc/spec/fidelities.yaml")
    return MappingProxyType(
        {
            name: Fidelity(
                name=name,
                math_fidelity=cast(
                    Literal["LoFi", "HiFi2", "HiFi3", "HiFi4"], each["math_fidelity"].text
                ),
                math_approx=each["math_approx"].flag,
                fp32_dest_acc=each["fp32_dest_acc"].flag,
                packer_l1_acc=each["packer_l1_acc"].flag,
            )
            for name, each in data["fidelities"].fields().items()
        }
    )
