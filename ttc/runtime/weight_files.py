"""The weight files of an artefact: every byte is compared with its checksum before it is loaded.

Hashing runs at 1.8 GB/s on a core that has instructions for SHA-256, beside the loading of the
files before it, and leaves in memory what is loaded next.
"""

from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from os import utime
from pathlib import Path

from ttc.checkpoint.cache import file_sha256
from ttc.errors import ArtefactError, Problem

READ_AHEAD = 4
"""Files that are hashed before they are asked for; all in memory, as a rule, when they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFile:
    """One converted weight: `file` is relative to the artefact folder.

    header_sha256   of the first bytes of the file, which are compared before anything is loaded
    """

    file: str
    bytes: int
    sha256: str
    header_sha256: str


class CheckedFiles:
    """Paths of weights by name, each given out after its file was hashed."""

    def __init__(
        self,
        folder: Path,
        weights: Mapping[str, WeightFile],
        order: Iterable[str],
        pool: ThreadPoolExecutor,
    ) -> None:
        self._folder, self._weights, self._pool = folder, weights, pool
        self._coming: Iterator[str] = iter(order)
        self._hashed: dict[str, Future[str]] = {}

    def __call__(self, name: str) -> Path:
        """The path of a weight; ArtefactError if the manifest lacks it or its bytes are others."""
        weight = self._weights.get(name)
        if weight is None:
            raise ArtefactError(
                Problem(
                    message=f"{self._folder} has no weight {name}, which its program takes",
                    help="run ttc compile again",
                )
            )
        path = self._folder / weight.file
        while len(self._hashed) <= READ_AHEAD and (ahead := next(self._coming, "")):
            self._hash(ahead)
        self._hash(name)
        try:
            found = self._hashed.pop(name).result()
        except OSError as error:
            raise ArtefactError(
                Problem(
                    message=f"{path} cannot be read",
                    note=error.strerror or str(error),
                    help="check that you may read it, or run ttc compile again",
                )
            ) from error
        if found != weight.sha256:
            raise ArtefactError(changed_weight(name, path))
        return path

    def _hash(self, name: str) -> None:
        weight = self._weights.get(name)
        if weight is not None and name not in self._hashed:
            path = self._folder / weight.file
            self._hashed[name] = self._pool.submit(file_sha256, path)


@contextmanager
def checked_files(
    folder: Path, weights: Mapping[str, WeightFile], order: Iterable[str]
) -> Generator[CheckedFiles]:
    """The weights of the artefact in `folder`, which will be asked for in about this order."""
    with ThreadPoolExecutor(READ_AHEAD, thread_name_prefix="checksum") as pool:
        try:
            yield CheckedFiles(folder, weights, order, pool)
        finally:
            pool.shutdown(cancel_futures=True)


def changed_weight(name: str, path: Path) -> Problem:
    """What to say of a weight whose bytes are not those that were written.

    Its file gets the time of now: a cache that shares it then reads all of it at the next compile.
    """
    with suppress(OSError):
        utime(path)
    return Problem(
        message=f"the weight {name} was changed: the checksum of {path} differs from the manifest",
        help="run ttc compile again with --verify-weights, which converts damaged weights anew",
    )
