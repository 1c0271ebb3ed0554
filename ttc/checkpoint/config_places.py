"""Where a configuration says what is wrong with it."""

import re

from ttc.checkpoint.files import Headers
from ttc.checkpoint.safetensors_folder import SafetensorsFolder
from ttc.errors import Source

CONFIG_FILES = {"hf": "config.json", "meta": "params.json", "gguf": "the metadata"}
"""What says the configuration, in each format."""


class Places:
    """The keys of the config.json of a local folder; of anything else no places are known.

    `file` is how to speak of the configuration.
    """

    def __init__(self, headers: Headers) -> None:
        self.file = CONFIG_FILES[headers.format]
        path = headers.companion("config.json") if isinstance(headers, SafetensorsFolder) else None
        self._path = str(path)
        self._lines = path.read_text(encoding="utf-8").splitlines() if path else []

    def of(self, what: str) -> Source | None:
        """The place of the key, such as `rope_scaling.factor`, that a sentence begins with."""
        key = what.partition(" ")[0].rpartition(".")[2]
        pattern = re.compile(rf'"({re.escape(key)})"\s*:')
        for number, line in enumerate(self._lines, 1):
            if found := pattern.search(line):
                return Source(
                    path=self._path,
                    line=number,
                    column=found.start() + 1,
                    width=len(key) + 2,
                    text=line,
                )
        return None
