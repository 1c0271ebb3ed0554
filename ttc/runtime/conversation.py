"""What was said so far between a user and a model."""

from dataclasses import dataclass, field

from ttc.runtime.request import Message, Prompt


@dataclass(slots=True, kw_only=True)
class Conversation:
    """Messages in turns, and a system prompt that stands before them, "" for none."""

    system: str = ""
    messages: list[Message] = field(default_factory=list[Message])

    def asking(self, question: str) -> Prompt:
        """All of it with another question at its end, which is not kept yet."""
        asked: Message = {"role": "user", "content": question}
        return Prompt(messages=(*self.messages, asked), system=self.system)

    def keep(self, question: str, answer: str) -> None:
        """The question was answered, if only in part."""
        self.messages.append({"role": "user", "content": question})
        self.messages.append({"role": "assistant", "content": answer})

    def reset(self, system: str | None = None) -> None:
        """Start anew, with another system prompt if one is given."""
        self.messages.clear()
        if system is not None:
            self.system = system
