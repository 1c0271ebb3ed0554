"""Tiny random models of transformers, compiled and run on the emulator."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

import ttc.emulate.ttnn as emulated
from ttc.checkpoint.files import open_checkpoint
from ttc.checkpoint.index import WeightSource
from ttc.checkpoint.names import bind
from ttc.checkpoint.packing import widen_bf16
from ttc.checkpoint.strips import stored_matrix
from ttc.compiler import compile_model
from ttc.emulate.device import Arch
from ttc.hardware.hardware import load_mesh
from ttc.new import new_spec
from ttc.plan.placement import Placement
from ttc.plan.plan import Plan, WeightPlan
from ttc.runtime.backends import EmulatorBackend
from ttc.runtime.program import load_program
from ttc.runtime.replica import Replica
from ttc.runtime.session import Session
from ttc.spec.model import load_model
from ttc.spec.precision import load_profile

PROMPT_TOKENS = 45
STEPS = 16
CONTEXT_TOKENS = 128
SEED = 7

# Small, with grouped queries and a vocabulary that fills no tiles. What a configuration class does
# not know is left out.
SIZES: Mapping[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 323,
    "max_position_embeddings": 1024,
    "initializer_range": 0.15,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A random checkpoint in a folder, its drafted spec, and the logits it should give."""

    spec: Path
    checkpoint: Path
    token_ids: list[int]
    logits: NDArray[np.float32]


def make_case(folder: Path, hf_class: str, changes: Mapping[str, Any] | None = None) -> Case:
    """A model of a class of transformers with SIZES, changed; the spec is what `ttc new` writes.

    Norms and biases are random as well: transformers makes them ones and zeros.
    """
    model_class = getattr(transformers, hf_class)
    known = inspect.signature(model_class.config_class.__init__).parameters
    sizes = {name: value for name, value in SIZES.items() if name in known}
    torch.manual_seed(SEED)
    model = model_class(model_class.config_class(**(sizes | dict(changes or {}))))
    model = model.float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder / "checkpoint")
    token_ids = torch.randint(3, model.config.vocab_size, (PROMPT_TOKENS + STEPS,)).tolist()
    with torch.no_grad():
        logits = model(torch.tensor([token_ids])).logits[0].numpy()
    spec = new_spec(str(folder / "checkpoint"), out=folder / "specs" / "random.yaml").spec
    return Case(spec=spec, checkpoint=folder / "checkpoint", token_ids=token_ids, logits=logits)


def open_session(
    case: Case,
    folder: Path,
    *,
    mesh: str = "N150",
    precision: str = "bf16",
    batch: int = 1,
    rounding: bool = True,
    change: Callable[[WeightPlan], WeightPlan] = lambda weight: weight,
) -> Session:
    """Compile and load onto the emulator, the weights built in memory."""
    spec = load_model(case.spec)
    compiled = compile_model(
        spec, load_mesh(mesh), load_profile(precision), batch=batch, context=CONTEXT_TOKENS
    )
    path = folder / "model.py"
    path.write_text(compiled.module)
    program = load_program(path, emulated)
    chip = compiled.mesh.chip
    device = emulated.open_mesh_device(
        emulated.MeshShape(1, 1),
        grid=(chip.grid.x, chip.grid.y),
        dram_banks=chip.dram_banks,
        arch=Arch[chip.arch.upper()],
        rounding=rounding,
    )
    checkpoint = open_checkpoint(str(case.checkpoint))
    source = WeightSource(
        checkpoint=checkpoint, binding=bind(spec, checkpoint), chip=compiled.plan.arch
    )
    replica = Replica(
        program=program,
        backend=EmulatorBackend(ttnn=emulated, device=device),
        weights=_weights(compiled.plan, source, device, change),
        blocks=list(reversed(range(program.KV_BLOCKS))),
    )
    return Session(program=program, replicas=(replica,))


def _weights(plan: Plan, source: WeightSource, device, change) -> SimpleNamespace:
    dtypes = {"bf16": "bfloat16", "bfp8": "bfloat8_b", "bfp4": "bfloat4_b"}
    weights = SimpleNamespace(decoders=[SimpleNamespace() for _ in plan.kv_cache.tensor])
    for weight in plan.weights:
        planned = change(weight)
        if not device.rounding:  # nor are the weights rounded to what the plan stores
            planned = replace(planned, tensor=replace(planned.tensor, dtype="fp32"))
        tensor = emulated.from_torch(
            values_of(planned, source),
            dtype=getattr(emulated, dtypes[weight.dtype]),
            layout=getattr(
                emulated, "TILE_LAYOUT" if weight.layout == "tile" else "ROW_MAJOR_LAYOUT"
            ),
            device=device,
            memory_config=memory_config(weight.memory),
        )
        owner = weights if weight.decoder is None else weights.decoders[weight.decoder]
        setattr(owner, weight.name, tensor)
    return weights


def values_of(weight: WeightPlan, source: WeightSource) -> torch.Tensor:
    """What the plan says of one weight, before it is packed."""
    values = stored_matrix(weight, source)
    wide = widen_bf16(values) if values.dtype == np.uint16 else values
    return torch.from_numpy(wide).reshape(weight.shape)


def memory_config(placement: Placement) -> emulated.MemoryConfig:
    """The emulator's memory config of a placement."""
    buffer = emulated.BufferType.DRAM if placement.buffer == "dram" else emulated.BufferType.L1
    layout = getattr(emulated.TensorMemoryLayout, placement.layout.upper())
    if not placement.grid:
        return emulated.MemoryConfig(layout, buffer)
    ranges = [
        emulated.CoreRange(emulated.CoreCoord(x0, y0), emulated.CoreCoord(x1, y1))
        for x0, y0, x1, y1 in placement.grid
    ]
    shard = emulated.ShardSpec(
        emulated.CoreRangeSet(ranges), list(placement.shard), emulated.ShardOrientation.ROW_MAJOR
    )
    return emulated.MemoryConfig(layout, buffer, shard)


def run(session: Session, token_ids: list[int]) -> NDArray[np.float32]:
    """Logits of every position: a prompt through prefill, the rest token by token."""
    logits = [session.prefill_all(token_ids[:PROMPT_TOKENS])]
    logits += [session.decode([token]) for token in token_ids[PROMPT_TOKENS:]]
    return np.concatenate(logits)


def pcc(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])
