"""The whole way, from a checkpoint to logits, against Hugging Face transformers on tiny models."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import LlamaConfig, LlamaForCausalLM

import ttc.emulate.ttnn as emulated
from ttc.checkpoint.files import open_checkpoint
from ttc.checkpoint.index import WeightSource
from ttc.checkpoint.names import bind
from ttc.checkpoint.packing import widen_bf16
from ttc.checkpoint.strips import stored_matrix
from ttc.compiler import compile_model
from ttc.emulate.device import Arch
from ttc.hardware.hardware import load_mesh
from ttc.plan.placement import Placement
from ttc.plan.plan import Plan, WeightPlan
from ttc.runtime.backends import EmulatorBackend
from ttc.runtime.program import load_program
from ttc.runtime.replica import Replica
from ttc.runtime.session import Session
from ttc.spec.model import load_model
from ttc.spec.precision import load_profile

pytestmark = pytest.mark.emulate

PROMPT_TOKENS = 45
STEPS = 16

SPEC = """\
model: ttc-tests/random
architecture: llama
dims: {{hidden: 128, layers: 2, heads: 4, kv_heads: 2, head_dim: 32, ffn: 256, vocab: 320}}
norm_eps: 1.0e-5
rope: {rope}
tie_embeddings: {tied}
max_context_tokens: 1024
"""
ROPES = {
    "none": ("{kind: none, theta: 10000}", None),
    "llama3": (
        "{kind: llama3, theta: 10000, factor: 8, low_freq_factor: 1, high_freq_factor: 4, "
        "original_context_tokens: 64}",
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A random checkpoint in a folder, its spec, and the logits it should give."""

    spec: Path
    checkpoint: Path
    token_ids: list[int]
    logits: NDArray[np.float32]


def make_case(folder: Path, *, rope: str = "none", tied: bool = False) -> Case:
    text, scaling = ROPES[rope]
    torch.manual_seed(7)
    config = LlamaConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        vocab_size=320,
        max_position_embeddings=1024,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        rope_scaling=scaling,
        tie_word_embeddings=tied,
        initializer_range=0.15,
    )
    model = LlamaForCausalLM(config).float().eval()
    model.save_pretrained(folder / "checkpoint")
    token_ids = torch.randint(0, 320, (PROMPT_TOKENS + STEPS,)).tolist()
    with torch.no_grad():
        logits = model(torch.tensor([token_ids])).logits[0].numpy()
    spec = folder / "random.yaml"
    spec.write_text(SPEC.format(rope=text, tied=str(tied).lower()))
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
        spec, load_mesh(mesh), load_profile(precision), batch=batch, context=128
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
    weights = _weights(compiled.plan, source, device, change)
    replica = Replica(
        program=program,
        backend=EmulatorBackend(ttnn=emulated, device=device),
        weights=weights,
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


@pytest.mark.parametrize("mesh", ["N150", "P150"])
@pytest.mark.parametrize(
    ("rope", "tied", "precision"),
    [
        ("none", False, "bf16"),
        ("llama3", False, "bf16"),
        ("llama3", True, "performance"),
        ("none", False, "performance"),
    ],
)
def test_unrounded_logits_are_those_of_transformers(
    tmp_path: Path, mesh: str, rope: str, tied: bool, precision: str
) -> None:
    """Without rounding nothing but the mathematics is left, in both rotary forms."""
    case = make_case(tmp_path, rope=rope, tied=tied)
    session = open_session(case, tmp_path, mesh=mesh, precision=precision, rounding=False)
    logits = run(session, case.token_ids)
    assert pcc(logits, case.logits) > 0.99999
    assert (logits.argmax(-1) == case.logits.argmax(-1)).mean() > 0.98


def test_rounding_costs_what_the_profile_gives_up(tmp_path: Path) -> None:
    """bf16 stays close; fewer bits are further away, and never where a wrong operand would be."""
    case = make_case(tmp_path)
    close = {
        precision: pcc(
            run(open_session(case, tmp_path, precision=precision), case.token_ids), case.logits
        )
        for precision in ("bf16", "accuracy", "performance")
    }
    assert 0.99999 > close["bf16"] > 0.999
    assert close["bf16"] > close["accuracy"] > close["performance"] > 0.9


def test_rows_in_the_wrong_order_are_noticed(tmp_path: Path) -> None:
    """The check can fail: q and k rows left as halves for an operation that rotates pairs."""

    def halves(weight: WeightPlan) -> WeightPlan:
        parts = tuple(replace(part, rows="halves") for part in weight.parts)
        return replace(weight, parts=parts)

    case = make_case(tmp_path)
    session = open_session(case, tmp_path, rounding=False, change=halves)
    assert pcc(run(session, case.token_ids), case.logits) < 0.99


def test_users_of_a_batch_do_not_see_each_other(tmp_path: Path) -> None:
    """Three prompts of different lengths, decoded together, give what each gives alone."""
    case = make_case(tmp_path)
    prompts = [case.token_ids[:5], case.token_ids[5:38], case.token_ids[38:59]]
    alone = []
    for prompt in prompts:
        session = open_session(case, tmp_path, rounding=False)
        alone.append([session.prefill([prompt])[0], session.decode([3])[0], session.decode([4])[0]])
    session = open_session(case, tmp_path, batch=3, rounding=False)
    together = [session.prefill(prompts), session.decode([3, 3, 3]), session.decode([4, 4, 4])]
    for user, steps in enumerate(alone):
        for logits, step in zip(together, steps, strict=True):
            np.testing.assert_allclose(logits[user], step, rtol=1e-3, atol=1e-3)


def test_greedy_feedback_on_the_device_equals_feedback_through_the_host(tmp_path: Path) -> None:
    case = make_case(tmp_path)
    prompt = case.token_ids[:PROMPT_TOKENS]
    session = open_session(case, tmp_path)
    first = int(session.prefill([prompt])[0].argmax())
    session.write([first])
    on_device = [session.step()[0] for _ in range(6)]
    session = open_session(case, tmp_path)
    token, on_host = int(session.prefill([prompt])[0].argmax()), []
    for _ in range(6):
        token = int(session.decode([token])[0].argmax())
        on_host.append(token)
    assert on_device == on_host
