"""Is what the program computes right? Its logits on the emulator against a reference."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ttc.runtime.replica import Logits
from ttc.runtime.session import Session
from ttc.verify.compare import Agreement, compare_logits

PREFILL_TOKENS = 128
"""Of the text, how much is read by prefill; the rest is decoded token by token."""

PCC_FLOOR = 0.95
"""Below it a program is wrong. Two neighbours of 30 decoders swapped, the mildest mistake tried,
give 0.93; the same small model in bfp4 and LoFi gives 0.956 on a question and 0.979 on the text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Logits [tokens, vocab] after each token of a text, and how long they took."""

    logits: Logits
    prefill_tokens: int
    prefill_s: float
    decode_s: float

    @property
    def decode_tokens_per_s(self) -> float | None:
        steps = len(self.logits) - self.prefill_tokens
        return steps / self.decode_s if steps else None


@dataclass(frozen=True, slots=True, kw_only=True)
class EmulatorVerdict:
    """How the emulated program agrees with the reference over a text."""

    agreement: Agreement
    prefill_tokens: int
    prefill_s: float
    decode_tokens_per_s: float | None

    @property
    def ok(self) -> bool:
        return self.agreement.pcc >= PCC_FLOOR  # also False for NaN

    def to_json(self) -> dict[str, Any]:
        """The value of "emulate" in what `ttc verify --json` prints."""
        return {
            "ok": self.ok,
            "top1_vs_reference": self.agreement.top1,
            "top5_vs_reference": self.agreement.top5,
            "logits_pcc": self.agreement.pcc,
            "kl_vs_reference": self.agreement.kl,
            "tokens": self.agreement.positions,
            "prefill_tokens": self.prefill_tokens,
            "prefill_s": self.prefill_s,
            "decode_tokens_per_s": self.decode_tokens_per_s,
        }


def check_logits(scored: Scored, reference: Logits) -> EmulatorVerdict:
    return EmulatorVerdict(
        agreement=compare_logits(scored.logits, reference),
        prefill_tokens=scored.prefill_tokens,
        prefill_s=scored.prefill_s,
        decode_tokens_per_s=scored.decode_tokens_per_s,
    )


def score_text(
    session: Session,
    token_ids: Sequence[int],
    on_token: Callable[[int], None] = lambda done: None,
) -> Scored:
    """Read a text as user 0, its true tokens at every step; `on_token` is told how many are done.

    The beginning goes through prefill and the rest through decode, so that both are checked, and
    the KV cache that one writes and the other reads.
    """
    first = min(PREFILL_TOKENS, len(token_ids), session.program.CONTEXT)
    started = time.perf_counter()
    logits = [session.prefill_all(token_ids[:first])]
    prefilled = time.perf_counter()
    on_token(first)
    for done, token in enumerate(token_ids[first:], first + 1):
        logits.append(session.decode([token]))
        on_token(done)
    return Scored(
        logits=np.concatenate(logits),
        prefill_tokens=first,
        prefill_s=prefilled - started,
        decode_s=time.perf_counter() - prefilled,
    )
