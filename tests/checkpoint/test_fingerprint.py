import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from ttc.checkpoint import fingerprint
from ttc.checkpoint.fingerprint import SourceFiles, fingerprint_file, fingerprint_files
from ttc.errors import CheckpointError

pytestmark = pytest.mark.fast


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(bytes(range(256)) * 78 + bytes(142))
    return path


def change(file: Path, offset: int) -> None:
    """Flip a bit and keep the size and the time of modification."""
    before = file.stat()
    data = bytearray(file.read_bytes())
    data[offset] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("offset", [0, 11, 8191, 8192, 20_050, 20_109])
def test_every_byte_counts(file: Path, offset: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "SEGMENT_BYTES", 8192)
    before = fingerprint_file(file)
    change(file, offset)
    assert fingerprint_file(file) != before


def test_time_and_name_of_one_file_do_not_matter(file: Path) -> None:
    before = fingerprint_file(file)
    copy = file.with_name("copy")
    copy.write_bytes(file.read_bytes())
    assert fingerprint_file(copy) == before


def test_a_noted_hash_is_not_computed_again(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint, "SETTLED_SECONDS", -1.0)
    before = fingerprint_file(file, tmp_path / "notes")
    monkeypatch.setattr(fingerprint, "_segment", None)
    assert fingerprint_file(file, tmp_path / "notes") == before


def test_a_change_with_the_same_size_and_time_is_seen(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint, "SETTLED_SECONDS", -1.0)
    before = fingerprint_file(file, tmp_path / "notes")
    change(file, 10_000)
    assert fingerprint_file(file, tmp_path / "notes") != before


def test_what_changed_just_now_is_not_noted(file: Path, tmp_path: Path) -> None:
    fingerprint_file(file, tmp_path / "notes")
    assert not list(tmp_path.glob("notes/*"))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"seen": 1}', "[" * 100_000])
def test_damaged_notes_are_no_use(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(fingerprint, "SETTLED_SECONDS", -1.0)
    before = fingerprint_file(file, tmp_path / "notes")
    (note,) = tmp_path.glob("notes/*")
    note.write_text(text)
    assert fingerprint_file(file, tmp_path / "notes") == before


def test_notes_that_cannot_be_written(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "SETTLED_SECONDS", -1.0)
    assert fingerprint_file(file, file / "notes") == fingerprint_file(file)


def test_files_are_combined_in_any_order_by_name(file: Path) -> None:
    other = file.with_name("other")
    other.write_bytes(b"x")
    before = fingerprint_files([file, other])
    assert before == fingerprint_files([other, file])
    other.rename(file.with_name("renamed"))
    assert before != fingerprint_files([file, file.with_name("renamed")])


def replace_by_another(file: Path) -> None:
    other = file.with_name("other")
    other.write_bytes(bytes(file.stat().st_size))
    other.replace(file)


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (lambda file: change(file, 100), "its times say so"),
        (replace_by_another, "another file is in its place"),
        (lambda file: os.truncate(file, 5), "it had 20,110 bytes and now has 5"),
        (os.unlink, "No such file or directory"),
    ],
)
def test_a_file_that_changes_after_it_was_opened(
    file: Path, event: Callable[[Path], None], words: str
) -> None:
    files = SourceFiles([file])
    files.check_unchanged()
    assert files.fingerprint == fingerprint_files([file])
    event(file)
    with pytest.raises(CheckpointError, match=words) as caught:
        files.check_unchanged()
    assert f"{file} changed while it was read" in str(caught.value)


def test_a_file_that_changes_before_it_is_hashed(file: Path) -> None:
    files = SourceFiles([file])
    change(file, 0)
    with pytest.raises(CheckpointError, match="changed while it was read"):
        _ = files.fingerprint


def test_every_changed_file_is_told(file: Path) -> None:
    second = file.with_name("second")
    second.write_bytes(b"x")
    files = SourceFiles([file, second])
    change(file, 0)
    change(second, 0)
    with pytest.raises(CheckpointError) as caught:
        files.check_unchanged()
    assert len(caught.value.problems) == 2


def test_a_hash_of_two_contents_is_not_noted(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint, "SETTLED_SECONDS", -1.0)
    segment = fingerprint._segment

    def changing(path: Path, offset: int) -> bytes:
        change(path, 0)
        return segment(path, offset)

    monkeypatch.setattr(fingerprint, "_segment", changing)
    fingerprint_file(file, tmp_path / "notes")
    assert not list(tmp_path.glob("notes/*"))


def test_a_blob_of_the_hub_has_the_bytes_that_its_name_says(file: Path, tmp_path: Path) -> None:
    blob = tmp_path / "models--a--b" / "blobs" / sha256(file.read_bytes()).hexdigest()
    link = tmp_path / "models--a--b" / "snapshots" / "c" / "model.safetensors"
    for path in (blob, link):
        path.parent.mkdir(parents=True)
    blob.write_bytes(file.read_bytes())
    link.symlink_to(blob)
    assert fingerprint_file(link) == fingerprint_file(file)
    change(blob, 10_000)
    with pytest.raises(CheckpointError, match=f"delete {blob}, and run again"):
        fingerprint_file(link)
