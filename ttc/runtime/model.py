"""A loaded artefact: text in, text out, or token ids in and logits out."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from operator import index
from types import TracebackType
from typing import Self, Unpack, cast

import numpy as np

from ttc.errors import Problem, UsageError
from ttc.hardware.hardware import load_mesh
from ttc.runtime.artefact import Artefact
from ttc.runtime.backends import BackendName, open_backend
from ttc.runtime.engine import Engine, Piece, Request
from ttc.runtime.generate import Generation, check_idle
from ttc.runtime.program import load_program
from ttc.runtime.replica import Logits
from ttc.runtime.request import Limits, Message, Prompt, Serving, Settings, check_settings
from ttc.runtime.sampling import Sampling, chosen_sampling
from ttc.runtime.session import open_session
from ttc.runtime.tokens import Tokenizer, load_tokenizer


class Model:
    """A program with its weights on an open device. Close it, or use it as a context manager."""

    def __init__(
        self,
        artefact: Artefact,
        backend: BackendName,
        *,
        emulator_device: str = "cpu",
        serving: Serving | None = None,
    ) -> None:
        manifest = artefact.manifest
        self._serving = serving or Serving()
        self.artefact = artefact
        self.backend: BackendName = backend
        self._closed = False
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
            self.session = open_session(
                program,
                artefact,
                opened,
                max_blocks=self._serving.max_blocks,
                prefix_reuse=self._serving.prefix_reuse,
            )
            self.engine = Engine(
                self.session,
                _Texts(self),
                eos_ids=manifest.eos_ids,
                batch=self._serving.batch,
                context=self._serving.context,
            )
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
        """Free the device. The model cannot be used any more; closing it again does nothing."""
        self._closed = True
        self._open.close()

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError(
                Problem(message="the model is closed", help="load it again with ttc.load")
            )

    @property
    def batch(self) -> int:
        """How many users are served at once."""
        return self.engine.batch

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return load_tokenizer(self.artefact.folder)

    def stream(self, prompt: str | Prompt, **settings: Unpack[Settings]) -> Iterator[str]:
        """The answer to one prompt, piece by piece as it is generated; see `Settings`.

        UsageError for settings out of range, and for prompts that are too long or no valid text.
        """
        return (piece.text for piece in self.generation([prompt], **settings))

    def generate(self, prompt: str | Prompt, **settings: Unpack[Settings]) -> str:
        """The whole answer to one prompt; see `stream`."""
        return "".join(self.stream(prompt, **settings))

    def generation(
        self, prompts: Sequence[str | Prompt], **settings: Unpack[Settings]
    ) -> Generation:
        """A run for one prompt per user: iterate for the pieces, then read outputs and timing."""
        return Generation(self.engine, [self.request(each, settings) for each in prompts])

    def add(self, prompt: str | Prompt | Sequence[int], **settings: Unpack[Settings]) -> int:
        """Queue a prompt, text or token ids; the number by which pieces name it.

        It starts in a later `step`, as soon as a slot and cache blocks for its prompt and
        max_new_tokens are free. UsageError for settings out of range, for token ids out of the
        vocabulary, and for prompts that are empty or too long; other requests are not affected.
        """
        return self.engine.add(self.request(prompt, settings))

    def step(self) -> list[Piece]:
        """One more token for every request that runs, and the first one for those that can start.

        Nothing while nobody is there. A request is over with a piece that has a finish_reason.
        """
        self._check_open()
        return self.engine.step()

    def cancel(self, number: int) -> None:
        """End a request that waits or runs, and free its slot and blocks; fine if it is over."""
        self.engine.cancel(number)

    def request(self, prompt: str | Prompt | Sequence[int], settings: Settings) -> Request:
        """What the engine is asked. UsageError for a setting that does not exist."""
        self._check_open()
        check_settings(settings)
        text = isinstance(prompt, str | Prompt)
        return Request(
            token_ids=self.encode(prompt) if text else _token_ids(prompt),
            sampling=self.sampling(settings),
            limits=Limits.of(settings),
            logprobs=settings.get("logprobs") or False,
        )

    def prefill(self, token_ids: Sequence[int] | Sequence[Sequence[int]]) -> Logits:
        """Read a prompt, or one per user; float32 logits [users, vocab] of the token after each.

        Forgets all users and prompts before. UsageError while requests are served.
        """
        self._check_open()
        check_idle(self.engine)
        try:
            entries = [*token_ids]
        except TypeError:
            entries = []
        single = not entries or not isinstance(entries[0], Sequence | np.ndarray)
        prompts = [token_ids] if single else entries
        return self.session.prefill([_token_ids(cast(Sequence[int], each)) for each in prompts])

    def decode(self, tokens: Sequence[int]) -> Logits:
        """Append one token per user of the last `prefill`; float32 logits [users, vocab].

        UsageError for tokens of more or fewer users, and for those out of the vocabulary.
        """
        self._check_open()
        check_idle(self.engine)
        appended = _token_ids(tokens)
        for token in appended:
            self.session.check_prompt([token])
        return self.session.decode(appended)

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
        return chosen_sampling(self.artefact.folder, settings)


def _token_ids(prompt: Sequence[int]) -> tuple[int, ...]:
    try:
        if isinstance(prompt, bytes | bytearray) or any(isinstance(each, bool) for each in prompt):
            raise TypeError(f"got {prompt!r}")
        return tuple(index(token) for token in prompt)
    except TypeError as error:
        raise UsageError(
            Problem(
                message="a prompt is a text, a Prompt or token ids",
                note=str(error),
                help="token ids are whole numbers",
            )
        ) from error


class _Texts:
    """The texts of a model's tokens. Its tokenizer is loaded when the first one is wanted."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def decode(self, ids: Sequence[int]) -> str:
        return self._model.tokenizer.decode(ids)


def _messages(prompt: Prompt) -> Iterable[Message]:
    messages: list[Message] = [*prompt.messages]
    if prompt.system:
        messages.insert(0, {"role": "system", "content": prompt.system})
    if prompt.text:
        messages.append({"role": "user", "content": prompt.text})
    return messages
