"""The runtime root and the settings under which ttnn runs with no Tenstorrent hardware.

ttnn looks for its kernels, core descriptors and device compiler below one runtime root. The wheel
carries no device compiler, and its core descriptors have an entry that is wrong on mock clusters,
so we build a root of our own: symbolic links into the installed package, which stays untouched,
plus a stand-in compiler and the corrected descriptor. Read with ttnn 0.81.1.
"""

import shutil
import struct
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from ttc.errors import Problem, UsageError

_ROOT_FORMAT = "1"  # raised whenever `_fill_root` writes something else
_LOAD_ADDRESS = 0x5000
_RISCV_RET = 0x00008067


def child_environment(work_folder: Path) -> dict[str, str]:
    """The variables a process needs before its first `import ttnn`, to use a mock cluster quietly.

    The cluster itself (TT_METAL_MOCK_CLUSTER_DESC_PATH) is not among them: each mesh has its own.
    Kernel cache and logs go below `work_folder`; the cache must never be shared with a real
    device, since its kernels are empty.
    """
    return {
        "TT_METAL_RUNTIME_ROOT": str(runtime_root(work_folder)),
        "TT_METAL_CACHE": str(work_folder / "kernels"),
        "TT_METAL_LOGS_PATH": str(work_folder / "logs"),  # else ./generated appears
        "TT_METAL_DISABLE_BACKTRACE": "1",  # else each error text ends in a C++ stack
        "TT_METAL_SHM_TRACKING_DISABLED": "1",  # else files stay behind in /dev/shm
        "OMPI_MCA_btl": "self",  # same
        "TT_LOGGER_LEVEL": "off",
        "LOGURU_LEVEL": "ERROR",
    }


def runtime_root(work_folder: Path) -> Path:
    """The overlay root for the installed ttnn, built on first use; two processes may race."""
    package = ttnn_package()
    root = work_folder / f"root-{version('ttnn')}-{_ROOT_FORMAT}"
    if root.is_dir() and (root / "ttnn/cpp").resolve() == (package / "ttnn/cpp").resolve():
        return root
    work_folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(root, ignore_errors=True)  # left by a package that has moved since
    draft = Path(tempfile.mkdtemp(prefix="root-draft-", dir=work_folder))
    _fill_root(draft, package)
    try:
        draft.rename(root)
    except OSError:  # another process was first, with the same content
        shutil.rmtree(draft)
    return root


def ttnn_package() -> Path:
    """The folder of the installed ttnn, found without importing it."""
    spec = find_spec("ttnn")
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(
            Problem(
                message="ttnn is not installed",
                note="checks on a mock mesh run the real ttnn library",
                help="install ttnn==0.81.1 (Linux x86-64, Python 3.12)",
            )
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _fill_root(root: Path, package: Path) -> None:
    for entry in ("ttnn/cpp", "runtime/hw"):
        (root / entry).parent.mkdir(parents=True, exist_ok=True)
        (root / entry).symlink_to(package / entry)
    descriptors = root / "tt_metal/core_descriptors"
    descriptors.mkdir(parents=True)
    for entry in (package / "tt_metal").iterdir():
        if entry.name != descriptors.name:
            (root / "tt_metal" / entry.name).symlink_to(entry)
    for entry in (package / "tt_metal" / descriptors.name).iterdir():
        text = entry.read_text()
        if entry.name == "wormhole_b0_80_arch.yaml":
            text = _widen_two_chip_grid(text)
        (descriptors / entry.name).write_text(text)
    compiler = root / "runtime/sfpi/compiler/bin/riscv-tt-elf-g++"
    compiler.parent.mkdir(parents=True)
    compiler.write_text(stand_in_compiler())
    compiler.chmod(0o755)


def _widen_two_chip_grid(text: str) -> str:
    """Give boards with two harvested rows the 8x8 grid that they have with ethernet dispatch.

    On a mock target ttnn validates some programs (tilize, untilize) against the worker-dispatch
    descriptor, 8x7, whatever the device was opened with, and refuses programs that fill the true
    8x8. Goes when ttnn's ValidateProgramSpec uses the device's own dispatch settings.
    """
    head, mark, two_chip = text.partition("nebula_x2:")
    narrow, wide = "end: [7, 6]", "end: [7, 7]"
    assert narrow in two_chip, "the core descriptor of ttnn has changed"
    return head + mark + two_chip.replace(narrow, wide)


def stand_in_compiler() -> str:
    """A shell script that answers like the device compiler and links every kernel to `ret`.

    It starts no process of its own, about 1 ms a call. The version differs from every real one
    because it is part of ttnn's kernel cache key.
    """
    octal = "".join(f"\\{byte:03o}" for byte in _empty_kernel())
    return f"""#!/bin/sh
# Stand-in for the RISC-V device compiler: kernels are never run on a mock mesh.
if [ "$1" = --version ]; then
    echo "riscv-tt-elf-g++ (mock:0.0.0[0]) 0.0.0"
    exit 0
fi
action=link
output=
dependencies=
while [ $# -gt 0 ]; do
    case "$1" in
        -o) output=$2; shift ;;
        -MF) dependencies=$2; shift ;;
        -c | c++-header) action=compile ;;
    esac
    shift
done
if [ -n "$dependencies" ]; then echo "$output:" > "$dependencies"; fi
if [ $action = compile ]; then : > "$output"; else printf '{octal}' > "$output"; fi
"""


def _empty_kernel() -> bytes:
    """The smallest 32-bit RISC-V executable that ttnn's ELF reader accepts: one `ret`.

    The reader wants a loadable segment, a symbol table and relocations for .text.
    """
    text = struct.pack("<I", _RISCV_RET)
    no_symbol = bytes(16)
    no_relocation = struct.pack("<IIi", _LOAD_ADDRESS, 0, 0)
    names = b"\0.text\0.symtab\0.strtab\0.rela.text\0.shstrtab\0"
    # name, type, flags, address, content, link, info, alignment, entry bytes
    sections = (
        (b".text", 1, 6, _LOAD_ADDRESS, text, 0, 0, 4, 0),
        (b".symtab", 2, 0, 0, no_symbol, 3, 1, 4, 16),
        (b".strtab", 3, 0, 0, bytes(4), 0, 0, 1, 0),
        (b".rela.text", 4, 0, 0, no_relocation, 2, 1, 4, 12),
        (b".shstrtab", 3, 0, 0, names + bytes(-len(names) % 4), 0, 0, 1, 0),
    )
    text_offset = 52 + 32 + 12  # file header, one program header, padding to 16 bytes
    body = b""
    headers = bytes(40)  # section 0 is always empty
    for (
        name,
        kind,
        flags,
        address,
        content,
        link,
        info,
        alignment,
        entry_bytes,
    ) in sections:
        headers += struct.pack(
            "<10I", names.index(name), kind, flags, address, text_offset + len(body),
            len(content), link, info, alignment, entry_bytes,
        )  # fmt: skip
        body += content
    identity = b"\x7fELF\x01\x01\x01".ljust(16, b"\0")
    file_header = identity + struct.pack(
        "<HHIIIIIHHHHHH", 2, 243, 1, _LOAD_ADDRESS, 52, text_offset + len(body), 0, 52, 32, 1, 40,
        len(sections) + 1, len(sections),
    )  # fmt: skip
    segment = struct.pack(
        "<8I", 1, text_offset, _LOAD_ADDRESS, _LOAD_ADDRESS, len(text), len(text), 5, 4
    )
    return (file_header + segment).ljust(text_offset, b"\0") + body + headers
