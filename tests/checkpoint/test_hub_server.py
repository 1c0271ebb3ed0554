"""Downloads through the real huggingface_hub client, from a hub that is served on this machine."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from safetensors.numpy import save

pytestmark = pytest.mark.emulate

COMMITS = {"main": "a" * 40, "v1": "b" * 40}
OPEN = """
import sys
from ttc.checkpoint.files import open_checkpoint
from ttc.errors import TtcError
try:
    checkpoint = open_checkpoint(sys.argv[1])
except TtcError as error:
    sys.exit(str(error))
print(checkpoint.read(checkpoint.names()[0]).sum(), checkpoint.folder)
"""


HASHED = """
import sys
from ttc.checkpoint.files import open_checkpoint
print(open_checkpoint(sys.argv[1]).fingerprint)
"""


HEADERS = """
import sys
from ttc.checkpoint.headers import open_headers
headers = open_headers(sys.argv[1])
names = headers.names()
print(len(names), headers.shape("lm_head.weight"), headers.config()["vocab_size"])
"""


@dataclass(kw_only=True)
class Hub:
    """A hub with one repository, org/tiny; `files` by commit. What goes wrong can be set."""

    files: dict[str, dict[str, bytes]]
    status: int = 0
    silent_about: str = ""  # requests with this in them are not answered until the end of the test
    end: threading.Event = field(default_factory=threading.Event)
    headers: dict[str, str] = field(default_factory=dict[str, str])
    cut_once_after: int = 0
    requests: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    address: str = ""

    def answer(self, request: BaseHTTPRequestHandler, *, body: bool) -> None:
        path = unquote(urlsplit(request.path).path)
        self.requests.append((path, request.headers.get("Range", "")))
        if self.silent_about and self.silent_about in f"{request.command} {path}":
            self.end.wait(60)
            request.close_connection = True
            return
        if self.status:
            self.send(request, self.status, b"refused", self.headers)
            return
        api, _, rest = path.partition("/api/models/org/tiny/revision/")
        if api == "" and rest:
            self.repository(request, rest)
        elif path.startswith("/org/tiny/resolve/"):
            revision, _, name = path.removeprefix("/org/tiny/resolve/").partition("/")
            self.file(request, COMMITS.get(revision, revision), name, body=body)
        else:
            missing = {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
            self.send(request, 404, b"", missing)

    def repository(self, request: BaseHTTPRequestHandler, revision: str) -> None:
        commit = COMMITS.get(revision, revision)
        if commit not in self.files:
            self.send(request, 404, b"", {"X-Error-Code": "RevisionNotFound"})
            return
        siblings = [{"rfilename": name} for name in self.files[commit]]
        content = {"id": "org/tiny", "sha": commit, "siblings": siblings}
        self.send(request, 200, json.dumps(content).encode())

    def file(self, request: BaseHTTPRequestHandler, commit: str, name: str, *, body: bool) -> None:
        content = self.files[commit][name]
        first = int(request.headers.get("Range", "bytes=0-")[6:].split("-")[0])
        headers = {
            "X-Repo-Commit": commit,
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "Accept-Ranges": "bytes",
        }
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        part = content[first:]
        cut = self.cut_once_after if body and name.endswith(".safetensors") else 0
        if cut:
            self.cut_once_after = 0
        self.send(request, 206 if first else 200, part, headers, body=body, cut=cut)

    def send(
        self,
        request: BaseHTTPRequestHandler,
        status: int,
        content: bytes,
        headers: dict[str, str] | None = None,
        *,
        body: bool = True,
        cut: int = 0,
    ) -> None:
        request.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            request.send_header(name, value)
        request.end_headers()
        if body:
            request.wfile.write(content[:cut] if cut else content)
        if cut:
            request.close_connection = True


@pytest.fixture
def hub(
    tmp_path: Path, tiny_tensors: dict[str, Any], write_folder: Callable[..., Path]
) -> Iterator[Hub]:
    """Two revisions with different weights, and weights in other formats beside them."""
    files: dict[str, dict[str, bytes]] = {}
    for number, commit in enumerate(COMMITS.values()):
        changed = {name: values + number for name, values in tiny_tensors.items()}
        folder = write_folder(tmp_path / "server" / commit, changed)
        (folder / "pytorch_model.bin").write_bytes(b"not wanted")
        files[commit] = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub = Hub(files=files)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            hub.answer(self, body=True)

        def do_HEAD(self) -> None:
            hub.answer(self, body=False)

        def log_message(self, format: str, *args: Any) -> None:
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield hub
    hub.end.set()
    server.shutdown()
    thread.join()


@pytest.fixture
def fetch(hub: Hub, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """A function that opens a checkpoint in a process of its own, as the client reads its
    environment once."""

    def run(source: str, script: str = OPEN, **more: str) -> subprocess.CompletedProcess[str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        environment = {
            **inherited,
            "HF_ENDPOINT": hub.address,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1",
            **more,
        }
        return subprocess.run(
            [sys.executable, "-c", script, source],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


type Fetch = Callable[..., subprocess.CompletedProcess[str]]


def test_downloads_what_is_needed_and_then_works_offline(hub: Hub, fetch: Fetch) -> None:
    first = fetch("org/tiny")
    assert first.returncode == 0, first.stderr
    assert COMMITS["main"] in first.stdout
    fetched = {path.rpartition("/")[2] for path, _ in hub.requests}
    assert {"config.json", "model.safetensors"} <= fetched
    assert "pytorch_model.bin" not in fetched
    hub.requests.clear()
    offline = fetch("org/tiny", HF_HUB_OFFLINE="1")
    assert offline.stdout == first.stdout
    assert hub.requests == []


def test_offline_without_a_copy(fetch: Fetch) -> None:
    refused = fetch("org/tiny", HF_HUB_OFFLINE="1")
    assert "is not in the local hub cache and the hub cannot be reached" in refused.stderr


def test_a_pinned_revision_is_the_one_that_is_read(fetch: Fetch) -> None:
    main, tagged, commit = (
        fetch(name).stdout.split()
        for name in ("org/tiny", "org/tiny@v1", f"org/tiny@{COMMITS['v1']}")
    )
    assert tagged == commit
    assert tagged[0] != main[0]
    assert COMMITS["v1"] in tagged[1]


def test_a_download_that_was_cut_is_resumed(hub: Hub, fetch: Fetch) -> None:
    """The client keeps whole pieces of 10 MB, so that the file must be larger."""
    content = save({"w": np.full((25, 1 << 18), 3.0, np.float32)})
    hub.files[COMMITS["main"]]["model.safetensors"] = content
    hub.cut_once_after = 15 << 20
    results = [fetch("org/tiny") for _ in range(2)]
    assert results[-1].stdout.split()[0] == str(3.0 * 25 * (1 << 18)), results[-1].stderr
    resumed = [part for path, part in hub.requests if path.endswith("model.safetensors") and part]
    assert f"bytes={10 << 20}-" in [part[: part.index("-") + 1] for part in resumed]


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (401, {"X-Error-Code": "GatedRepo"}, "accept the terms at"),
        (403, {"X-Error-Code": "GatedRepo"}, "accept the terms at"),
        (401, {}, "log in with `hf auth login`"),
        (403, {}, "set HF_TOKEN to a token that can read it"),
        (404, {"X-Error-Code": "RepoNotFound"}, "not a local folder, not found on the hub"),
        (404, {"X-Error-Code": "RevisionNotFound"}, "has no revision"),
        (429, {"Retry-After": "37"}, "wait 37 seconds and run again"),
    ],
)
def test_refusals_say_what_to_do(
    hub: Hub, fetch: Fetch, status: int, headers: dict[str, str], expected: str
) -> None:
    hub.status, hub.headers = status, headers
    refused = fetch("org/tiny")
    assert refused.returncode == 1
    assert expected in refused.stderr, refused.stderr


@pytest.mark.parametrize("content", [b"[1, 2]", b"{}", b'{"id": "org/tiny", "siblings": 3}'])
@pytest.mark.parametrize("script", [OPEN, HEADERS])
def test_an_answer_that_no_hub_gives(hub: Hub, fetch: Fetch, content: bytes, script: str) -> None:
    hub.repository = lambda request, _: hub.send(request, 200, content)  # type: ignore[method-assign]
    refused = fetch("org/tiny", script)
    assert "CheckpointError" in refused.stderr or "error: cannot download" in refused.stderr
    assert "check HF_ENDPOINT" in refused.stderr, refused.stderr


@pytest.mark.parametrize(
    ("silent_about", "script"),
    [("GET /api/models/", OPEN), ("GET /org/tiny/resolve/main/model.safetensors", HEADERS)],
    ids=["what it holds", "a header"],
)
def test_a_hub_that_accepts_and_never_answers(
    hub: Hub, fetch: Fetch, silent_about: str, script: str
) -> None:
    hub.silent_about = silent_about
    refused = fetch("org/tiny", script, HF_HUB_ETAG_TIMEOUT="1")
    assert refused.returncode == 1
    assert "the hub does not answer" in refused.stderr, refused.stderr
    assert "Read timed out" in refused.stderr
    assert "HF_HUB_ETAG_TIMEOUT" in refused.stderr


def test_a_hub_that_is_silent_does_not_hide_the_local_copy(hub: Hub, fetch: Fetch) -> None:
    first = fetch("org/tiny")
    hub.silent_about = "/"
    assert fetch("org/tiny", HF_HUB_ETAG_TIMEOUT="1").stdout == first.stdout


@pytest.mark.parametrize("address", ["garbage", "ftp://host", "http://127.0.0.1:1"])
def test_an_address_that_is_no_hub(fetch: Fetch, address: str) -> None:
    refused = fetch("org/tiny", HF_ENDPOINT=address)
    assert "HF_ENDPOINT" in refused.stderr
    assert address in refused.stderr
    assert "check the network" not in refused.stderr


def test_bytes_that_are_not_those_of_the_hub(hub: Hub, fetch: Fetch) -> None:
    """The client checks how many there are, and names the file by what they should hash to."""
    path = Path(fetch("org/tiny").stdout.split()[1]) / "model.safetensors"
    blob = path.resolve()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    refused = fetch("org/tiny", HASHED)
    assert f"{path} does not hold the bytes that the hub has" in refused.stderr
    assert f"delete {blob}, and run again" in refused.stderr
    blob.unlink()
    assert fetch("org/tiny", HASHED).returncode == 0


def test_a_damaged_file_of_the_local_copy(hub: Hub, fetch: Fetch) -> None:
    """The client would take it again: what must be deleted is named."""
    first = fetch("org/tiny")
    path = Path(first.stdout.split()[1]) / "model.safetensors"
    blob = path.resolve()
    blob.write_bytes(blob.read_bytes()[:-8])
    refused = fetch("org/tiny")
    assert f"delete {blob}, and run again" in refused.stderr
    blob.unlink()
    assert fetch("org/tiny").stdout == first.stdout


def test_headers_come_without_weights(hub: Hub, fetch: Fetch, tmp_path: Path) -> None:
    found = fetch("org/tiny", HEADERS)
    assert found.stdout == "21 (128, 64) 128\n", found.stderr
    kept = [path.name for path in (tmp_path / "hf").rglob("*") if path.is_file()]
    assert not [name for name in kept if name.endswith(".safetensors")]
