"""Text pieces and stop strings: pieces join to the whole text, nothing is shown too early."""

from pathlib import Path
from typing import Any, cast

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from ttc.errors import ArtefactError
from ttc.runtime.tokens import StopStrings, TextPieces, Tokenizer, load_tokenizer

pytestmark = pytest.mark.fast

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level() -> Any:
    """A byte-level BPE with no merges: every byte is a token."""
    codec = cast(Any, tokenizers.Tokenizer(models.BPE()))
    codec.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    codec.decoder = decoders.ByteLevel()
    codec.train_from_iterator(
        [],
        trainers.BpeTrainer(
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        ),
    )
    return codec


def space_dropping() -> Any:
    """Words with a leading space mark, bytes for the rest; decoding drops the first space."""
    vocab = {token: i for i, token in enumerate([*BYTES, "\u2581", "\u2581Paris", "\u2581is", "a"])}
    codec = cast(Any, tokenizers.Tokenizer(models.BPE(vocab, [], byte_fallback=True)))
    codec.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    codec.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return codec


def pieces(codec: Any, ids: list[int]) -> list[str]:
    text = TextPieces(decoder=Tokenizer(codec=codec, chat=None))
    return [*(text.push(token) for token in ids), text.finish()]


def test_a_character_of_four_tokens_is_one_piece() -> None:
    codec = byte_level()
    ids = codec.encode("a\N{GRINNING FACE}b").ids
    assert pieces(codec, ids) == ["a", "", "", "", "\N{GRINNING FACE}", "b", ""]


def test_an_incomplete_character_comes_at_the_end() -> None:
    codec = byte_level()
    ids = codec.encode("a\N{GRINNING FACE}").ids[:-1]
    assert pieces(codec, ids)[:-1] == ["a", "", "", ""]
    assert "".join(pieces(codec, ids)) == codec.decode(ids)


@given(st.text())
def test_pieces_join_to_the_whole_text(text: str) -> None:
    codec = byte_level()
    assert "".join(pieces(codec, codec.encode(text).ids)) == text


def test_spaces_between_words_are_kept() -> None:
    codec = space_dropping()
    ids = [codec.token_to_id(token) for token in ("\u2581Paris", "\u2581is", "a", "\u2581Paris")]
    assert pieces(codec, ids) == ["Paris", " is", "a", " Paris", ""]


@given(st.lists(st.sampled_from([256, 257, 258, 259]) | st.text()))
def test_words_and_bytes_join_to_the_whole_text(parts: list[int | str]) -> None:
    ids: list[int] = []
    for part in parts:
        ids += [part] if isinstance(part, int) else part.encode()
    codec = space_dropping()
    assert "".join(pieces(codec, ids)) == codec.decode(ids)


@pytest.mark.parametrize(
    ("stops", "texts", "shown", "stopped"),
    [
        (("END",), ["go", " EN", "D now"], "go ", True),
        (("END",), ["go", " EN", "ough"], "go ENough", False),
        (("b", "abc"), ["xab"], "xa", True),
        (("aab",), ["aaab"], "a", True),
        (("\n\n",), ["one\n", "two\n", "\nthree"], "one\ntwo", True),
        (("END",), ["E"], "E", False),
        ((), ["any", "thing"], "anything", False),
    ],
)
def test_stop_strings(stops: tuple[str, ...], texts: list[str], shown: str, stopped: bool) -> None:
    stop = StopStrings(stops=stops)
    said = ""
    for text in texts:
        said += stop.push(text)
        if stop.stopped:
            break
    assert (said + stop.finish(), stop.stopped) == (shown, stopped)


def test_what_cannot_begin_a_stop_string_is_shown_at_once() -> None:
    stop = StopStrings(stops=("END",))
    assert stop.push("abE") == "ab"
    assert stop.push("x") == "Ex"


def test_a_tokenizer_folder(tmp_path: Path) -> None:
    byte_level().save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.chat is None
    assert tokenizer.decode(tokenizer.encode("Caf\xe9")) == "Caf\xe9"


def test_a_damaged_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ArtefactError, match="cannot read the tokenizer"):
        load_tokenizer(tmp_path)
