"""A loaded artefact: text in, text out, or token ids in and logits out."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack, cast

from ttc.errors import Problem, UsageError
from ttc.hardware.hardware import load_mesh
from ttc.runtime.artefact import Artefact
from ttc.runtime.backends import BackendName, open_backend
from ttc.runtime.generate import Generation
from ttc.runtime.program import load_program
from ttc.runtime.replica import Logits
from ttc.runtime.request import Limits, Message, Prompt, Settings
from ttc.runtime.sampling import Sampling
from ttc.runtime.session import open_session
from ttc.runtime.tokens import Tokenizer, load_tokenizer


class Model:
    """A program with its weights on an open device. Close it, or use it as a context manager."""

    def __init__(
        self, artefact: Artefact, backend: BackendName, *, emulator_device: str = "cpu"
    ) -> None:
        manifest = artefact.manifest
        self.artefact = artefact
        self.backend: BackendName = backend
        self._open = ExitStack()
        opened = self._open.enter_context(
            open_backend(
                backend,
                load_mesh(manifest.mesh.name),
                trace_region_bytes=manifest.trace_region_bytes,
                emulator_device=emulator_device,
            )
        )
        with ExitStack() as on_failure:
            on_failure.push(self._open)
            program = load_program(artefact.program, opened.ttnn)
            self.session = open_session(program, artefact.folder / "weights", opened)
            on_failure.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the device. The model cannot be used any more."""
        self._open.close()

    @property
    def batch(self) -> int:
        """How many users the program serves at once."""
        return self.session.batch

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return load_tokenizer(self.artefact.folder)

    def stream(self, prompt: str | Prompt, **settings: Unpack[Settings]) -> Iterator[str]:
        """The answer to one prompt, piece by piece as it is generated; see `Settings`.

        UsageError for settings out of range and for prompts that are too long.
        """
        return (piece.text for piece in self.generation([prompt], **settings))

    def generate(self, prompt: str | Prompt, **settings: Unpack[Settings]) -> str:
        """The whole answer to one prompt; see `stream`."""
        return "".join(self.stream(prompt, **settings))

    def generation(
        self, prompts: Sequence[str | Prompt], **settings: Unpack[Settings]
    ) -> Generation:
        """A run for one prompt per user: iterate for the pieces, then read outputs and timing."""
        token_ids = [self.encode(prompt) for prompt in prompts]
        for ids in token_ids:
            self.session.check_prompt(ids)
        return Generation(
            self.session,
            self.tokenizer,
            token_ids,
            eos_ids=self.artefact.manifest.eos_ids,
            sampling=self.sampling(settings),
            limits=Limits.of(settings),
        )

    def prefill(self, token_ids: Sequence[int] | Sequence[Sequence[int]]) -> Logits:
        """Read a prompt, or one per user; float32 logits [users, vocab] of the token after each."""
        first = token_ids[0] if token_ids else None
        if first is None or isinstance(first, int):
            return self.session.prefill([cast(Sequence[int], token_ids)])
        return self.session.prefill(cast(Sequence[Sequence[int]], token_ids))

    def decode(self, tokens: Sequence[int]) -> Logits:
        """Append one token per user; float32 logits [users, vocab] of the token after it."""
        for token in tokens:
            self.session.check_prompt([token])
        return self.session.decode(tokens)

    def encode(self, prompt: str | Prompt) -> list[int]:
        """The token ids of a prompt, with the chat template unless the prompt declines it."""
        asked = Prompt(text=prompt) if isinstance(prompt, str) else prompt
        asked.check()
        if not asked.chat:
            return self.tokenizer.encode(asked.text)
        template = self.tokenizer.chat
        if template is None:
            raise UsageError(
                Problem(
                    message=f"{self.artefact.manifest.name} has no chat template",
                    help="--no-chat-template (chat=False) sends the prompt as it is",
                )
            )
        return self.tokenizer.encode_rendered(template.render(_messages(asked)))

    def sampling(self, settings: Settings) -> Sampling:
        """The settings given, over those of the model's generation_config.json."""
        return default_sampling(self.artefact.folder).changed(settings)


def default_sampling(folder: Path) -> Sampling:
    """What generation_config.json asks for; greedy unless it asks for sampling."""
    path = folder / "generation_config.json"
    config = cast(dict[str, Any], json.loads(path.read_text())) if path.exists() else {}
    if not config.get("do_sample"):
        return Sampling()
    # 1.0, 50 and 1.0 are what Hugging Face samples with where the file does not say.
    return Sampling(
        temperature=float(config.get("temperature", 1.0)),
        top_k=int(config.get("top_k", 50) or 0),
        top_p=float(config.get("top_p", 1.0)),
    )


def _messages(prompt: Prompt) -> Iterable[Message]:
    messages: list[Message] = [*prompt.messages]
    if prompt.system:
        messages.insert(0, {"role": "system", "content": prompt.system})
    if prompt.text:
        messages.append({"role": "user", "content": prompt.text})
    return messages
