# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
"""Meta's tokenizer.model for Hugging Face: byte-pair ranks (Llama 3) or SentencePiece."""

import base64
import binascii
from functools import cache
from pathlib import Path
from typing import Any, cast

from ttc.checkpoint.stored import read_json, refuse_pointer
from ttc.errors import CheckpointError, Problem

TOKENIZER = "tokenizer.model"
LLAMA2_BEGIN, LLAMA2_END = "<s>", "</s>"
LIMIT_BYTES = 64 << 20


def meta_tokenizer(path: Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """tokenizer.json, tokenizer_config.json and generation_config.json of a tokenizer.model.

    CheckpointError if the file is neither a list of byte-pair ranks nor a SentencePiece model.
    """
    if path.stat().st_size > LIMIT_BYTES:
        raise _unreadable(path, f"it is larger than {LIMIT_BYTES:,} bytes")
    refuse_pointer(path)
    content = path.read_bytes()
    ranks = _ranks(path, content)
    if ranks is None:
        tokenizer = _sentencepiece(path)
        begin, end, ends = LLAMA2_BEGIN, LLAMA2_END, [LLAMA2_END]
    else:
        tokenizer = _byte_pairs(ranks)
        begin, end, ends = _facts()["begin"], _facts()["end"], _facts()["ends"]
    begin_id = tokenizer.token_to_id(begin)
    ids = [tokenizer.token_to_id(token) for token in ends]
    config = {
        "bos_token": begin,
        "eos_token": end,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    generation = {"bos_token_id": begin_id, "eos_token_id": [i for i in ids if i is not None]}
    return tokenizer.to_str(pretty=False), config, generation


@cache
def _facts() -> dict[str, Any]:
    return read_json(Path(__file__).with_name("meta_tokens.json"))


def _ranks(path: Path, content: bytes) -> dict[bytes, int] | None:
    """The rank of every token, from lines of base64 and a number; None if it is no such file."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(content.splitlines()):
        fields = line.split()
        if not fields:
            continue
        try:
            token, rank = base64.b64decode(fields[0], validate=True), int(fields[1])
        except (binascii.Error, ValueError, IndexError) as error:
            if not ranks:
                return None
            raise _unreadable(path, f"line {number + 1} is not a token and its rank") from error
        ranks[token] = rank
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise _unreadable(path, "its ranks are not the numbers from 0 on")
    return ranks or None


def _byte_pairs(ranks: dict[bytes, int]) -> Any:
    """A byte-level BPE tokenizer that merges by rank, with the special tokens after the others."""
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        pre_tokenizers,
    )

    letters = _letters()
    vocabulary = {"".join(letters[byte] for byte in token): rank for token, rank in ranks.items()}
    merges = _merges(ranks, letters)
    model = models.BPE(vocabulary, merges, ignore_merges=True)
    tokenizer: Any = Tokenizer(model)  # its properties have no setters in its stubs
    split = pre_tokenizers.Split(Regex(_facts()["pattern"]), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in _special_tokens()]
    )
    _add_begin(tokenizer, _facts()["begin"])
    return tokenizer


def _special_tokens() -> list[str]:
    facts = _facts()
    named = list(cast(list[str], facts["special"]))
    first = int(facts["first_reserved"])
    missing = int(facts["special_count"]) - len(named)
    numbers = range(first, first + missing)
    return named + [str(facts["reserved"]).format(number=number) for number in numbers]


def _merges(ranks: dict[bytes, int], letters: dict[int, str]) -> list[tuple[str, str]]:
    """For every token the pairs of tokens that make it, by their own ranks, in order of rank."""

    def text(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    merges: list[tuple[str, str]] = []
    for token in sorted(ranks, key=ranks.__getitem__):
        cuts = [
            (ranks[token[:at]], ranks[token[at:]], at)
            for at in range(1, len(token))
            if token[:at] in ranks and token[at:] in ranks
        ]
        merges += [(text(token[:at]), text(token[at:])) for _, _, at in sorted(cuts)]
    return merges


def _letters() -> dict[int, str]:
    """The letter that stands for each byte in a byte-level vocabulary (GPT-2's table)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    letters = {byte: chr(byte) for byte in plain}
    return letters | {byte: chr(256 + number) for number, byte in enumerate(others)}


def _sentencepiece(path: Path) -> Any:
    """The tokenizer that transformers makes of a SentencePiece model; runs no checkpoint code."""
    from transformers import LlamaTokenizer
    from transformers.convert_slow_tokenizer import convert_slow_tokenizer

    try:
        slow = cast(Any, LlamaTokenizer)(vocab_file=str(path), legacy=True)
        tokenizer: Any = convert_slow_tokenizer(slow)
    except Exception as error:  # the C++ side raises no narrower type
        lines = str(error).strip().splitlines()
        raise _unreadable(path, lines[0] if lines else type(error).__name__) from error
    _add_begin(tokenizer, LLAMA2_BEGIN)
    return tokenizer


def _add_begin(tokenizer: Any, begin: str) -> None:
    """Have the token that begins a text put before it."""
    from tokenizers import processors

    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A",
        pair=f"{begin} $A {begin} $B",
        special_tokens=[(begin, tokenizer.token_to_id(begin))],
    )


def _unreadable(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        Problem(
            message=f"{path} is not a tokenizer that can be read",
            note=why,
            help="download the file again, or put a tokenizer.json beside it",
        )
    )
