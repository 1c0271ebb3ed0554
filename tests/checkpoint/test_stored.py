"""Files of a checkpoint that cannot be read: what may be deleted, and what may not."""

from pathlib import Path

import pytest

from ttc.checkpoint.stored import read_json
from ttc.errors import CheckpointError

pytestmark = pytest.mark.fast


def linked(link: Path, target: Path) -> Path:
    for path in (link, target):
        path.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("{")
    link.symlink_to(target)
    return link


def test_a_damaged_file_of_the_hub_is_deleted_from_its_cache(tmp_path: Path) -> None:
    blob = tmp_path / "models--a--b" / "blobs" / "c0ffee"
    link = linked(tmp_path / "models--a--b" / "snapshots" / "1" / "config.json", blob)
    with pytest.raises(CheckpointError, match=f"help: delete {blob}, and run again"):
        read_json(link)


@pytest.mark.parametrize("folder", ["c", "models--a--b/snapshots/1"])
def test_no_file_outside_the_checkpoint_is_to_be_deleted(tmp_path: Path, folder: str) -> None:
    target = tmp_path / "elsewhere" / "passwd"
    link = linked(tmp_path / folder / "config.json", target)
    with pytest.raises(CheckpointError, match="cannot be read as JSON") as caught:
        read_json(link)
    assert f"{link} is a link to {target}: delete the link, and put config.json there" in str(
        caught.value
    )
    assert f"delete {target}" not in str(caught.value)
