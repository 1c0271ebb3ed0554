"""The table of models in docs/models.md: what every spec needs, planned for every mesh."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ttc import api
from ttc.api import DEFAULT_PRECISION, Target
from ttc.errors import PlanError
from ttc.hardware.hardware import load_mesh, mesh_names
from ttc.spec import library
from ttc.spec.architecture import load_architecture
from ttc.spec.model import ModelSpec, load_model

INTRODUCTION = """\
# Models

{families}
Every spec that comes with ttc, planned for one user with the profile `{precision}`. Written by
`ttc check --table`; change the specs, not this file.

* **known on**: meshes that tt-transformers lists for the model
* **smallest mesh**: the fewest chips that hold weights, KV cache and programs
* under each mesh the largest context of one user, in thousands (1024) of tokens; **bold** where it
  is all that the model can do, and nothing where the model does not fit
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A spec, and by mesh the largest context of one user; meshes that it does not fit are out."""

    spec: ModelSpec
    contexts: Mapping[str, int]

    @property
    def smallest_mesh(self) -> str:
        """The mesh of the fewest chips, "" when it fits none."""
        return min(self.contexts, key=_chips, default="")


def _chips(mesh: str) -> int:
    found = load_mesh(mesh)
    return found.rows * found.cols


def support_rows(specs: Iterable[str], precision: str = DEFAULT_PRECISION) -> Iterator[Row]:
    """A row for each spec. Variants that differ in nothing a plan depends on are planned once."""
    planned: list[tuple[ModelSpec, Mapping[str, int]]] = []
    for name in specs:
        spec = load_model(name)
        same = _without_names(spec)
        contexts = next((found for other, found in planned if other == same), None)
        if contexts is None:
            contexts = _contexts(name, precision)
            planned.append((same, contexts))
        yield Row(spec=spec, contexts=contexts)


def shipped_specs() -> list[str]:
    """The names of the specs that come with ttc."""
    folder = library.shipped(library.SPECS)
    return sorted(path.stem for path in folder.glob("*.yaml"))


def family_table() -> str:
    """Every architecture that comes with ttc, as Markdown: its classes, and how many specs."""
    names = shipped_specs()
    used = [load_model(name).architecture.name for name in names]
    lines = [_line(["architecture", "classes of transformers", "specs"]), _line(["---"] * 3)]
    for path in sorted(library.shipped(library.ARCHITECTURES).glob("*.yaml")):
        classes = ", ".join(f"`{name}`" for name in load_architecture(path).hf_classes)
        count = used.count(path.stem)
        lines.append(_line([path.stem, classes, str(count) if count else "none yet"]))
    return "\n".join(lines) + "\n"


def _without_names(spec: ModelSpec) -> ModelSpec:
    at = spec.architecture.at
    return replace(spec, name="", model="", weights=None, known_on=(), file="", at=at, sources={})


def _contexts(spec: str, precision: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for mesh in mesh_names():
        try:
            found[mesh] = api.plan(spec, Target(mesh=mesh, precision=precision)).largest.context
        except PlanError:
            continue
    return found


def support_page(rows: Iterable[Row], precision: str = DEFAULT_PRECISION) -> str:
    """The page as Markdown."""
    meshes = mesh_names()
    head = ["model", "architecture", "known on", "smallest mesh", *meshes]
    lines = [_line(head), _line(["---"] * 4 + ["--:"] * len(meshes))]
    lines += [row_line(row) for row in rows]
    introduction = INTRODUCTION.format(precision=precision, families=family_table())
    return introduction + "\n" + "\n".join(lines) + "\n"


def row_line(row: Row) -> str:
    """One row as Markdown."""
    spec = row.spec
    file = f"[{spec.model}](../specs/{Path(spec.file).name})"
    cells = [file, spec.architecture.name, ", ".join(spec.known_on), row.smallest_mesh]
    cells += [_context(row.contexts.get(mesh, 0), spec) for mesh in mesh_names()]
    return _line(cells)


def _context(tokens: int, spec: ModelSpec) -> str:
    text = f"{tokens / 1024:.3g}" if tokens else ""
    return f"**{text}**" if text and tokens >= spec.max_context_tokens else text


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
