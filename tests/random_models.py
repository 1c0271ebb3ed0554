"""Tiny random models of transformers, compiled and run on the emulator."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportAttributeAccessIssue=false

import inspect
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import tokenizers
import torch
import transformers
import yaml
from numpy.typing import NDArray

import ttc.emulate.ttnn as emulated
from ttc.checkpoint.cache import Sink
from ttc.checkpoint.convert import write_weight
from ttc.checkpoint.files import open_checkpoint
from ttc.checkpoint.index import WeightSource
from ttc.checkpoint.names import bind
from ttc.compiler import compile_model
from ttc.hardware.hardware import load_mesh
from ttc.new import new_spec
from ttc.plan.plan import Plan, WeightPlan
from ttc.runtime.backends import open_backend
from ttc.runtime.program import load_program
from ttc.runtime.replica import Replica, load_weights
from ttc.runtime.session import Session
from ttc.spec.model import load_model
from ttc.spec.precision import load_profile

VARIANTS = Path(__file__).parent / "data" / "variants.yaml"
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


def variants_of(architecture: str) -> dict[str, dict[str, Any]]:
    """What configurations change in SIZES, by name: an architecture's own variants first."""
    own: dict[str, Any] = yaml.safe_load(VARIANTS.read_text()).get(architecture, {})
    base = own.pop("base", {})
    every = own | {"untied": {}, "tied": {"tie_word_embeddings": True}}
    return {name: base | changes for name, changes in every.items()}


def make_checkpoint(folder: Path, hf_class: str, changes: Mapping[str, Any] | None = None) -> Any:
    """A model of a class of transformers with SIZES, changed, saved with a tokenizer of bytes.

    Norms and biases are random as well: transformers makes them ones and zeros.
    """
    model_class = getattr(transformers, hf_class)
    known = inspect.signature(model_class.config_class.__init__).parameters
    sizes = {name: value for name, value in SIZES.items() if name in known}
    changes = {name: value for name, value in (changes or {}).items() if name != "precision"}
    torch.manual_seed(SEED)
    config = model_class.config_class(**(sizes | changes))
    config._attn_implementation = "eager"  # torch's own attention drops the soft cap of scores
    with _layer_norms_without_bias(model_class):
        model = model_class(config)
    model = model.float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    words = {chr(32 + i): i for i in range(SIZES["vocab_size"])}
    codec = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, " "))
    codec.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    codec.save(str(folder / "tokenizer.json"))
    return model


@contextmanager
def _layer_norms_without_bias(model_class: Any) -> Iterator[None]:
    """Leave them as torch makes them: StableLM of transformers 4.57 wants to set their bias."""
    owner = next(each for each in model_class.__mro__ if "_init_weights" in vars(each))
    initialise = owner._init_weights

    def initialise_others(self: Any, module: Any) -> None:
        if not isinstance(module, torch.nn.LayerNorm) or "bias" in dict(module.named_parameters()):
            initialise(self, module)

    with patch.object(owner, "_init_weights", initialise_others):
        yield


def make_case(
    folder: Path,
    hf_class: str,
    changes: Mapping[str, Any] | None = None,
    *,
    tokens: int = PROMPT_TOKENS + STEPS,
    prompt: int = 0,
) -> Case:
    """A checkpoint, the spec that `ttc new` writes of it, and what transformers computes.

    prompt  how many of the tokens it reads at once; 0: all
    """
    model = make_checkpoint(folder / "checkpoint", hf_class, changes)
    token_ids = torch.randint(3, model.config.vocab_size, (tokens,)).tolist()
    logits = reference_logits(model, token_ids, prompt or tokens)
    spec = new_spec(str(folder / "checkpoint"), out=folder / "specs" / "random.yaml").spec
    return Case(spec=spec, checkpoint=folder / "checkpoint", token_ids=token_ids, logits=logits)


def reference_logits(model: Any, token_ids: list[int], prompt: int) -> NDArray[np.float32]:
    """[tokens, vocab] of transformers: a prompt at once, the rest token by token from the cache."""
    cache = transformers.DynamicCache(config=model.config)
    parts = [token_ids[:prompt], *([token] for token in token_ids[prompt:])]
    with torch.no_grad():
        read = [model(torch.tensor([part]), past_key_values=cache).logits[0] for part in parts]
    return torch.cat(read).numpy()


@contextmanager
def open_session(
    case: Case,
    folder: Path,
    *,
    mesh: str = "N150",
    precision: str = "bf16",
    batch: int = 1,
    context: int = CONTEXT_TOKENS,
    chunk: int | None = None,
    rounding: bool = True,
    change: Callable[[WeightPlan], WeightPlan] = lambda weight: weight,
) -> Iterator[Session]:
    """Compile, convert and load onto the emulator, cache blocks in an order of their own.

    Without rounding the weights are stored as float32, whatever the plan says.
    """
    spec = load_model(case.spec)
    profile = load_profile(precision)
    compiled = compile_model(
        spec, load_mesh(mesh), profile, batch=batch, context=context, chunk=chunk
    )
    plan = compiled.plan
    path = folder / f"{mesh}.py"
    path.write_text(compiled.module)
    program = load_program(path, emulated)
    checkpoint = open_checkpoint(str(case.checkpoint))
    source = WeightSource(
        checkpoint=checkpoint,
        binding=bind(spec, checkpoint),
        chip=plan.arch,
        mesh_shape=plan.parallel.replica_shape,
    )
    with tempfile.TemporaryDirectory() as weights:
        for weight in plan.weights:
            stored = change(weight)
            if not rounding:
                stored = replace(stored, tensor=replace(stored.tensor, dtype="fp32"))
            with (Path(weights) / Path(weight.file).name).open("wb", buffering=0) as file:
                write_weight(stored, source, Sink(file))
        with open_backend("emulate", compiled.mesh, rounding=rounding) as backend:
            parts = backend.replicas(program.MESH_SHAPE)
            loaded = load_weights(
                program, lambda name: Path(weights) / f"{name}.tensorbin", parts[0]
            )
            if not rounding:
                _call_as_planned(loaded, plan)
            replicas = tuple(
                Replica(
                    program=program,
                    backend=part,
                    weights=loaded,
                    blocks=list(reversed(range(program.KV_BLOCKS - 1))),
                )
                for part in parts
            )
            yield Session(program=program, replicas=replicas)


def _call_as_planned(weights: Any, plan: Plan) -> None:
    """Give float32 tensors the dtypes of the plan, so that operations accept them."""
    names = {"bf16": "bfloat16", "bfp8": "bfloat8_b", "bfp4": "bfloat4_b"}
    for weight in plan.weights:
        owner = weights if weight.decoder is None else weights.decoders[weight.decoder]
        tensor = getattr(owner, weight.name)
        for part in getattr(tensor, "shards", [tensor]):
            part.dtype = getattr(emulated, names[weight.dtype])


def read(replica: Replica, user: int, prompt: list[int]) -> NDArray[np.float32]:
    """Logits [vocab] after a prompt that a user reads, with nobody else."""
    assert replica.admit(user, prompt, len(prompt))
    found = [logits for batch in replica.batches() for logits in replica.read(batch).values()]
    (logits,) = found
    return logits


def run(session: Session, token_ids: list[int]) -> NDArray[np.float32]:
    """Logits of every position: a prompt through prefill, the rest token by token."""
    logits = [session.prefill_all(token_ids[:PROMPT_TOKENS])]
    logits += [session.decode([token]) for token in token_ids[PROMPT_TOKENS:]]
    return np.concatenate(logits)


def pcc(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])
