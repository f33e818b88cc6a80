"""Damaged metadata and small files of a result: readers refuse, writers make them anew."""

from __future__ import annotations

import json
import random
import shutil

import numpy as np
import pytest
import zarr
from finished import finish
from recipes import run, run_refused, tiny_config, tiny_volume, write
from test_import_fuzz import changed

from synpol.blockwise.driver import Driver
from synpol.images.image import open_image
from synpol.scene.levels import add_levels

DAMAGES = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "garbage": lambda content: b"\xff\x00garbage" * 20,
    "a list": lambda content: b"[1]",
    "no keys": lambda content: b"{}",
    "attributes of another kind": lambda content: b'{"node_type": "group", "attributes": 0.5}',
    "deep": lambda content: b"[" * 3000,
    "a flipped bit": lambda content: content.replace(b"{", b"[", 1),
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A result of every command, in the place that hashes of it hold, and a copy of it."""
    folder = tmp_path_factory.mktemp("result")
    finish(folder / "made", "connect")
    shutil.copytree(folder / "made", folder / "kept")
    return folder


@pytest.fixture
def made(kept):
    """The config of an undamaged result."""
    shutil.rmtree(kept / "made")
    shutil.copytree(kept / "kept", kept / "made")
    return kept / "made" / "config.yaml"


def damage(path, how):
    path.write_bytes(DAMAGES[how](path.read_bytes()))


@pytest.mark.parametrize("how", DAMAGES)
def test_decoding_makes_instances_anew_whose_metadata_are_damaged(made, how):
    result = made.parent / "result"
    before = open_image(result / "instances").array[:]
    for where in ("instances/s0", "instances", "."):
        metadata = result / where / "zarr.json"
        content = metadata.read_bytes()
        damage(metadata, how)
        assert run("predict_blockwise", made, "--only", "decode") == 0
        assert np.array_equal(open_image(result / "instances").array[:], before)
        if where == "instances":
            assert metadata.read_bytes() == content
    assert (result / "instances.damaged" / "s0" / "c").is_dir()  # nothing of it is removed
    assert run("connect", made) == 0


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", ["instances", "polarity"])
def test_readers_refuse_an_image_whose_metadata_are_damaged(made, capsys, tmp_path, name, how):
    damage(made.parent / "result" / name / "s0" / "zarr.json", how)
    commands = [("view", "--prepare"), ("evaluate",)]
    if name == "instances":
        commands += [("connect",), ("table", "--csv", tmp_path / "a.csv")]
    else:
        commands += [("predict_blockwise", "--only", "decode")]
    for command, *arguments in commands:
        message = run_refused(capsys, command, made, *arguments)
        assert f"result/{name}" in message and "Traceback" not in message
    assert not (made.parent / "result" / "scores.json").exists()


@pytest.mark.parametrize("name", ["segmentation", "truth"])
def test_readers_refuse_damaged_labels(made, capsys, name):
    path = {"segmentation": "neurons", "truth": "truth"}[name]
    damage(made.parent / "data" / path / "s0" / "zarr.json", "cut")
    command = {"segmentation": "connect", "truth": "evaluate"}[name]
    assert f"data/{path}" in run_refused(capsys, command, made)


def test_small_files_of_a_work_folder_stop_nothing(made):
    work = made.parent / "result.work"
    expected = (made.parent / "result" / "synapses.parquet").read_bytes()
    for how in DAMAGES:
        for file in [p for p in work.rglob("*") if p.suffix in (".json", ".lock", ".beat")]:
            damage(file, how)
        assert run("predict_blockwise", made, "--only", "decode") == 0, how
        assert run("connect", made) == 0
    assert (made.parent / "result" / "synapses.parquet").read_bytes() == expected


@pytest.mark.parametrize("how", DAMAGES)
def test_reports_and_tables_that_are_damaged_are_written_anew(made, how):
    result = made.parent / "result"
    names = ("connectivity.parquet", "partners.parquet", "connectivity.graphml")
    before = {name: (result / name).read_bytes() for name in names}
    for name in names:
        damage(result / name, how)
    (result / "connectivity.graphml.tmp").write_bytes(b"a killed writer's")
    assert run("connect", made) == 0
    assert {name: (result / name).read_bytes() for name in names} == before
    assert not (result / "connectivity.graphml.tmp").exists()


def test_a_report_is_whole_and_comes_after_the_scores(made, monkeypatch, capsys):
    import synpol.files

    result = made.parent / "result"
    for name in ("scores.json", "report.html"):
        (result / name).write_text("half")
    written, replace = [], synpol.files.os.replace

    def noted(source, target):
        written.append(target.name)
        replace(source, target)

    monkeypatch.setattr(synpol.files.os, "replace", noted)
    assert run("evaluate", made) == 0
    assert [n for n in written if n in ("scores.json", "report.html")] == [
        "scores.json",
        "report.html",
    ]
    assert (result / "report.html").read_text().rstrip().endswith("</html>")
    scores = (result / "scores.json").read_bytes()
    (result / "other.json").write_text("[]")
    run_refused(capsys, "evaluate", made, f"evaluate.compare=[{result}/other.json]")
    assert (result / "scores.json").read_bytes() == scores


@pytest.mark.parametrize(
    "name", ["connectivity.parquet", "connectivity.graphml", "partners.parquet"]
)
def test_a_folder_in_place_of_a_file_is_named(made, capsys, name):
    place = made.parent / "result" / name
    place.unlink()
    place.mkdir()
    assert f"{place} is a folder" in run_refused(capsys, "connect", made)


def test_a_prediction_whose_metadata_are_damaged_is_made_anew(tmp_path):
    tiny_volume(tmp_path / "data")
    config = tiny_config(tmp_path)
    assert run("train", config) == 0
    assert run("predict_blockwise", config, "--only", "predict") == 0
    polarity = tmp_path / "result" / "polarity"
    before = open_image(polarity).array[:]
    for how in ("cut", "no keys"):
        damage(polarity / "s0" / "zarr.json", how)
        assert run("predict_blockwise", config, "--only", "predict") == 0
        assert np.array_equal(open_image(polarity).array[:], before)
    assert {p.name for p in polarity.parent.glob("*.damaged*")} == {
        "polarity.damaged",
        "polarity.damaged2",
    }


@pytest.mark.parametrize("how", ["cut", "no keys", "a list"])
def test_coarser_levels_whose_metadata_are_damaged_are_made_anew(tmp_path, how):
    values = np.random.default_rng(0).integers(0, 200, (8, 300, 140)).astype(np.uint8)
    write(tmp_path, "raw", values)

    def levels():
        with Driver(tmp_path / "work", "levels") as driver:
            add_levels(driver, open_image(tmp_path / "raw"), labels=False)
        return open_image(tmp_path / "raw" / "s1").array[:]

    before = levels()
    damage(tmp_path / "raw" / "s1" / "zarr.json", how)
    assert np.array_equal(levels(), before)


def try_metadata(kept, seeds, commands):
    """Change metadata at random and run commands: they work or refuse, and nothing else.

    Returns how many runs were refused.
    """
    made, refused = kept / "made", 0
    for seed in seeds:
        rng = random.Random(seed)
        shutil.rmtree(made)
        shutil.copytree(kept / "kept", made)
        files = sorted(p for p in made.rglob("zarr.json") if "data/raw" not in str(p))
        metadata = rng.choice(files)
        about = json.loads(metadata.read_text())
        for _ in range(rng.choice([1, 1, 3])):
            about = changed(rng, about)
        metadata.write_text(json.dumps(about))
        command = [str(made / a) if a == "a.parquet" else a for a in rng.choice(commands)]
        code = run(command[0], made / "config.yaml", *command[1:])
        assert code in (0, 2), (seed, metadata, command)
        refused += code == 2
    return refused


COMMANDS = [
    ("connect",),
    ("view", "--prepare"),
    ("predict_blockwise", "--only", "decode"),
    ("predict_blockwise", "--only", "decode", "--fresh"),
    ("table", "--cave", "a.parquet"),
]


@pytest.mark.filterwarnings("ignore")
def test_metadata_that_were_changed_at_random_are_read_or_refused(kept):
    assert try_metadata(kept, range(60), COMMANDS) > 10


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_metadata_that_were_changed_at_random_are_read_or_refused_many_times(kept):
    assert try_metadata(kept, range(1000, 1600), [*COMMANDS, ("evaluate",)]) > 100


def test_an_image_of_others_that_cannot_be_read_here_is_left_where_it_is(made, capsys):
    instances = made.parent / "result" / "instances"
    shutil.rmtree(instances)
    write(made.parent / "result", "instances", np.ones((4, 4, 4), np.uint64))
    metadata = instances / "s0" / "zarr.json"
    metadata.write_text(metadata.read_text().replace('"zstd"', '"theirs"'))
    before = metadata.read_bytes()
    message = run_refused(capsys, "predict_blockwise", made, "--only", "decode")
    assert "was not written by synpol" in message
    assert metadata.read_bytes() == before


def ome_of_version_4(folder, values):
    """Write an image as most programs do: Zarr v2, OME 0.4."""
    group = zarr.open_group(folder, mode="w", zarr_format=2)
    group.create_array("0", data=values, chunks=(8, 32, 32))
    axes = [{"name": a, "type": "space", "unit": "nanometer"} for a in "zyx"]
    scale = [{"type": "scale", "scale": [30.0, 16.0, 16.0]}]
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", [".zgroup", ".zattrs", "0/.zarray"])
def test_damaged_metadata_of_zarr_v2_are_refused(made, capsys, name, how):
    folder = made.parent / "data" / "other"
    ome_of_version_4(folder, open_image(made.parent / "data" / "neurons").array[:])
    source = f"connect.segmentation={folder}"
    assert run("connect", made, source) == 0
    damage(folder / name, how)
    capsys.readouterr()
    code = run("connect", made, source)
    said = capsys.readouterr().err
    if how == "no keys" and name != "0/.zarray":  # a group without anything to say of itself
        assert code in (0, 2)
        return
    assert code == 2 and str(folder) in said, said


@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_precomputed_metadata_are_refused(made, capsys, how):
    import tensorstore

    folder = made.parent / "data" / "precomputed"
    values = open_image(made.parent / "data" / "neurons").array[:]
    store = tensorstore.open(
        {
            "driver": "neuroglancer_precomputed",
            "kvstore": f"file://{folder}",
            "multiscale_metadata": {
                "type": "segmentation",
                "data_type": "uint64",
                "num_channels": 1,
            },
            "scale_metadata": {
                "size": list(values.shape[::-1]),
                "resolution": [16, 16, 30],
                "encoding": "raw",
                "chunk_size": [32, 32, 8],
            },
        },
        create=True,
    ).result()
    store[...] = values.transpose()[..., None]
    source = f"connect.segmentation=precomputed://{folder}"
    assert run("connect", made, source) == 0
    damage(folder / "info", how)
    assert str(folder) in run_refused(capsys, "connect", made, source)
