"""Windows of a prediction whose config says nothing of them, and results with older windows."""

from __future__ import annotations

import csv
import dataclasses
import shutil

import numpy as np
import pytest
from recipes import run, tiny_config, tiny_volume

from synpol.blockwise.grid import BlockGrid
from synpol.config import Predict, load_config
from synpol.config.windows import with_cheap_windows
from synpol.images.claim import COMPLETE
from synpol.images.image import open_image
from synpol.prediction.windows import WindowGrid
from synpol.training.validation import Validation

OLDER = "goes on with them"


@pytest.fixture
def trained(tmp_path):
    tiny_volume(tmp_path / "data")
    config = tiny_config(tmp_path, train__precision="float32", train__validate_every=2)
    assert run("train", config) == 0
    return tmp_path


def predicted(folder, *changes):
    config = folder / "config.yaml"
    assert run("predict_blockwise", config, "--only", "predict", *changes) == 0
    return open_image(folder / "result" / "polarity").array[:]


def stored(folder):
    files = (folder / "result" / "polarity" / "s0" / "c").rglob("*")
    return {path: path.stat().st_mtime_ns for path in files if path.is_file()}


def test_a_result_with_the_older_windows_is_gone_on_with_unless_it_is_to_be_fresh(trained, caplog):
    older = predicted(trained, "predict.overlap=0.5")  # what said nothing had these
    before = stored(trained)
    assert np.array_equal(predicted(trained), older) and stored(trained) == before
    assert caplog.text.count(OLDER) == 1

    shutil.rmtree(next((trained / "result.work").glob("predict-*")) / "0")  # begun only
    open_image(trained / "result" / "polarity", mode="r+").array.attrs[COMPLETE] = False
    assert np.array_equal(predicted(trained), older)
    caplog.clear()
    newer = predicted(trained, "--fresh")
    assert OLDER not in caplog.text and not np.array_equal(newer, older)
    before = stored(trained)
    assert np.array_equal(predicted(trained), newer) and stored(trained) == before


def test_default_windows_give_one_result_for_any_blocks(trained):
    once = predicted(trained)
    blocks = "predict.block_shape=[4, 12, 20]", "predict.chunk_shape=[4, 12, 20]"
    assert np.array_equal(predicted(trained, *blocks), once)


def test_one_word_of_the_windows_brings_back_the_recipe(trained):
    config = [str(trained / "config.yaml")]
    recipe = (4, 16, 16), 0.5, "bump"
    for said in ("predict.overlap=0.5", "predict.window=[4, 16, 16]", "predict.blending=bump"):
        found = load_config([*config, said]).laid_out().predict
        assert (found.window, found.overlap, found.blending) == recipe
        assert found.batch_size == 4
    assert load_config(config).laid_out().predict.window == (6, 20, 20)


@pytest.mark.parametrize("multiple", [2, 8, 16, 64])
@pytest.mark.parametrize("z", [1, 2, 5, 18])
def test_blocks_of_powers_of_two_share_no_window(z, multiple):
    for side in range(multiple, 400, multiple):
        found = with_cheap_windows(Predict(), (z, side, side), multiple)
        assert all(w % multiple == 0 for w in found.window[1:])
        grid = WindowGrid.of((256, 2048, 2048), found.window, found.overlap, found.blending)
        assert all(step & (step - 1) == 0 for step in grid.step)
        blocks = BlockGrid.of(grid.shape, (64, 512, 512))
        assert grid.count_in(blocks) == grid.count


def test_validation_goes_on_with_the_windows_that_it_began_with(trained):
    config = load_config([str(trained / "config.yaml")])
    recipe = load_config([str(trained / "config.yaml"), "predict.overlap=0.5"])
    newer, older = Validation(config, 4), Validation(recipe, 4)
    assert len(newer.rows) == 2 and older.rows == [] and newer.settings != older.settings
    older.rows = [dataclasses.replace(row, settings=older.settings) for row in newer.rows]
    older._write()
    again = Validation(config, 4)
    assert again.settings == older.settings and len(again.rows) == 2
    assert again.volume.config.predict.overlap == 0.5
    with open(trained / "run" / "validation.csv") as file:
        assert {row["settings"] for row in csv.DictReader(file)} == {older.settings}
