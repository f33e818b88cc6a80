"""Reruns: records never speak for an array that is not there any more."""

import shutil

import numpy as np
import pytest
import torch
import zarr
from recipes import run, run_refused, tiny_config, tiny_volume, write
from volumes import random_polarity, write_polarity

from synpol import InputError, decode_blockwise, polarity2instance
from synpol.blockwise import sources
from synpol.config import SyntheticDataset
from synpol.datasets import write_synthetic as ws
from synpol.images.claim import COMPLETE, HASH
from synpol.images.image import open_image
from synpol.prediction.windows import BlockPredictor, WindowGrid, read_block

VOLUME = random_polarity(7, (6, 30, 30), 3, 0.1, "uint8")
RULES = {"block_shape": (3, 10, 10), "thres_small": 9}


def instances(folder):
    return open_image(folder / "instances").array[:]


def test_an_output_that_was_removed_is_made_anew(tmp_path):
    prediction = write_polarity(tmp_path, VOLUME)
    decode_blockwise(prediction, tmp_path / "o", **RULES)
    shutil.rmtree(tmp_path / "o" / "instances")
    decode_blockwise(prediction, tmp_path / "o", **RULES)
    assert np.array_equal(instances(tmp_path / "o"), polarity2instance(VOLUME, thres_small=9))


def test_options_there_and_back(tmp_path):
    prediction = write_polarity(tmp_path, VOLUME)
    for thres_small in (9, 40, 9):
        decode_blockwise(prediction, tmp_path / "o", **RULES | {"thres_small": thres_small})
        expected = polarity2instance(VOLUME, thres_small=thres_small)
        assert np.array_equal(instances(tmp_path / "o"), expected)


def test_outputs_may_share_a_work_folder(tmp_path):
    prediction = write_polarity(tmp_path, VOLUME)
    for name in ("a", "b", "a"):
        decode_blockwise(prediction, tmp_path / name, work_dir=tmp_path / "w", **RULES)
        assert np.array_equal(instances(tmp_path / name), polarity2instance(VOLUME, thres_small=9))


def test_a_foreign_prediction_that_is_written_anew_in_place_is_decoded_again(tmp_path, caplog):
    other = random_polarity(8, VOLUME.shape[1:], 3, 0.1, "uint8")
    prediction = write_polarity(tmp_path, VOLUME)
    decode_blockwise(prediction, tmp_path / "o", **RULES)
    records = list((tmp_path / "o.work").rglob("*.record"))
    made = [path.stat().st_mtime_ns for path in records]
    decode_blockwise(prediction, tmp_path / "o", **RULES)
    assert records and [path.stat().st_mtime_ns for path in records] == made
    assert "anew" not in caplog.text
    open_image(prediction, mode="r+").array[:] = other
    decode_blockwise(prediction, tmp_path / "o", **RULES)
    assert "was written anew since it was decoded" in caplog.text
    assert np.array_equal(instances(tmp_path / "o"), polarity2instance(other, thres_small=9))


def test_a_foreign_image_that_is_written_anew_in_place_is_predicted_again(tmp_path, caplog):
    tiny_volume(tmp_path / "data")
    config = tiny_config(tmp_path)
    assert run("train", config) == 0
    before = []
    for _ in range(2):
        assert run("predict_blockwise", config, "--only", "predict") == 0
        before.append(open_image(tmp_path / "result" / "polarity").array[:])
    assert np.array_equal(*before) and "anew" not in caplog.text
    raw = open_image(tmp_path / "data" / "raw", mode="r+").array
    raw[:] = 255 - raw[:]
    assert run("predict_blockwise", config, "--only", "predict") == 0
    assert "was written anew" in caplog.text
    assert not np.array_equal(open_image(tmp_path / "result" / "polarity").array[:], before[0])


def test_stamps_are_of_foreign_local_images_and_look_at_some_chunks_only(tmp_path, monkeypatch):
    write(tmp_path / "a", "raw", np.ones((8, 32, 32), np.uint8))
    image = open_image(tmp_path / "a" / "raw")
    first = sources.stamp_of(image)
    assert first == sources.stamp_of(image)
    (tmp_path / "a" / "raw" / "s0" / "c" / "0" / "1" / "1").unlink()  # a chunk is gone
    assert sources.stamp_of(image) != first
    looked = []
    monkeypatch.setattr(sources, "SAMPLES", 2)
    monkeypatch.setattr(sources, "_state", looked.append)
    sources.stamp_of(image)
    assert [path[len(f"{image.path}/") :] for path in looked] == ["c/0/0/0", "c/0/1/1"]
    open_image(tmp_path / "a" / "raw", mode="r+").array.attrs[HASH] = "1" * 64
    assert sources.stamp_of(open_image(tmp_path / "a" / "raw")) is None


def test_data_of_others_is_not_overwritten(tmp_path):
    prediction = write_polarity(tmp_path, VOLUME)
    write(tmp_path / "o", "instances", np.full(VOLUME.shape[1:], 7, np.uint64))
    with pytest.raises(InputError, match="data that synpol did not write"):
        decode_blockwise(prediction, tmp_path / "o", block_shape=(6, 30, 30))
    assert (instances(tmp_path / "o") == 7).all()


def test_a_side_that_is_a_prime_makes_no_slivers(tmp_path):
    volume = np.zeros((3, 4, 131, 251), np.uint8)
    prediction = write_polarity(tmp_path, volume, (4, 131, 251))
    decode_blockwise(prediction, tmp_path / "o", block_shape=(64, 256, 256))
    assert open_image(tmp_path / "o" / "instances").array.chunks == (4, 131, 251)


def test_a_fraction_of_a_voxel_and_an_empty_axis_are_refused(tmp_path):
    prediction = write_polarity(tmp_path, VOLUME)
    with pytest.raises(InputError, match=r"thres_small is 1\.5"):
        decode_blockwise(prediction, tmp_path / "o", block_shape=(3, 9, 9), thres_small=1.5)
    empty = zarr.create_array(
        tmp_path / "empty", shape=(3, 8, 0, 8), chunks=(3, 8, 1, 8), dtype="uint8"
    )
    empty.attrs["voxel_size"] = [1, 1, 1]
    with pytest.raises(InputError, match="nothing in it"):
        decode_blockwise(tmp_path / "empty", tmp_path / "o", block_shape=(3, 9, 9))


def test_an_unusable_table_path_is_refused_before_anything_is_done(tmp_path):
    prediction = write_polarity(tmp_path, VOLUME)
    for path in (tmp_path, "/proc/nowhere/x.parquet"):
        with pytest.raises(InputError):
            decode_blockwise(prediction, tmp_path / "o", synapses=path, **RULES)
        assert not (tmp_path / "o").exists()


def test_predictions_there_and_back(tmp_path):
    tiny_volume(tmp_path / "data")
    config = tiny_config(tmp_path)
    assert run("train", config) == 0
    found = []
    for overlap in (0.5, 0.25, 0.5):
        arguments = (config, f"predict.overlap={overlap}", "--only", "predict")
        assert run("predict_blockwise", *arguments) == 0
        found.append(open_image(tmp_path / "result" / "polarity").array[:])
    assert found[0].max() > 0
    assert np.array_equal(found[0], found[2])
    shutil.rmtree(tmp_path / "result" / "polarity")
    assert run("predict_blockwise", *arguments) == 0
    assert np.array_equal(open_image(tmp_path / "result" / "polarity").array[:], found[0])


def test_unfinished_arrays_are_refused(tmp_path, capsys):
    tiny_volume(tmp_path / "data")
    config = tiny_config(tmp_path)
    assert run("train", config) == 0
    assert run("predict_blockwise", config) == 0
    open_image(tmp_path / "result" / "instances", mode="r+").array.attrs[COMPLETE] = False
    assert "is unfinished" in run_refused(capsys, "evaluate", config)


def test_evaluation_refuses_instances_that_were_decoded_otherwise(tmp_path, capsys):
    tiny_volume(tmp_path / "data")
    config = tiny_config(tmp_path)
    assert run("train", config) == 0
    assert run("predict_blockwise", config) == 0
    message = run_refused(capsys, "evaluate", config, "decode.thres=0.9")
    assert "was decoded with thres = 0.5, the config has decode.thres = 0.9" in message
    message = run_refused(capsys, "predict_blockwise", config, "--only", "decode", "exclusive=true")
    assert "was predicted with exclusive = False" in message


def test_volumes_of_different_voxel_size_are_refused(tmp_path, capsys):
    tiny_volume(tmp_path / "data")
    for name in ("raw", "truth"):
        data = open_image(tmp_path / "data" / name).array[:]
        write(tmp_path / "other", name, data, voxel_size=(40, 4, 4))
    train = [
        {"raw": f"{tmp_path}/{d}/raw", "truth": f"{tmp_path}/{d}/truth", "labels": "polarity"}
        for d in ("data", "other")
    ]
    message = run_refused(capsys, "train", tiny_config(tmp_path, data={"train": train}))
    assert "voxels of (40, 4, 4) nm" in message
    assert not (tmp_path / "run").exists()


def test_a_constant_part_of_the_image_gives_the_same_in_every_block():
    image = np.zeros((2, 8, 32), np.float32)
    image[..., :16] = np.random.default_rng(0).random((2, 8, 16))

    grid = WindowGrid.of(image.shape, (2, 4, 4), 0.5, "bump")
    predict = BlockPredictor(lambda w: torch.full((len(w), 3, 2, 4, 4), 0.8), grid, 3)

    def by_blocks(width):
        return np.concatenate(
            [
                predict(read_block(grid, lambda w: image[w], (0, 0, x), (2, 8, x + width)))
                for x in range(0, 32, width)
            ],
            axis=-1,
        )

    assert np.array_equal(by_blocks(32), by_blocks(8))
    assert by_blocks(32)[..., 20:].max() == 0


def small(folder, seed):
    return SyntheticDataset(output=str(folder), shape=(12, 96, 96), seed=seed, min_side_voxels=20)


def test_synthetic_volumes_there_and_back(tmp_path):
    found = []
    for seed in (1, 2, 1):
        ws.write_synthetic(small(tmp_path / "s", seed), 1)
        found.append([open_image(tmp_path / "s" / n).array[:] for n in ("raw", "truth")])
    assert not np.array_equal(found[0][0], found[1][0])
    assert np.array_equal(found[0][0], found[2][0])
    assert np.array_equal(found[0][1], found[2][1])
    shutil.rmtree(tmp_path / "s")
    ws.write_synthetic(small(tmp_path / "s", 1), 1)
    assert np.array_equal(open_image(tmp_path / "s" / "truth").array[:], found[0][1])


def test_interrupted_numbering_of_labels_goes_on(tmp_path, monkeypatch):
    ws.write_synthetic(small(tmp_path / "whole", 3), 1)
    expected = open_image(tmp_path / "whole" / "truth").array[:]
    assert set(np.unique(expected)) >= {0, 1, 2}
    write = ws.NumberLabelsStage.write

    def interrupted(self, index, opened, result):
        write(self, index, opened, result)
        opened.truth[:6] = opened.labels[:6]
        for record in self.folder.rglob("*.record"):
            record.unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(ws.NumberLabelsStage, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ws.write_synthetic(small(tmp_path / "s", 3), 1)
    monkeypatch.setattr(ws.NumberLabelsStage, "write", write)
    ws.write_synthetic(small(tmp_path / "s", 3), 1)
    assert np.array_equal(open_image(tmp_path / "s" / "truth").array[:], expected)
