import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ttc.checkpoint import hub
from ttc.errors import CheckpointError

pytestmark = pytest.mark.emulate


def response(status: int) -> requests.Response:
    answer = requests.Response()
    answer.status_code = status
    answer.request = requests.PreparedRequest()
    return answer


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            GatedRepoError("no", response(403)),
            "accept the terms at https://huggingface.co/org/name",
        ),
        (RepositoryNotFoundError("no", response(404)), "not a local folder, not found on the hub"),
        (RevisionNotFoundError("no", response(404)), "'org/name' has no revision 'v1'"),
        (LocalEntryNotFoundError("no"), "is not in the local hub cache"),
        (HFValidationError("no"), "write it as ORG/NAME"),
        (HfHubHTTPError("no", response(401)), "set HF_TOKEN"),
        (HfHubHTTPError("no", response(403)), "the hub refuses with status 403"),
        (HfHubHTTPError("no", response(404)), "see whether https://huggingface.co/org/name exists"),
        (HfHubHTTPError("no", response(418)), "the hub answers with status 418"),
        (requests.JSONDecodeError("no", "<html>", 0), "its answer is not JSON"),
        (HfHubHTTPError("no", response(429)), "wait a minute"),
        (HfHubHTTPError("no", response(503)), "the download resumes"),
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (requests.ConnectionError("no"), "the download resumes"),
    ],
)
def test_every_failure_names_the_way_out(
    error: Exception, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr(hub, "snapshot_download", fail)
    with pytest.raises(CheckpointError, match="= help: ") as caught:
        hub.download_checkpoint("org/name", "v1")
    assert expected in str(caught.value)


def test_the_branch_that_nobody_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise RevisionNotFoundError("no", response(404))

    monkeypatch.setattr(hub, "snapshot_download", fail)
    with pytest.raises(CheckpointError, match="has no revision 'main'"):
        hub.download_checkpoint("org/name", None)


def test_another_commit_than_the_one_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "snapshots" / ("a" * 40)
    folder.mkdir(parents=True)
    monkeypatch.setattr(hub, "snapshot_download", lambda *_, **__: str(folder))
    assert hub.download_checkpoint("org/name", "a" * 40) == folder
    assert hub.download_checkpoint("org/name", "main") == folder
    with pytest.raises(CheckpointError, match=f"asked for {'b' * 40}, got {'a' * 40}"):
        hub.download_checkpoint("org/name", "b" * 40)


@pytest.mark.parametrize("shards", [1, 2])
def test_only_the_files_that_are_needed(
    tmp_path: Path,
    tiny_tensors: dict[str, Any],
    write_folder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    shards: int,
) -> None:
    folder = write_folder(tmp_path / "c", tiny_tensors, shards)
    asked: list[list[str]] = []

    def download(repository: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        assert (repository, revision) == ("org/name", None)
        asked.append(allow_patterns)
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", download)
    assert hub.download_checkpoint("org/name", None) == folder
    assert "tokenizer.json" in asked[0]
    assert asked[1] == sorted(path.name for path in folder.glob("*.safetensors"))
