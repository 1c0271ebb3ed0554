# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
"""The tokenizer files of an artefact, in Hugging Face's format, whatever the checkpoint's format.

An artefact has exactly three: tokenizer.json; tokenizer_config.json with the special tokens and the
chat template; generation_config.json with every id that ends a text.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from ttc.checkpoint.companions import check_end_ids, read_checked
from ttc.checkpoint.files import Checkpoint
from ttc.checkpoint.gguf_file import GgufFile
from ttc.checkpoint.stored import how_to_get, read_json, read_text, refuse_pointer
from ttc.errors import CheckpointError, Problem

TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
GENERATION_CONFIG, CONFIG = "generation_config.json", "config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
TEMPLATE, TEMPLATE_JSON = "chat_template.jinja", "chat_template.json"
SLOW_TOKENIZER = "tokenizer.model"
# Where the uploader kept the folder, and code that ttc would never run.
DROPPED = ("name_or_path", "auto_map")


def write_tokenizer(
    checkpoint: Checkpoint, folder: Path, vocab: int | None = None
) -> tuple[str, ...]:
    """Write the three files into the artefact folder; their names.

    vocab   tokens of the model, of which those that end a text must be; None for any

    tokenizer.json is copied unchanged. The chat template is the one transformers would use, moved
    into tokenizer_config.json. CheckpointError if the checkpoint has no tokenizer that can be read,
    names no token that ends a text, or holds what none of the three files may.
    """
    from tokenizers import Tokenizer  # here, as most uses of this module only read ids

    origin = _generation_path(checkpoint)
    if isinstance(checkpoint, GgufFile) and checkpoint.companion(TOKENIZER) is None:
        from ttc.checkpoint import gguf_tokenizer

        text = gguf_tokenizer.build_tokenizer(checkpoint).to_str(pretty=False)
        config = gguf_tokenizer.tokenizer_config(checkpoint)
        generation, origin = gguf_tokenizer.generation_config(checkpoint), None
    elif checkpoint.format == "meta" and checkpoint.companion(TOKENIZER) is None:
        text, config, generation = _of_meta(checkpoint)
    else:
        text = _tokenizer_text(checkpoint)
        config = _tokenizer_config(checkpoint)
        generation = _generation_config(checkpoint)
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the Rust side raises no narrower type
        raise CheckpointError(
            Problem(
                message=f"{_tokenizer_path(checkpoint)} is no tokenizer that can be read",
                note=str(error),
                help="download the file again",
            )
        ) from error
    ends = [tokenizer.token_to_id(name) for name in (_token_text(config.get("eos_token")),) if name]
    given = _ids(generation.get("eos_token_id"))
    if vocab is not None:
        check_end_ids(given, vocab, origin, checkpoint.description)
    generation["eos_token_id"] = _end_ids(checkpoint, given, ends)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TOKENIZER).write_text(text, encoding="utf-8")
    _write_json(folder / TOKENIZER_CONFIG, config)
    _write_json(folder / GENERATION_CONFIG, generation)
    return (TOKENIZER, TOKENIZER_CONFIG, GENERATION_CONFIG)


def eos_token_ids(folder: Path) -> tuple[int, ...]:
    """Every id that ends a text, from an artefact's generation_config.json."""
    value: object = read_json(folder / GENERATION_CONFIG).get("eos_token_id")
    return tuple(_ids(value))


def chat_template_file(checkpoint: Checkpoint) -> Path | None:
    """The file that the chat template is from; None where it is in no file of its own."""
    jinja = checkpoint.companion(TEMPLATE)
    if jinja is not None:
        return jinja
    for name in (TOKENIZER_CONFIG, SPECIAL_TOKENS, TEMPLATE_JSON):
        path = checkpoint.companion(name)
        if path is not None and "chat_template" in read_json(path):
            return path
    return checkpoint.path if isinstance(checkpoint, GgufFile) else None


def _of_meta(checkpoint: Checkpoint) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The three files, from Meta's tokenizer.model and what the user put beside it."""
    from ttc.checkpoint.meta_tokenizer import meta_tokenizer

    path = checkpoint.companion(SLOW_TOKENIZER)
    if path is None:
        raise _no_tokenizer(checkpoint)
    text, config, generation = meta_tokenizer(path)
    config |= _tokenizer_config(checkpoint)
    return text, config, generation | _checked(checkpoint, GENERATION_CONFIG, "generation_config")


def _tokenizer_text(checkpoint: Checkpoint) -> str:
    path = checkpoint.companion(TOKENIZER)
    if path is not None:
        refuse_pointer(path)
        return read_text(path)
    slow = checkpoint.companion(SLOW_TOKENIZER)
    if slow is not None:
        refuse_pointer(slow)
        return _convert_slow(slow)
    raise _no_tokenizer(checkpoint)


def _no_tokenizer(checkpoint: Checkpoint) -> CheckpointError:
    path = checkpoint.companion(CONFIG)
    return CheckpointError(
        Problem(
            message=f"no tokenizer in {checkpoint.description}",
            note=f"expected {TOKENIZER} or {SLOW_TOKENIZER}",
            help=how_to_get(path or Path(checkpoint.description), TOKENIZER),
        )
    )


def _convert_slow(path: Path) -> str:
    """tokenizer.json made by transformers from a SentencePiece model; runs no checkpoint code."""
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(  # pyright: ignore[reportUnknownMemberType]
            path.parent, use_fast=True, trust_remote_code=False, local_files_only=True
        )
        return cast(str, tokenizer.backend_tokenizer.to_str())
    except Exception as error:  # missing sentencepiece or protobuf, or an unknown tokenizer class
        raise CheckpointError(
            Problem(
                message=f"{path} cannot be converted to {TOKENIZER}",
                note=str(error).strip().splitlines()[0] if str(error).strip() else "",
                help=f"add the {TOKENIZER} of the model to the folder, "
                "or install sentencepiece and protobuf",
            )
        ) from error


def _tokenizer_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """tokenizer_config.json with what transformers reads from the files beside it."""
    config = _checked(checkpoint, SPECIAL_TOKENS, "tokenizer_config")
    config |= _checked(checkpoint, TOKENIZER_CONFIG, "tokenizer_config")
    jinja = checkpoint.companion(TEMPLATE)
    if jinja is not None:
        config["chat_template"] = read_text(jinja)
    elif "chat_template" not in config:
        config |= _checked(checkpoint, TEMPLATE_JSON, "tokenizer_config")
    return {name: value for name, value in config.items() if name not in DROPPED}


def _generation_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """generation_config.json, or the token ids of config.json as older checkpoints have them."""
    if checkpoint.companion(GENERATION_CONFIG) is not None:
        return _checked(checkpoint, GENERATION_CONFIG, "generation_config")
    if checkpoint.companion(CONFIG) is not None:
        config = _checked(checkpoint, CONFIG, "end_ids")
    else:
        config = checkpoint.config() or {}
    if isinstance(checkpoint, GgufFile) and config.get("eos_token_id") is None:
        from ttc.checkpoint.gguf_tokenizer import end_ids

        config = {**config, "eos_token_id": end_ids(checkpoint)}
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {name: config[name] for name in names if config.get(name) is not None}


def _end_ids(checkpoint: Checkpoint, given: Iterable[int], more: Iterable[int | None]) -> list[int]:
    ids = list(dict.fromkeys([*given, *(i for i in more if i is not None)]))
    if ids:
        return ids
    beside = checkpoint.companion(GENERATION_CONFIG) or checkpoint.companion(TOKENIZER)
    place = beside.with_name(GENERATION_CONFIG) if beside else f"{GENERATION_CONFIG} beside it"
    raise CheckpointError(
        Problem(
            message=f"{checkpoint.description} names no token that ends a text",
            note=f"neither eos_token_id in {GENERATION_CONFIG} nor eos_token in {TOKENIZER_CONFIG}",
            help=f'add "eos_token_id" to {place}',
        )
    )


def _ids(value: object) -> list[int]:
    values = cast(list[object], value) if isinstance(value, list) else [value]
    return [item for item in values if type(item) is int]


def _token_text(token: object) -> str:
    """The text of a token that is written as text or as {"content": text, ...}."""
    if isinstance(token, dict):
        token = cast(Mapping[str, object], token).get("content")
    return token if isinstance(token, str) else ""


def _checked(checkpoint: Checkpoint, name: str, schema: str) -> dict[str, Any]:
    """What a JSON file of the checkpoint holds; nothing if there is none."""
    path = checkpoint.companion(name)
    return {} if path is None else read_checked(path, schema)


def _tokenizer_path(checkpoint: Checkpoint) -> str:
    """The file that the tokenizer is from."""
    for name in (TOKENIZER, SLOW_TOKENIZER):
        if (path := checkpoint.companion(name)) is not None:
            return str(path)
    return f"the tokenizer of {checkpoint.description}"


def _generation_path(checkpoint: Checkpoint) -> Path | None:
    """The file that says which tokens end a text, if it is one of JSON."""
    found = (checkpoint.companion(name) for name in (GENERATION_CONFIG, CONFIG))
    return next((path for path in found if path is not None), None)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
