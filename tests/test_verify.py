"""pipelines/verify.py: names each damaged file, and the command that it names makes it right."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from recipes import run, run_refused, tiny_config, tiny_volume, write

import synpol
import synpol.files
from synpol.blockwise.records import Index
from synpol.files import digest_beside
from synpol.images.image import open_image
from synpol.prediction.stage import BlockResult, PredictStage
from synpol.verification.stage import ReadStage


@dataclass
class Result:
    """A finished result of every step, and how it was when it was finished."""

    config: Path
    folder: Path
    kept: Path

    def problems(self, capsys: pytest.CaptureFixture[str]) -> dict[str, tuple[str, str]]:
        """What is found and the command, by file; checks that the message says the same."""
        said = run_refused(capsys, "verify", self.config)
        about = json.loads((self.folder / "verify.json").read_text())
        assert not about["right"]
        for problem in about["problems"]:
            assert problem["file"] in said
            assert problem["redo"] in said
        return {p["file"]: (p["found"], p["redo"]) for p in about["problems"]}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Result]:
    folder = tmp_path_factory.mktemp("verify")
    tiny_volume(folder / "data", (8, 96, 96))
    truth = open_image(folder / "data/truth").array[:]
    perfect = (255 * synpol.seg_to_polarity(truth)).astype(np.uint8)
    neurons = np.broadcast_to(1 + np.arange(96, dtype=np.uint64) // 12, (8, 96, 96))
    write(folder / "data", "neurons", neurons)
    config = tiny_config(
        folder,
        connect={"segmentation": f"{folder}/data/neurons"},
        train__iterations=2,
        decode__block_shape=[8, 48, 48],
    )

    def compute(stage: PredictStage, index: Index, *_: object) -> BlockResult:
        return BlockResult(perfect[(slice(None), *stage.blocks.slices(index))], {})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PredictStage, "compute", compute)
        for command in ("train", "predict_blockwise", "connect"):
            assert run(command, config) == 0
        shutil.copytree(folder / "result", folder / "kept")
        yield Result(config, folder / "result", folder / "kept")


@pytest.fixture
def result(made: Result) -> Result:
    """The result as it was finished."""
    shutil.rmtree(made.folder)
    shutil.copytree(made.kept, made.folder)
    return made


def obey(command: str) -> None:
    """Do what a command of the report says, in this process."""
    for part in command.split(" && "):
        words = shlex.split(part)
        if words[0] == "rm":
            Path(words[1]).unlink()
        else:
            assert words[0] == "python"
            assert run(Path(words[1]).stem, *words[2:]) == 0


def chunk(image: str) -> Callable[[Path], Path]:
    """The largest chunk file of an image."""
    return lambda folder: max(
        (p for p in (folder / image).rglob("s0/c/**/*") if p.is_file()),
        key=lambda p: (p.stat().st_size, p),
    )


def file(name: str) -> Callable[[Path], Path]:
    return lambda folder: folder / name


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def drop_rows(path: Path) -> None:
    """Put a table of another run there, with a digest of its own."""
    table = pq.read_table(path)
    with digest_beside(path):
        pq.write_table(table.slice(1), path)


def change_voxels(path: Path) -> None:
    table = pq.read_table(path)
    column = table.column_names.index("pre_voxels")
    more = pa.array(table["pre_voxels"].to_numpy() + 1)
    with digest_beside(path):
        pq.write_table(table.set_column(column, table.schema.field(column), more), path)


HARMS = {
    "bit in polarity": (chunk("polarity"), flip, "checksum", "rm FILE && .*--only predict$"),
    "bit in instances": (chunk("instances"), flip, "checksum", "rm FILE && .*--only decode$"),
    "polarity missing": (chunk("polarity"), Path.unlink, "missing", "^python.*--only predict$"),
    "instances missing": (chunk("instances"), Path.unlink, "missing", "^python.*--only decode$"),
    "polarity cut": (chunk("polarity"), cut, r"bytes; \d+ were", "^python.*--only predict$"),
    "instances cut": (chunk("instances"), cut, r"bytes; \d+ were", "^python.*--only decode$"),
    "bit in the table": (file("synapses.parquet"), flip, "", "--only decode$"),
    "table missing": (file("synapses.parquet"), Path.unlink, "no synapse table", "--only decode$"),
    "table of another run": (
        file("synapses.parquet"),
        drop_rows,
        "by the table and .* in the instances",
        "--only decode$",
    ),
    "sizes of another run": (
        file("synapses.parquet"),
        change_voxels,
        "by the table and .* in the instances",
        "--only decode$",
    ),
    "bit in links": (file("links.parquet"), flip, "", "connect.py"),
    "links of another run": (file("links.parquet"), change_voxels, "not those of", "connect.py"),
    "partners of another run": (file("partners.parquet"), drop_rows, "synapses", "connect.py"),
    "bit in connectivity": (file("connectivity.parquet"), flip, "SHA-256", "connect.py"),
    "parts missing": (file("parts.parquet"), Path.unlink, "missing", "connect.py"),
    "graph missing": (file("connectivity.graphml"), Path.unlink, "-1 connections", "connect.py"),
}


def test_an_undamaged_result_is_right(result, capsys):
    assert run("verify", result.config) == 0
    assert "all is right" in capsys.readouterr().out
    about = json.loads((result.folder / "verify.json").read_text())
    assert about["right"]
    assert about["problems"] == about["not_checked"] == []
    assert len(about["checked"]) == 7
    assert not list((result.folder.parent / "result.work").glob("verify-*"))


@pytest.mark.parametrize("name", HARMS)
def test_a_damaged_file_is_named_with_the_command_that_mends_it(result, capsys, name):
    which, harm, found, redo = HARMS[name]
    path = which(result.folder)
    before = path.read_bytes()
    synpol.files._known_sha256.cache_clear()  # a file of the same second and size
    harm(path)
    problems = result.problems(capsys)
    assert list(problems) == [str(path)]
    said, command = problems[str(path)]
    assert re.search(found, said)
    assert re.search(redo.replace("FILE", re.escape(str(path))), command)
    obey(command)
    assert path.read_bytes() == before
    synpol.files._known_sha256.cache_clear()
    assert run("verify", result.config) == 0


def test_of_a_copied_prediction_the_source_is_named(result, tmp_path, capsys):
    """A polarity array that synpol did not predict can only be copied anew."""
    polarity = np.zeros((3, 8, 32, 32), np.uint8)
    polarity[[0, 2], 2:6, 4:14, 4:14] = polarity[[1, 2], 2:6, 4:14, 15:25] = 255
    write(tmp_path / "result", "polarity", polarity)
    config = tiny_config(tmp_path)
    assert run("predict_blockwise", config, "--only", "decode") == 0
    assert run("verify", config) == 0
    assert "does not say how large" in capsys.readouterr().out  # of the polarity
    path = chunk("polarity")(tmp_path / "result")
    flip(path)
    found = Result(config, tmp_path / "result", tmp_path).problems(capsys)
    assert found == {str(path): (found[str(path)][0], f"copy {path} anew from where it came")}


def test_without_the_work_folder_all_is_done_again(result, tmp_path, capsys):
    """Chunks that nobody vouches for: a missing one shows in the table, and --fresh mends it."""
    key = f"workers.work_dir={tmp_path}/elsewhere"
    assert run("verify", result.config, key) == 0
    path = chunk("instances")(result.folder)
    flip(path)
    capsys.readouterr()
    assert run("verify", result.config, key) == 2
    said = capsys.readouterr().err
    assert str(path) in said
    assert "--only decode --fresh" in said
    shutil.copy(result.kept / path.relative_to(result.folder), path)
    path.unlink()
    assert run("verify", result.config, key) == 2
    assert "by the table" in capsys.readouterr().err


def test_a_cut_prediction_leaves_no_doubt_about_several_files(result, capsys):
    files = [chunk(name)(result.folder) for name in ("polarity", "instances")]
    for path in files:
        cut(path)
    links = result.folder / "links.parquet"
    flip(links)
    synpol.files._known_sha256.cache_clear()
    problems = result.problems(capsys)
    assert set(problems) == {str(path) for path in [*files, links]}
    for _, command in problems.values():
        obey(command)
    synpol.files._known_sha256.cache_clear()
    assert run("verify", result.config) == 0


@pytest.mark.parametrize("harm", [flip, Path.unlink])
def test_a_damaged_level_is_named_and_made_anew(tmp_path, capsys, harm):
    truth = np.zeros((8, 200, 200), np.uint64)
    truth[2:6, 20:40, 20:40], truth[2:6, 20:40, 40:60] = 1, 2
    write(tmp_path / "result", "polarity", (255 * synpol.seg_to_polarity(truth)).astype(np.uint8))
    write(tmp_path / "data", "raw", np.ones((8, 200, 200), np.uint8))
    write(tmp_path / "data", "truth", truth)
    config = tiny_config(tmp_path, decode__block_shape=[8, 200, 200])
    assert run("predict_blockwise", config, "--only", "decode") == 0
    assert run("view", config, "--prepare") == 0
    assert run("verify", config) == 0
    level = tmp_path / "result/instances/s1"
    path = max((p for p in level.rglob("c/**/*") if p.is_file()), key=lambda p: p.stat().st_size)
    before = path.read_bytes()
    harm(path)
    found = Result(config, tmp_path / "result", tmp_path).problems(capsys)
    ((file, (_, command)),) = found.items()
    assert file in (str(path), str(level))
    obey(command)
    assert path.read_bytes() == before
    assert run("verify", config) == 0


def test_an_interrupted_check_goes_on(result, monkeypatch):
    compute, seen = ReadStage.compute, []

    def until(stage: ReadStage, index: Index, *given: object) -> object:
        if len(seen) == 1 and not left:
            left.append(index)
            raise KeyboardInterrupt
        seen.append((str(stage.source), index))
        return compute(stage, index, *given)  # type: ignore[arg-type]

    left: list[Index] = []
    monkeypatch.setattr(ReadStage, "compute", until)
    assert run("verify", result.config) == 130
    assert run("verify", result.config) == 0
    assert len(seen) == len(set(seen))
