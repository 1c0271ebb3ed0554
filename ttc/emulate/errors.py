"""The one error of the emulator: an operation was given something ttnn would refuse."""


class EmulationError(RuntimeError):
    """What ttnn reports with TT_FATAL. The text starts with the name of the operation."""

    def __init__(self, op: str, message: str) -> None:
        super().__init__(f"ttnn.{op}: {message}")


def require(condition: bool, op: str, message: str) -> None:
    """Raise unless `condition` holds. Build costly messages only where the check has failed."""
    if not condition:
        raise EmulationError(op, message)
