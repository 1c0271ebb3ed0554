# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
"""Download a checkpoint from the Hugging Face hub: the files that are needed and no others.

huggingface_hub does the work, with its own environment variables, cache, resume and progress bars.
What it would wait for without end is given up after HF_HUB_ETAG_TIMEOUT seconds.
"""

import errno
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import requests
from huggingface_hub import HfApi, configure_http_backend, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    NotASafetensorsRepoError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    SafetensorsParsingError,
)

from ttc.checkpoint.safetensors_folder import LAYOUTS, weight_files
from ttc.checkpoint.stored import read_json
from ttc.errors import CheckpointError, Problem

REASONS = (HfHubHTTPError, requests.Timeout)
"""What of a failed request says more than that the local copy is missing."""

NO_ADDRESS = (
    requests.exceptions.InvalidURL,
    requests.exceptions.MissingSchema,
    requests.exceptions.InvalidSchema,
)

COMMIT = re.compile(r"[0-9a-f]{40}")
SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    *(index for _, index in LAYOUTS),
)


def download_checkpoint(repository: str, revision: str | None) -> Path:
    """The local snapshot folder of a hub repository, ORG/NAME, at a branch, tag or commit.

    The indices are fetched first, and then only the shards that the preferred one names, so that a
    second copy of the weights in another format stays on the hub.
    """
    folder = _snapshot(repository, revision, SMALL_FILES)
    _check_commit(repository, revision, folder)
    if shards := weight_files(folder):
        return _snapshot(repository, revision, shards)
    for single, _ in LAYOUTS:
        folder = _snapshot(repository, revision, (single,))
        if (folder / single).is_file():
            break
    return folder


def remote_headers(
    repository: str, revision: str | None
) -> tuple[dict[str, Any], dict[str, tuple[str, tuple[int, ...]]]]:
    """config.json of a hub repository, and (dtype, shape) of every tensor by name.

    The headers of safetensors files come by range requests; nothing of the weights is fetched.
    """
    folder = _snapshot(repository, revision, ("config.json",))
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            Problem(
                message=f"'{repository}' has no config.json",
                help="name a repository that holds a model in transformers' format",
            )
        )
    _limit_waiting()
    try:
        found = HfApi().get_safetensors_metadata(repository, revision=revision)
    except (NotASafetensorsRepoError, SafetensorsParsingError) as error:
        raise CheckpointError(
            Problem(
                message=f"'{repository}' has no safetensors files that can be read",
                note=_first_line(error),
                help="name a repository with model.safetensors, or convert it",
            )
        ) from error
    except Exception as error:
        raise CheckpointError(_explain(repository, revision, error)) from error
    tensors = {
        name: (str(info.dtype), tuple(info.shape))
        for file in found.files_metadata.values()
        for name, info in file.tensors.items()
    }
    return read_json(folder / "config.json"), tensors


class _Session(requests.Session):
    """A session in which a request that sets no limit of its own has one."""

    def send(self, request: requests.PreparedRequest, **settings: Any) -> requests.Response:
        if settings.get("timeout") is None:
            settings["timeout"] = constants.HF_HUB_ETAG_TIMEOUT
        return super().send(request, **settings)


@cache
def _limit_waiting() -> None:
    """The client asks what a repository holds, and for headers, without a limit."""
    if not constants.HF_HUB_OFFLINE:  # the client's own sessions then refuse every request
        configure_http_backend(_Session)


def _snapshot(repository: str, revision: str | None, files: tuple[str, ...]) -> Path:
    _limit_waiting()
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(files)))
    except Exception as error:  # the client takes what a hub answers for what it expects
        raise CheckpointError(_explain(repository, revision, error)) from error


def _check_commit(repository: str, revision: str | None, folder: Path) -> None:
    """CheckpointError if a commit was asked for and another one came."""
    if revision is not None and COMMIT.fullmatch(revision) and folder.name != revision:
        raise CheckpointError(
            Problem(
                message=f"the hub answers with another commit of '{repository}' than was asked for",
                note=f"asked for {revision}, got {folder.name}",
                help="check HF_ENDPOINT; a commit that is named is the only one that may be read",
            )
        )


def _explain(repository: str, revision: str | None, error: Exception) -> Problem:
    page = f"https://huggingface.co/{repository}"
    cause = error.__cause__
    if isinstance(error, LocalEntryNotFoundError) and isinstance(cause, REASONS):
        error = cause  # why there is no local entry
    status = 0
    if isinstance(error, HfHubHTTPError) and error.response is not None:
        status = error.response.status_code
    message, note, help = (
        f"cannot download '{repository}'",
        _first_line(error),
        "try again",
    )
    match error:
        case GatedRepoError():
            message, note = (
                f"'{repository}' is gated",
                "the hub asks for an accepted licence",
            )
            help = f"accept the terms at {page}, then log in with `hf auth login` or set HF_TOKEN"
        case RevisionNotFoundError():
            message, note = f"'{repository}' has no revision '{revision or 'main'}'", ""
            help = f"see the branches, tags and commits at {page}/commits"
        case RepositoryNotFoundError():
            message = f"no checkpoint '{repository}': not a local folder, not found on the hub"
            note = "a private repository looks the same to a client that is not logged in"
            help = "check the spelling, or log in with `hf auth login`"
        case requests.Timeout():
            message = f"'{repository}' is not in the local hub cache and the hub does not answer"
            help = (
                "check the network and HF_ENDPOINT, set HF_HUB_ETAG_TIMEOUT to wait longer, "
                "or give a local folder or .gguf file"
            )
        case LocalEntryNotFoundError() | ConnectionError():
            message = f"'{repository}' is not in the local hub cache and the hub cannot be reached"
            note = f"{constants.ENDPOINT}: {note}"
            help = (
                "connect (HF_HUB_OFFLINE unset), check HF_ENDPOINT if it is set, "
                "or give a local folder or .gguf file"
            )
        case _ if isinstance(error, NO_ADDRESS):
            help = (
                f"correct HF_ENDPOINT ('{constants.ENDPOINT}'); the hub is https://huggingface.co"
            )
        case HFValidationError():
            message, help = (
                f"'{repository}' is not a valid hub id",
                "write it as ORG/NAME",
            )
        case OSError(errno=errno.ENOSPC):
            message = f"the disk is full while downloading '{repository}'"
            help = "free some space and run again, the download resumes; HF_HOME moves the cache"
        case _ if status in (401, 403):
            note = f"the hub refuses with status {status}"
            help = "log in with `hf auth login` or set HF_TOKEN to a token that can read it"
        case _ if status == 429:
            wait = _retry_after(error)
            help = f"the hub limits the rate of requests; wait {wait} and run again"
        case _ if 400 <= status < 500:
            note = f"the hub answers with status {status}"
            help = f"see whether {page} exists, and that HF_ENDPOINT is the address of a hub"
        case json.JSONDecodeError():
            note = "its answer is not JSON, as that of a hub is"
            help = "check HF_ENDPOINT, and that nothing on the way (a proxy, a login page) answers"
        case OSError():  # every HTTP error of the client is one
            help = "check the network and run again, the download resumes"
        case _:
            note = f"its answer is not that of a hub ({type(error).__name__}: {note})"
            help = "check HF_ENDPOINT, and that nothing on the way answers for the hub"
    return Problem(message=message, note=note, help=help)


def _retry_after(error: Exception) -> str:
    """How long the hub asks to wait, from its answer."""
    response = error.response if isinstance(error, HfHubHTTPError) else None
    seconds = str(response.headers.get("Retry-After", "")) if response is not None else ""
    return f"{seconds} seconds" if seconds.isdecimal() else "a minute"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
