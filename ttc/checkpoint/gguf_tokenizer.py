# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
"""The tokenizer that GGUF metadata describes, as the files that Hugging Face would have.

GGUF names only the kind of pre-tokenizer; gguf_formats.json says what each kind splits.
"""

from typing import Any, cast

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from ttc.checkpoint.gguf_file import TOKENS, GgufFile, gguf_formats
from ttc.errors import CheckpointError, Problem, did_you_mean

CONTROL, USER_DEFINED = 3, 4  # llama_token_type of ggml-org's vocabulary header
END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
NAMED_TOKENS = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}


def build_tokenizer(gguf: GgufFile) -> Tokenizer:
    """The byte-level BPE tokenizer of the metadata; CheckpointError for an unknown kind."""
    kind = _pre_tokenizer_kind(gguf)
    tokens, merges = _texts(gguf, TOKENS), _texts(gguf, "tokenizer.ggml.merges")
    pairs = [tuple(merge.split(" ", 1)) for merge in merges]
    try:
        model = models.BPE(
            vocab={token: i for i, token in enumerate(tokens)},
            merges=cast(list[tuple[str, str]], pairs),
            ignore_merges=kind.get("whole_words_first", False),
        )
    except Exception as error:  # the Rust side raises no narrower type
        raise _damaged(gguf, f"tokenizer.ggml.merges do not fit the tokens: {error}") from error
    tokenizer = Tokenizer(model)
    if form := kind.get("normal_form"):
        tokenizer.normalizer = getattr(normalizers, form)()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.pre_tokenizer = _pre_tokenizer(kind)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    _add_tokens(gguf, tokenizer, tokens)
    if gguf.metadata.get("tokenizer.ggml.add_bos_token", kind.get("begin_of_text", False)):
        _prepend(gguf, tokenizer, tokens)
    return tokenizer


def tokenizer_config(gguf: GgufFile) -> dict[str, Any]:
    """What tokenizer_config.json would hold: special tokens by name, and the chat template."""
    tokens = _texts(gguf, TOKENS)
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": gguf.config().get("max_position_embeddings"),
    }
    for name, key in NAMED_TOKENS.items():
        if (number := _token_id(gguf, key, len(tokens))) is not None:
            config[name] = tokens[number]
    template = gguf.metadata.get("tokenizer.chat_template")
    return config if template is None else config | {"chat_template": template}


def generation_config(gguf: GgufFile) -> dict[str, Any]:
    """What generation_config.json would hold: the ids of the begin, end and padding tokens."""
    count = len(_texts(gguf, TOKENS))
    ends = [i for key in END_KEYS if (i := _token_id(gguf, key, count)) is not None]
    config: dict[str, Any] = {"eos_token_id": list(dict.fromkeys(ends))}
    for name in ("bos_token", "pad_token"):
        if (number := _token_id(gguf, NAMED_TOKENS[name], count)) is not None:
            config[f"{name}_id"] = number
    return config


def end_ids(gguf: GgufFile) -> list[int]:
    """The ids that end a text, as far as the metadata names any: the rest of it may be unusable."""
    ids = [gguf.metadata.get(f"tokenizer.ggml.{key}") for key in END_KEYS]
    return list(dict.fromkeys(each for each in ids if isinstance(each, int) and each >= 0))


def _pre_tokenizer_kind(gguf: GgufFile) -> dict[str, Any]:
    formats = gguf_formats()
    model = gguf.metadata.get("tokenizer.ggml.model")
    if model != formats["byte_level_bpe"]:
        raise _unknown(gguf, f"tokenizer.ggml.model is {model!r}", "only byte-level BPE is read")
    kinds = {name for name in formats["pre_tokenizers"] if name != "source"}
    name = gguf.metadata.get("tokenizer.ggml.pre")
    if name not in kinds:
        hint = did_you_mean(str(name), kinds)
        raise _unknown(gguf, f"tokenizer.ggml.pre is {name!r}", hint)
    return cast(dict[str, Any], formats["pre_tokenizers"][name])


def _pre_tokenizer(kind: dict[str, Any]) -> Any:
    steps: list[Any] = []
    if kind.get("single_digits"):
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    if "split" in kind:
        steps.append(pre_tokenizers.Split(Regex(kind["split"]), "isolated"))
    byte_level = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=kind.get("byte_level_split", False)
    )
    return pre_tokenizers.Sequence([*steps, byte_level])


def _add_tokens(gguf: GgufFile, tokenizer: Tokenizer, tokens: tuple[str, ...]) -> None:
    """Tokens that text is split at before anything else: control and user-defined ones."""
    kinds = gguf.metadata.get("tokenizer.ggml.token_type", ())
    if not isinstance(kinds, tuple) or len(kinds) != len(tokens):
        raise _damaged(gguf, "tokenizer.ggml.token_type does not have one entry for each token")
    for token, kind in zip(tokens, kinds, strict=True):
        if kind == CONTROL:
            tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)])
        elif kind == USER_DEFINED:
            tokenizer.add_tokens([AddedToken(token, special=False, normalized=False)])


def _prepend(gguf: GgufFile, tokenizer: Tokenizer, tokens: tuple[str, ...]) -> None:
    number = _token_id(gguf, NAMED_TOKENS["bos_token"], len(tokens))
    if number is None:
        raise _damaged(gguf, "text begins with a token that tokenizer.ggml.bos_token_id must name")
    begin = tokens[number]
    template = processors.TemplateProcessing(
        single=f"{begin} $A", pair=f"{begin} $A {begin} $B", special_tokens=[(begin, number)]
    )
    byte_level = processors.ByteLevel(trim_offsets=False)
    tokenizer.post_processor = processors.Sequence([byte_level, template])  # pyright: ignore[reportAttributeAccessIssue]


def _token_id(gguf: GgufFile, key: str, count: int) -> int | None:
    number = gguf.metadata.get(f"tokenizer.ggml.{key}")
    if number is None:
        return None
    if not isinstance(number, int) or not 0 <= number < count:
        raise _damaged(gguf, f"tokenizer.ggml.{key} is {number!r}, there are {count} tokens")
    return number


def _texts(gguf: GgufFile, key: str) -> tuple[str, ...]:
    value = gguf.metadata.get(key)
    if not isinstance(value, tuple) or not all(isinstance(item, str) for item in value):
        raise _damaged(gguf, f"{key} is not a list of texts")
    return cast(tuple[str, ...], value)


def _unknown(gguf: GgufFile, found: str, hint: str) -> CheckpointError:
    return CheckpointError(
        Problem(
            message=f"{gguf.path} has a tokenizer of a kind that ttc does not know",
            note=found,
            details=(hint,) if hint else (),
            help="put the tokenizer.json and tokenizer_config.json of the model beside the file",
        )
    )


def _damaged(gguf: GgufFile, what: str) -> CheckpointError:
    return CheckpointError(
        Problem(
            message=f"{gguf.path} has no usable tokenizer",
            note=what,
            help="put the tokenizer.json and tokenizer_config.json of the model beside the file",
        )
    )
