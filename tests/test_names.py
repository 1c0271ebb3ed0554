"""Models and products are data: none is named in the package's Python."""

import re
from pathlib import Path

import pytest

from ttc.hardware.hardware import shipped_mesh_names
from ttc.located import parse_yaml

pytestmark = pytest.mark.fast

ROOT = Path(__file__).parents[1]


def product_names() -> set[str]:
    """Meshes and chips as their files spell them."""
    chips, problems = parse_yaml((ROOT / "ttc/hardware/chips.yaml").read_text(), "chips.yaml")
    assert chips is not None
    assert not problems
    return {*shipped_mesh_names(), *chips["chips"].fields()}


def model_names() -> set[str]:
    """The specs' names and Hugging Face ids."""
    texts = {path.stem: path.read_text() for path in (ROOT / "specs").glob("*.yaml")}
    ids = {re.findall(r"^model: \S*?([^/\s]+)$", text, re.M)[0] for text in texts.values()}
    return {*texts, *ids}


def test_no_model_and_no_product_is_named_in_code() -> None:
    """Docstrings and comments may give an example; code may not know one."""
    names = sorted(product_names() | model_names(), key=len, reverse=True)
    pattern = re.compile(rf"(?<![\w-])({'|'.join(map(re.escape, names))})(?![\w-])", re.I)
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path in sorted((ROOT / "ttc").rglob("*.py"))
        if pattern.search(path.read_text())
        for number, line in enumerate(code_of(path), 1)
        for match in pattern.finditer(line)
    ]
    assert found == []


def code_of(path: Path) -> list[str]:
    """The lines of a file without comments and docstrings."""
    import io
    import tokenize

    text = path.read_text()
    lines = text.splitlines()
    blank = [list(line) for line in lines]
    previous = tokenize.NEWLINE
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        statement = token.type == tokenize.STRING and previous in (
            tokenize.NEWLINE,
            tokenize.INDENT,
            tokenize.DEDENT,
            tokenize.NL,
        )
        if token.type == tokenize.COMMENT or statement:
            (row, start), (last, end) = token.start, token.end
            for at in range(row - 1, last):
                first = start if at == row - 1 else 0
                stop = end if at == last - 1 else len(blank[at])
                blank[at][first:stop] = " " * (stop - first)
        if token.type not in (tokenize.COMMENT,):
            previous = token.type
    return ["".join(line) for line in blank]
