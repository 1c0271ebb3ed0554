"""Conversions that are killed, starved, raced and lied to: nothing wrong is ever taken.

Each conversion runs in a process of its own and logs the weights that it writes, so that the
number of conversions can be counted over all of them.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ttc.checkpoint.cache import WeightCache
from ttc.checkpoint.upkeep import list_entries

pytestmark = pytest.mark.emulate

CONVERT = """
import resource, sys, time
from pathlib import Path
from ttc import api
from ttc.checkpoint import convert
from ttc.errors import TtcError

spec, checkpoint, folder, delay, limit = sys.argv[1:]
write = convert.write_weight

def logged(weight, source, sink, stop=None):
    write(weight, source, sink, stop)
    time.sleep(float(delay))
    with open(folder + "/log", "a") as log:
        log.write(weight.full_name + chr(10))

convert.write_weight = logged
if int(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
try:
    out = folder + "/out" + delay
    artefact = api.compile(spec, weights=checkpoint, out=out, cache=folder + "/cache")
except TtcError as error:
    sys.exit(str(error))
print(len(artefact.manifest.weights))
"""
SPEC = """\
model: example/tiny
architecture: llama
dims: {hidden: 128, layers: 3, heads: 4, kv_heads: 2, head_dim: 32, ffn: 256, vocab: 320}
norm_eps: 1.0e-5
rope: {kind: none, theta: 10000}
tie_embeddings: false
max_context_tokens: 256
"""
SIZES = {"q_proj": (128, 128), "k_proj": (64, 128), "v_proj": (64, 128), "o_proj": (128, 128)}
FFN = {"gate_proj": (256, 128), "up_proj": (256, 128), "down_proj": (128, 256)}

WORDS = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}


class Bench:
    """A spec, its checkpoint, and a folder for the cache, the artefact and the log."""

    def __init__(self, folder: Path, write_folder: Callable[..., Path]) -> None:
        self.folder = folder
        self.spec = folder / "tiny.yaml"
        self.spec.write_text(SPEC)
        random = np.random.default_rng(5)
        shapes = {"model.embed_tokens": (320, 128), "model.norm": (128,), "lm_head": (320, 128)}
        for layer in range(3):
            prefix = f"model.layers.{layer}."
            shapes |= {f"{prefix}self_attn.{name}": shape for name, shape in SIZES.items()}
            shapes |= {f"{prefix}mlp.{name}": shape for name, shape in FFN.items()}
            shapes |= {
                f"{prefix}{name}": (128,)
                for name in ("input_layernorm", "post_attention_layernorm")
            }
        tensors = {
            f"{name}.weight": random.standard_normal(shape, dtype=np.float32)
            for name, shape in shapes.items()
        }
        dims = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3}
        self.checkpoint = write_folder(folder / "checkpoint", tensors, vocab_size=320, **dims)
        (self.checkpoint / "tokenizer.json").write_text(
            json.dumps({"version": "1.0", "model": WORDS})
        )

    def start(self, *, delay: float = 0.0, limit: int = 0) -> subprocess.Popen[str]:
        arguments = [self.spec, self.checkpoint, self.folder, delay, limit]
        return subprocess.Popen(
            [sys.executable, "-c", CONVERT, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def convert(self, *, limit: int = 0) -> tuple[int, str]:
        """Exit code, and what was printed, of a conversion."""
        process = self.start(limit=limit)
        out, err = process.communicate(timeout=120)
        return process.returncode, out + err

    def log(self) -> list[str]:
        path = self.folder / "log"
        return path.read_text().splitlines() if path.exists() else []

    def weights(self, out: str = "out0.0") -> dict[str, str]:
        """Checksums by name, after every byte of the artefact was compared with them."""
        from ttc.runtime.artefact import read_artefact

        artefact = read_artefact(self.folder / out, verify_weights=True)
        return {name: weight.sha256 for name, weight in (artefact.manifest.weights or {}).items()}

    @property
    def entries(self) -> list[Path]:
        return sorted((self.folder / "cache" / "weights").glob("??/*.tensorbin"))


@pytest.fixture
def bench(tmp_path: Path, write_folder: Callable[..., Path]) -> Bench:
    return Bench(tmp_path, write_folder)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.02)


def test_killed_at_several_points(bench: Bench) -> None:
    for written in (1, 6, 15):
        process = bench.start(delay=0.05)
        until(lambda count=written: len(bench.log()) >= count)  # type: ignore[misc]
        process.send_signal(signal.SIGKILL)
        process.communicate()
        cache = WeightCache(bench.folder / "cache" / "weights", verify=True)
        assert not [entry for entry in list_entries(cache) if entry.damage]
    code, text = bench.convert()
    assert code == 0, text
    # A writer that is killed after the log and before the record does that weight again.
    again = [name for name, count in Counter(bench.log()).items() if count > 1]
    assert len(again) <= 3 * 4, "more than was in work when it was killed"
    assert not list((bench.folder / "cache").rglob("*.part*"))
    assert len(bench.weights()) == len(bench.entries)


def test_interrupted_and_continued(bench: Bench) -> None:
    process = bench.start(delay=0.05)
    until(lambda: len(bench.log()) >= 4)
    process.send_signal(signal.SIGINT)
    process.communicate()
    kept = len(bench.entries)
    assert kept >= 4
    before = len(bench.log())
    assert bench.convert()[0] == 0
    assert len(bench.log()) - before == len(bench.entries) - kept
    assert not (bench.folder / "out0.05").exists()


def test_a_full_disk(bench: Bench) -> None:
    code, text = bench.convert(limit=40_000)
    assert code == 1
    assert "the disk is full" in text
    assert not list((bench.folder / "cache").rglob("*.part*"))
    kept = set(bench.entries)
    assert kept
    assert bench.convert()[0] == 0
    assert kept < set(bench.entries)
    assert max(Counter(bench.log()).values()) == 1


def test_two_processes_share_the_work(bench: Bench) -> None:
    processes = [bench.start(delay=0.02), bench.start(delay=0.03)]
    for process in processes:
        assert process.communicate(timeout=120)[1] == ""
        assert process.returncode == 0
    assert max(Counter(bench.log()).values()) == 1
    assert bench.weights("out0.02") == bench.weights("out0.03")


def test_a_flipped_bit_in_the_cache_and_so_in_the_artefact(bench: Bench) -> None:
    assert bench.convert()[0] == 0
    before = bench.weights()
    victim = max(bench.entries, key=lambda path: path.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 4
    victim.chmod(0o644)
    victim.write_bytes(data)
    from ttc.errors import ArtefactError
    from ttc.runtime.artefact import read_artefact

    with pytest.raises(ArtefactError, match="was changed"):
        read_artefact(bench.folder / "out0.0")
    (bench.folder / "log").unlink()
    code, text = bench.convert()
    assert (code, len(bench.log())) == (0, 1)
    assert "is damaged and converted again" in text
    assert bench.weights() == before


@pytest.mark.parametrize("finder", ["load", "verify"])
def test_a_flipped_bit_that_left_the_times_of_the_file(bench: Bench, finder: str) -> None:
    """A compile looks at sizes, headers and times; what it took all the same is never loaded, and
    no verification says that it is sound.
    """
    from ttc import api
    from ttc.errors import ArtefactError

    assert bench.convert()[0] == 0
    before, victim = bench.weights(), max(bench.entries, key=lambda path: path.stat().st_size)
    facts, data = victim.stat(), bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 4
    victim.chmod(0o644)
    victim.write_bytes(data)
    os.utime(victim, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    (bench.folder / "log").unlink()
    assert bench.convert()[0] == 0
    assert not bench.log()
    find: Callable[..., object] = api.load if finder == "load" else api.verify
    with pytest.raises(ArtefactError, match="was changed"):
        find(bench.folder / "out0.0", backend="emulate" if finder == "load" else "mock")
    code, text = bench.convert()
    assert (code, len(bench.log())) == (0, 1)
    assert "is damaged and converted again" in text
    assert bench.weights() == before


def test_a_checkpoint_that_changed_with_the_same_size_and_time(bench: Bench) -> None:
    assert bench.convert()[0] == 0
    before, path = bench.weights(), bench.checkpoint / "model.safetensors"
    facts, data = path.stat(), bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert bench.convert()[0] == 0
    after = bench.weights()
    assert [name for name in before if before[name] != after[name]]


@pytest.mark.parametrize("moment", ["while it is hashed", "while it is converted", "at the end"])
def test_a_checkpoint_that_changes_during_a_compile(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The key of an entry says what the checkpoint was; what it became must not go by it."""
    from ttc import api, weights
    from ttc.checkpoint import convert, fingerprint
    from ttc.errors import CheckpointError

    path = bench.checkpoint / "model.safetensors"
    intact = path.read_bytes()
    places = {
        "while it is hashed": (fingerprint, "fingerprint_files"),
        "while it is converted": (convert, "write_weight"),
        "at the end": (weights, "write_tokenizer"),
    }
    module, name = places[moment]
    real = getattr(module, name)

    def changing(*arguments: Any, **named: Any) -> Any:
        data = bytearray(intact)
        for place in range(len(data) // 4, len(data) - 2, 2):
            data[place : place + 2] = b"\x11\x3c"
        path.write_bytes(data)
        return real(*arguments, **named)

    out, cache = bench.folder / "changed", bench.folder / "cache"
    with monkeypatch.context() as patch:
        patch.setattr(module, name, changing)
        with pytest.raises(CheckpointError, match=rf"{path} changed while it was read"):
            api.compile(bench.spec, weights=str(bench.checkpoint), out=out, cache=cache)
    assert not out.exists()
    path.write_bytes(intact)
    assert bench.convert()[0] == 0
    (bench.folder / "cache").rename(bench.folder / "suspect")
    before = bench.weights()
    assert bench.convert()[0] == 0
    assert bench.weights() == before


@pytest.mark.parametrize(
    ("file", "content", "place", "words"),
    [
        (
            "tokenizer_config.json",
            '{\n "chat_template": "a\\n{% for %}"\n}',
            ":2:2",
            "the chat template is not valid",
        ),
        ("chat_template.jinja", "a\n{% if %}", ":2:1", "the chat template is not valid"),
        ("tokenizer_config.json", '{"chat_template": 5}', ":1:19", "'chat_template' must be text"),
        ("generation_config.json", '{"eos_token_id": 320}', ":1:18", "names token 320"),
        ("generation_config.json", '{"temperature": "hot"}', ":1:17", "must be a number"),
        ("config.json", "", "", "cannot be read as JSON"),
    ],
)
def test_files_beside_the_weights_that_no_run_could_use(
    bench: Bench, file: str, content: str, place: str, words: str
) -> None:
    """Told by the compile, at the place in the file of the checkpoint."""
    (bench.checkpoint / file).write_text(content)
    code, text = bench.convert()
    assert code == 1
    assert f"{bench.checkpoint / file}{place}" in text
    assert words in text
    assert not (bench.folder / "out0.0").exists()


def test_a_half_downloaded_checkpoint(bench: Bench) -> None:
    path = bench.checkpoint / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    code, text = bench.convert()
    assert code == 1
    assert "model.safetensors is truncated" in text
    assert not bench.entries
    path.write_bytes(whole)
    assert bench.convert()[0] == 0


def test_a_full_hit_writes_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a cache that cannot be written; the user of CI may write everywhere."""
    assert bench.convert()[0] == 0
    before = bench.weights()
    (bench.folder / "log").unlink()

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    from ttc import api

    real = Path.open

    def guarded(path: Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
        inside = (bench.folder / "cache") in path.parents
        if inside and set(mode) & set("wax+"):
            refuse()
        return real(path, mode, *rest, **named)

    monkeypatch.setattr(Path, "open", guarded)
    out = bench.folder / "out0.0"
    api.compile(bench.spec, weights=str(bench.checkpoint), out=out, cache=bench.folder / "cache")
    assert bench.weights() == before


def test_a_copied_artefact_shares_no_file_with_the_cache(bench: Bench) -> None:
    from ttc import api

    arguments: dict[str, Any] = {"weights": str(bench.checkpoint), "cache": bench.folder / "c"}
    linked = api.compile(bench.spec, out=bench.folder / "linked", **arguments)
    copied = api.compile(bench.spec, out=bench.folder / "copied", copy_weights=True, **arguments)
    assert copied.manifest == linked.manifest
    counts = {
        name: {path.stat().st_nlink for path in (bench.folder / name).glob("weights/*")}
        for name in ("linked", "copied")
    }
    assert counts == {"linked": {2}, "copied": {1}}


def test_weights_are_not_lost_to_no_weights(bench: Bench) -> None:
    from ttc import api
    from ttc.errors import UsageError

    assert bench.convert()[0] == 0
    with pytest.raises(UsageError, match="which --no-weights would delete"):
        api.compile(bench.spec, out=bench.folder / "out0.0", no_weights=True)
    assert bench.weights()


def test_an_artefact_needs_no_checkpoint(bench: Bench) -> None:
    from ttc import api

    assert bench.convert()[0] == 0
    (bench.checkpoint / "model.safetensors").unlink()
    (bench.folder / "cache").rename(bench.folder / "elsewhere")
    with api.load(bench.folder / "out0.0", backend="emulate", verify_weights=True) as model:
        assert model.backend == "emulate"
    record = json.loads((bench.folder / "out0.0" / "manifest.json").read_text())
    assert str(bench.folder) not in json.dumps(record)
