"""Files in the cache of the hub's client: links in snapshots/ to what it downloaded, in blobs/."""

from pathlib import Path


def is_from_hub(path: Path) -> bool:
    """Whether a file lies in the cache of the hub's client, as links to what it downloaded."""
    return path.parent.parent.name == "snapshots" and path.is_symlink()


def hub_blob(path: Path) -> Path | None:
    """The file that a link of the cache stands for; None if that is not the cache's own."""
    blob, own = path.resolve(), path.parent.parent.parent.resolve() / "blobs"
    return blob if is_from_hub(path) and blob.parent == own else None


def how_to_replace(blob: Path) -> str:
    """How to get a file of the cache again: the client downloads nothing that its cache has."""
    return f"delete {blob}, and run again with the hub id: it is then downloaded"
