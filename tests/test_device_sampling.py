"""The draw that a program does on its device, against the host's: the same tokens, and the same
distribution."""

# pyright: reportUnknownMemberType=false, reportMissingTypeStubs=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from random_models import Case, make_case, open_session
from scipy.stats import chi2_contingency, chisquare

from ttc.runtime.draws import DrawInputs
from ttc.runtime.replica import Replica
from ttc.runtime.sampling import BELOW_ONE, Sampler, Sampling, logprob, sample

pytestmark = pytest.mark.emulate

USERS = 32
PROGRAMS = (("N150", "bf16"), ("N150", "performance"), ("T3K", "bf16"), ("N300", "performance"))
SETTINGS = (
    Sampling(temperature=1.0, top_k=32),
    Sampling(temperature=0.7, top_k=20, top_p=0.8),
    Sampling(temperature=1.5, top_k=5),
    Sampling(temperature=1.0, top_k=8, top_p=0.3),
    Sampling(temperature=0.8, top_k=1),
    Sampling(),
)
VOCABULARIES = {"whole tiles on every rank": 2048, "padded": 323}


@dataclass(frozen=True, kw_only=True)
class Chooser:
    """The emitted `sample` on logits of one's own, [users, vocab]."""

    replica: Replica
    like: Any  # what a decode step returned

    def __call__(
        self, logits: NDArray[np.float32], each: Sequence[Sampling], numbers: Sequence[float]
    ) -> list[int]:
        program, backend = self.replica.program, self.replica.backend
        given = self._given(logits)
        tokens = backend.put(torch.zeros(1, 1, 1, USERS, dtype=torch.int32), "uint32")
        inputs = DrawInputs(program, backend)
        inputs.write([Sampler(how, [0]).on_device(program.TOP_K) for how in each])
        inputs.write_numbers(numbers)
        program.sample(given, tokens, inputs.how)
        return backend.read(tokens).flatten().tolist()

    def logprobs(self, logits: NDArray[np.float32], tokens: Sequence[int]) -> list[float]:
        """What a replica makes of the sums of the emitted `logprobs`, by the emulator."""
        program, backend, replica = self.replica.program, self.replica.backend, self.replica
        given = self._given(logits)
        tensor = backend.put(torch.zeros(1, 1, 1, USERS, dtype=torch.int32), "uint32")
        drawn = program.sample(given, tensor, DrawInputs(program, backend).how)
        replica.lengths = [1] * USERS
        return replica.logprobs(tokens, drawn, program.logprobs(given))

    def _given(self, logits: NDArray[np.float32]) -> Any:
        program, backend, like = self.replica.program, self.replica.backend, self.like
        ttnn: Any = backend.ttnn
        columns = like.shape[3] * program.VOCAB_SHARDS
        padded = torch.zeros(1, 1, USERS, columns)
        padded[0, 0, :, : program.VOCAB] = torch.from_numpy(logits)
        shares = {}
        if program.VOCAB_SHARDS > 1:
            shares["mesh_mapper"] = ttnn.ShardTensorToMesh(backend.device, 3)
        return ttnn.from_torch(
            padded,
            dtype=like.dtype,
            layout=ttnn.TILE_LAYOUT,
            device=backend.device,
            memory_config=like.memory_config(),
            **shares,
        )

    def rounded(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits as a program of this precision has them."""
        if self.like.dtype.name == "FLOAT32":
            return logits
        return torch.from_numpy(logits).bfloat16().float().numpy()


@pytest.fixture(scope="module", params=VOCABULARIES)
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    with tempfile.TemporaryDirectory() as folder:
        vocab = VOCABULARIES[request.param]
        yield make_case(Path(folder), "LlamaForCausalLM", {"vocab_size": vocab})


@pytest.fixture(scope="module", params=PROGRAMS, ids="-".join)
def chooser(
    case: Case, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Chooser]:
    mesh, precision = request.param
    folder = tmp_path_factory.mktemp("program")
    with open_session(case, folder, mesh=mesh, precision=precision, batch=USERS) as session:
        replica = session.replicas[0]
        replica.join(0, [5], 8)
        replica.write([5])
        yield Chooser(replica=replica, like=replica.decode())


def test_the_same_numbers_draw_the_same_tokens(chooser: Chooser) -> None:
    """But where a number falls on the edge of a token's share, to what float32 and TF32 tell."""
    rng = np.random.default_rng(0)
    same, vocab = 0, chooser.replica.program.VOCAB
    for _ in range(16):
        logits = chooser.rounded(rng.normal(0, 3, (USERS, vocab)).astype(np.float32))
        each = [SETTINGS[user % len(SETTINGS)] for user in range(USERS)]
        numbers = [float(np.float32(rng.random())) for _ in range(USERS)]
        drawn = chooser(logits, each, numbers)
        expected = [sample(*of_user) for of_user in zip(logits, each, numbers, strict=True)]
        for how, token, other in zip(each, drawn, expected, strict=True):
            assert token == other or not how.greedy
        same += sum(token == other for token, other in zip(drawn, expected, strict=True))
    assert same >= 16 * USERS - 4


def test_of_equal_logits_the_first_is_the_likeliest(chooser: Chooser) -> None:
    logits = np.zeros((USERS, chooser.replica.program.VOCAB), np.float32)
    for user in range(USERS):
        logits[user, 3 + user :: 40 + user] = 1.0
    assert chooser(logits, [Sampling()] * USERS, [0.0] * USERS) == [3 + u for u in range(USERS)]
    edges = [0.0, BELOW_ONE] * (USERS // 2)
    few = [Sampling(temperature=1.0, top_k=2)] * USERS
    expected = [sample(row, few[0], edge) for row, edge in zip(logits, edges, strict=True)]
    assert chooser(logits, few, edges) == expected


def test_log_probabilities(chooser: Chooser) -> None:
    """Of any of the most likely tokens; sums of TF32 are up to a thousandth too small."""
    rng = np.random.default_rng(5)
    vocab = chooser.replica.program.VOCAB
    logits = chooser.rounded(rng.normal(-4, 3, (USERS, vocab)).astype(np.float32))
    tokens = [int(np.argsort(-row)[user]) for user, row in enumerate(logits)]
    expected = [logprob(row, token) for row, token in zip(logits, tokens, strict=True)]
    assert chooser.logprobs(logits, tokens) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("how", SETTINGS[:4], ids=lambda how: f"{how.top_k} {how.top_p}")
def test_both_draw_from_one_distribution(chooser: Chooser, how: Sampling) -> None:
    """Both against the probabilities, and against each other, with numbers of their own."""
    rng = np.random.default_rng(how.top_k)
    vocab = chooser.replica.program.VOCAB
    row = chooser.rounded(rng.normal(0, 2, vocab).astype(np.float32))
    logits = np.tile(row, (USERS, 1))
    device: list[int] = []
    for _ in range(100):
        device += chooser(logits, [how] * USERS, rng.random(USERS, np.float32).tolist())
    host = [sample(row, how, number) for number in rng.random(len(device), np.float32)]
    order = np.argsort(-row, kind="stable")[: how.top_k]
    weights = np.exp(row[order].astype(np.float64) / how.temperature)
    weights /= weights.sum()
    kept = np.cumsum(weights) - weights < how.top_p
    expected = weights[kept] / weights[kept].sum() * len(device)
    counts = [np.bincount(drawn, minlength=vocab)[order[kept]] for drawn in (device, host)]
    assert [count.sum() for count in counts] == [len(device)] * 2, "nothing else is drawn"
    often = expected >= 5
    for count in counts:
        grouped = [*count[often], count[~often].sum()], [*expected[often], expected[~often].sum()]
        observed, wanted = (np.array(each)[np.array(grouped[1]) > 0] for each in grouped)
        assert len(wanted) == 1 or chisquare(observed, wanted).pvalue > 0.001
    table = np.array([[*count[often], count[~often].sum()] for count in counts])
    table = table[:, table.sum(0) > 0]
    assert table.shape[1] == 1 or chi2_contingency(table).pvalue > 0.001
