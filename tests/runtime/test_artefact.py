"""Artefacts: the same inputs give the same bytes, damage is found, a folder appears whole."""

import hashlib
import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from ttc.errors import ArtefactError
from ttc.plan.text import fingerprint
from ttc.runtime.artefact import (
    file_facts,
    is_artefact,
    new_artefact,
    read_artefact,
    ttc_version,
    ttnn_version,
)
from ttc.runtime.manifest import CheckpointFacts, KvLayout, Manifest, MeshFacts, write_manifest
from ttc.runtime.weight_files import WeightFile

pytestmark = pytest.mark.fast

PLAN = """\
model: org/tiny
mesh: N150
profile: bf16
batch: 2
context: 256
kv_cache:
  block_tokens: 32
  blocks: 16
  dtypes:
  - bf16
  - bf16
prefill:
- tokens: 32
- tokens: 128
weights:
- embed = embed[0:320] -> 1x1x320x128 bf16 row_major DRAM
memory:
  trace_region_bytes: 4096
"""


def write_artefact(folder: Path) -> Manifest:
    (folder / "weights").mkdir(parents=True)
    (folder / "model.py").write_text("import ttnn\n")
    (folder / "plan.yaml").write_text(PLAN)
    (folder / "weights" / "embed.tensorbin").write_bytes(b"\1" * 40)
    facts = file_facts(folder / "weights" / "embed.tensorbin")
    manifest = Manifest(
        ttc=ttc_version(),
        ttnn=ttnn_version(),
        name="tiny",
        model="org/tiny",
        mesh=MeshFacts(name="N150", shape=(1, 1)),
        precision="bf16",
        batch=2,
        context=256,
        kv=KvLayout(block_tokens=32, blocks=16, dtypes=("bf16", "bf16")),
        buckets=(32, 128),
        trace_region_bytes=4096,
        plan=fingerprint(PLAN),
        eos_ids=(2, 7),
        files={name: file_facts(folder / name) for name in ("model.py", "plan.yaml")},
        checkpoint=CheckpointFacts(description="org/tiny", fingerprint="ab" * 32),
        weights={
            "embed": WeightFile(
                file="weights/embed.tensorbin",
                bytes=facts.bytes,
                sha256=facts.sha256,
                header_sha256=facts.sha256,  # it is shorter than a header
            )
        },
    )
    write_manifest(folder, manifest)
    return manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_artefact(tmp_path / "tiny")
    return tmp_path / "tiny"


def edit(folder: Path, **fields: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    manifest = write_artefact(tmp_path / "tiny")
    assert read_artefact(tmp_path / "tiny", mesh="N150").manifest == manifest


def test_same_inputs_same_bytes(tmp_path: Path) -> None:
    write_artefact(tmp_path / "one")
    write_artefact(tmp_path / "two")
    one, two = ((tmp_path / name / "manifest.json").read_bytes() for name in ("one", "two"))
    assert one == two
    assert str(tmp_path).encode() not in one


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"ttc": "0.0.9"}, f"was built by ttc 0.0.9, this is {ttc_version()}"),
        ({"ttnn": "0.70.0"}, f"was built for ttnn 0.70.0, this is {ttnn_version()}"),
        ({"format": 99}, "has artefact format 99, this is format 3"),
    ],
)
def test_another_version(folder: Path, fields: dict[str, Any], words: str) -> None:
    edit(folder, **fields)
    with pytest.raises(ArtefactError, match=words) as caught:
        read_artefact(folder)
    assert caught.value.problems[0].help == "run ttc compile again"


def test_another_version_may_have_other_fields(folder: Path) -> None:
    (folder / "manifest.json").write_text(json.dumps({"format": 3, "ttc": "9.0.0"}))
    with pytest.raises(ArtefactError, match=r"was built by ttc 9\.0\.0"):
        read_artefact(folder)


def test_another_mesh(folder: Path) -> None:
    with pytest.raises(ArtefactError, match="built for the mesh N150, not for P150") as caught:
        read_artefact(folder, mesh="P150")
    assert "ttc compile tiny --mesh P150" in caught.value.problems[0].help


def test_an_edited_file(folder: Path) -> None:
    (folder / "model.py").write_text("import ttnn  # faster\n")
    with pytest.raises(ArtefactError, match=r"model\.py was changed after it was built"):
        read_artefact(folder)


def test_missing_files_are_listed_together(folder: Path) -> None:
    (folder / "model.py").unlink()
    (folder / "weights" / "embed.tensorbin").unlink()
    with pytest.raises(ArtefactError) as caught:
        read_artefact(folder)
    assert [problem.message.split(":")[0] for problem in caught.value.problems] == [
        f"{folder}/model.py is missing",
        "the weight embed is missing",
    ]


def test_a_truncated_weight(folder: Path) -> None:
    (folder / "weights" / "embed.tensorbin").write_bytes(b"\1" * 39)
    with pytest.raises(ArtefactError, match=r"truncated: .* has 39 bytes, expected 40"):
        read_artefact(folder)


def test_an_edited_weight(folder: Path) -> None:
    path = folder / "weights" / "embed.tensorbin"
    path.write_bytes(b"\2" * 40)
    with pytest.raises(ArtefactError, match="the weight embed was changed"):
        read_artefact(folder)


def test_a_flipped_bit_behind_the_header(folder: Path) -> None:
    """Found at once if the file is newer than the manifest, else when every byte is asked for."""
    path, content = folder / "weights" / "embed.tensorbin", bytearray(5000)
    path.write_bytes(content)
    facts = file_facts(path)
    header = hashlib.sha256(content[:4096]).hexdigest()
    record = {"file": "weights/embed.tensorbin", "header_sha256": header, **asdict(facts)}
    edit(folder, weights={"embed": record})
    content[4500] ^= 1
    path.write_bytes(content)
    os.utime(path, (1, 1))
    assert read_artefact(folder)
    with pytest.raises(ArtefactError, match="the weight embed was changed"):
        read_artefact(folder, verify_weights=True)
    os.utime(path)
    with pytest.raises(ArtefactError, match="the weight embed was changed"):
        read_artefact(folder)


@pytest.mark.parametrize("file", ["../x", "/etc/passwd", "weights/../../x", "a\0b"])
def test_a_manifest_that_names_other_folders(folder: Path, file: str) -> None:
    digest = "0" * 64
    weight = {"file": file, "bytes": 1, "sha256": digest, "header_sha256": digest}
    edit(folder, weights={"embed": weight})
    with pytest.raises(ArtefactError, match="is not a file of the folder"):
        read_artefact(folder)


MISTAKES: list[tuple[dict[str, Any], str, str]] = [
    ({"batch": -1}, "'batch' must be at least 1", "got '-1'"),
    ({"batch": 2.0}, "'batch' must be a whole number", "got '2.0'"),
    ({"batch": True}, "'batch' must be a whole number", "got 'true'"),
    ({"context": 10**30}, "'context' must be at most 2147483647", "got '1000"),
    ({"buckets": []}, "'buckets' must have at least 1 items", "got 0"),
    ({"buckets": None}, "'buckets' must be a list", "got 'null'"),
    ({"eos_ids": ["x"]}, "item 1 of 'eos_ids' must be a whole number", "got 'x'"),
    ({"mesh": {"name": "N150", "shape": [1]}}, "'shape' must have at least 2 items", "got 1"),
    ({"mesh": {"name": "N150"}}, "the field 'shape' is missing", "mesh needs 'shape'"),
    ({"plan": "0" * 15}, "'plan' is not valid", "expected 16 hexadecimal digits"),
    ({"trace_region_bytes": -32}, "'trace_region_bytes' must be at least 0", "got '-32'"),
    ({"files": {}}, "the field 'model.py' is missing", "files needs"),
    ({"weights": []}, "'weights' must be empty or a mapping", "got a list"),
    ({"weights": {"embed": {"file": 3}}}, "'file' must be text", "got '3'"),
    ({"colour": "blue"}, "unknown field 'colour'", "not a field of a manifest"),
]


@pytest.mark.parametrize(("fields", "message", "note"), MISTAKES)
def test_a_field_that_cannot_be(
    folder: Path, fields: dict[str, Any], message: str, note: str
) -> None:
    edit(folder, **fields)
    with pytest.raises(ArtefactError) as caught:
        read_artefact(folder)
    problem = next(each for each in caught.value.problems if each.message == message)
    assert problem.at
    assert problem.at.path == str(folder / "manifest.json")
    assert note in str(problem)
    assert problem.help == "restore it, or build the artefact again with ttc compile"


CACHE = {"block_tokens": 32, "blocks": 16, "dtypes": ["bf16", "bf16"]}
DIFFERENCES: list[tuple[dict[str, Any], str, str]] = [
    ({"batch": 3}, "batch", "plan.yaml:4 has 2"),
    ({"context": 512}, "context", "plan.yaml:5 has 256"),
    ({"model": "org/other"}, "model", "plan.yaml:1 has org/tiny"),
    ({"precision": "performance"}, "precision", "plan.yaml:3 has bf16"),
    ({"mesh": {"name": "T3K", "shape": [1, 8]}}, "mesh.name", "plan.yaml:2 has N150"),
    ({"mesh": {"name": "N150", "shape": [1, 2]}}, "mesh.shape", "plan.yaml:2 has [1, 1]"),
    ({"kv": CACHE | {"blocks": 999}}, "kv.blocks", "plan.yaml:8 has 16"),
    ({"kv": CACHE | {"block_tokens": 64}}, "kv.block_tokens", "plan.yaml:7 has 32"),
    ({"kv": CACHE | {"dtypes": ["bfp8"]}}, "kv.dtypes", "plan.yaml:10 has [bf16, bf16]"),
    ({"buckets": [32]}, "buckets", "plan.yaml:13 has [32, 128]"),
    ({"trace_region_bytes": 0}, "trace_region_bytes", "plan.yaml:18 has 4096"),
    ({"plan": "0" * 16}, "plan", f"plan.yaml:1 has {fingerprint(PLAN)}"),
    ({"weights": {}}, "weights", "plan.yaml:16 has others, the first is 'embed'"),
]


@pytest.mark.parametrize(("fields", "name", "note"), DIFFERENCES)
def test_a_manifest_and_a_plan_that_differ(
    folder: Path, fields: dict[str, Any], name: str, note: str
) -> None:
    edit(folder, **fields)
    with pytest.raises(ArtefactError) as caught:
        read_artefact(folder)
    problem = caught.value.problems[0]
    assert problem.message == f"'{name}' is not what plan.yaml says"
    assert problem.at
    assert problem.at.path == str(folder / "manifest.json")
    assert problem.note == note


@pytest.mark.parametrize("instead", ["", "batches: 2\n"])
def test_a_plan_that_lacks_what_is_compared(folder: Path, instead: str) -> None:
    (folder / "plan.yaml").write_text(PLAN.replace("batch: 2\n", instead))
    record = json.loads((folder / "manifest.json").read_text())
    edit(folder, files=record["files"] | {"plan.yaml": asdict(file_facts(folder / "plan.yaml"))})
    with pytest.raises(ArtefactError, match="the field 'batch' is missing") as caught:
        read_artefact(folder)
    assert str(caught.value.problems[0].at) == f"{folder}/plan.yaml:1:1"


def test_a_weight_that_the_manifest_does_not_list(folder: Path) -> None:
    """It would be loaded by its name, and nothing was said of what it holds."""
    stray = folder / "weights" / "decoders.0.wo.tensorbin"
    stray.write_bytes(b"\2" * 40)
    with pytest.raises(ArtefactError, match=r"decoders\.0\.wo\.tensorbin is not in manifest"):
        read_artefact(folder)


def test_a_weight_that_is_said_to_be_another_file(folder: Path) -> None:
    record = json.loads((folder / "manifest.json").read_text())
    record["weights"]["norm"] = record["weights"]["embed"]
    edit(folder, weights=record["weights"])
    with pytest.raises(ArtefactError, match=r"norm is said to be 'weights/embed\.tensorbin'"):
        read_artefact(folder)


def test_without_weights(folder: Path) -> None:
    edit(folder, weights=None, checkpoint=None)
    assert read_artefact(folder, need_weights=False).manifest.weights is None
    with pytest.raises(ArtefactError, match="compiled with --no-weights"):
        read_artefact(folder)


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "is damaged"), ("[]", "not a JSON object")],
)
def test_a_damaged_manifest(folder: Path, text: str, words: str) -> None:
    (folder / "manifest.json").write_text(text)
    with pytest.raises(ArtefactError, match=words):
        read_artefact(folder)


def test_a_manifest_with_a_field_missing_or_unknown(folder: Path) -> None:
    record = json.loads((folder / "manifest.json").read_text())
    del record["mesh"]
    (folder / "manifest.json").write_text(json.dumps(record))
    with pytest.raises(ArtefactError, match="the field 'mesh' is missing"):
        read_artefact(folder)
    write_artefact(folder.with_name("other"))
    edit(folder.with_name("other"), colour="blue")
    with pytest.raises(ArtefactError, match="colour"):
        read_artefact(folder.with_name("other"))


def test_no_folder_and_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="no artefact at"):
        read_artefact(tmp_path / "nowhere")
    with pytest.raises(ArtefactError, match=r"is not an artefact: it has no manifest\.json"):
        read_artefact(tmp_path)


def test_a_new_folder_appears_at_the_end(tmp_path: Path) -> None:
    out = tmp_path / "build" / "tiny"
    with new_artefact(out) as building:
        (building / "manifest.json").write_text('{"format": 1}')
        assert not out.exists()
    assert is_artefact(out)
    assert [path.name for path in out.parent.iterdir()] == ["tiny"]


@pytest.mark.parametrize("target", ["old", "new"])
def test_a_link_stays_and_what_it_points_to_is_replaced(folder: Path, target: str) -> None:
    link = folder.parent / "link"
    real = folder if target == "old" else folder.parent / "new"
    link.symlink_to(real.name)
    with new_artefact(link) as building:
        (building / "manifest.json").write_text('{"format": 3}')
    assert link.is_symlink()
    assert [path.name for path in real.iterdir()] == ["manifest.json"]
    names = {"link", folder.name, real.name}
    assert {path.name for path in folder.parent.iterdir()} == names


@pytest.mark.parametrize("name", ["a" * 300, "a" * 250, "loop"])
def test_a_folder_that_cannot_be_made(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ArtefactError, match="choose another folder with -o"):
        new_artefact(tmp_path / name).__enter__()
    assert [path.name for path in tmp_path.iterdir()] == ["loop"]


def test_a_failure_leaves_the_old_artefact(folder: Path) -> None:
    def fail_halfway() -> None:
        with new_artefact(folder) as building:
            (building / "model.py").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_halfway()
    assert read_artefact(folder).manifest.name == "tiny"
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]


def test_success_replaces_the_old_artefact(folder: Path) -> None:
    with new_artefact(folder) as building:
        (building / "manifest.json").write_text('{"format": 3}')
    assert [path.name for path in folder.iterdir()] == ["manifest.json"]
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]


NO_PROCESS = 2**22 + 1  # beyond the largest number of a process


def test_what_a_killed_process_left_is_removed(folder: Path) -> None:
    left = folder.parent / f".{folder.name}.building-{NO_PROCESS}"
    running = folder.parent / f".{folder.name}.building-{os.getppid()}"
    other = folder.parent / f".{folder.name}.building-by-hand"
    for each in (left, running, other):
        each.mkdir()
    with new_artefact(folder) as building:
        write_artefact(building)
    assert not left.exists()
    assert running.exists()
    assert other.exists()


def test_an_artefact_that_a_killed_process_had_moved_away_comes_back(folder: Path) -> None:
    folder.rename(folder.parent / f".{folder.name}.replaced-{NO_PROCESS}")
    with pytest.raises(KeyError), new_artefact(folder):
        raise KeyError
    assert read_artefact(folder).manifest.name == "tiny"


def test_a_folder_that_is_not_an_artefact_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with (
        pytest.raises(ArtefactError, match="exists and is not an artefact"),
        new_artefact(tmp_path),
    ):
        pass
    assert (tmp_path / "thesis.tex").exists()


def test_equal_manifests_differ_when_a_field_does(tmp_path: Path) -> None:
    manifest = write_artefact(tmp_path / "tiny")
    before = (tmp_path / "tiny" / "manifest.json").read_bytes()
    write_manifest(tmp_path / "tiny", replace(manifest, batch=3))
    assert (tmp_path / "tiny" / "manifest.json").read_bytes() != before


def test_files_of_the_user_in_an_artefact_are_not_lost(tmp_path: Path) -> None:
    out = tmp_path / "smol"
    (out / "weights").mkdir(parents=True)
    (out / "manifest.json").write_text('{"format": 1}')
    (out / "weights" / "embed.tensorbin").write_text("")
    (out / "results").mkdir()
    (out / "results" / "mine.csv").write_text("1")
    lost = pytest.raises(ArtefactError, match="holds files that ttc did not write")
    with lost as refused, new_artefact(out):
        raise AssertionError("nothing is built")
    assert "results/mine.csv" in str(refused.value)
    assert (out / "results" / "mine.csv").read_text() == "1"
