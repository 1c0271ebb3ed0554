"""A compiler from Hugging Face language models to Tenstorrent ttnn programs.

    artefact = ttc.compile("specs/smollm2-135m-instruct.yaml", mesh="N150", out="build/smol")
    with ttc.load(artefact) as model:
        for piece in model.stream("Why is the sky blue?"):
            print(piece, end="")

Planning and verification are in `ttc.api`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ttc.api import compile, load

__all__ = ["compile", "load"]


def __getattr__(name: str) -> Any:
    """`compile` and `load`, imported when they are first used: `import ttc` alone stays cheap."""
    if name in __all__:
        from ttc import api

        globals().update({each: getattr(api, each) for each in __all__})
        return globals()[name]
    raise AttributeError(f"module 'ttc' has no attribute '{name}'")
