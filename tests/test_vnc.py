"""Real ssTEM sections, where they are at hand."""

import importlib

import numpy as np
import yaml
from recipes import ROOT, run

from synpol.images.image import open_image


def test_real_sections_are_imported_with_their_masks(vnc, tmp_path):
    recipe = yaml.safe_load((ROOT / "configs" / "vnc.yaml").read_text())
    for entry in recipe["prepare"]["imports"]:
        entry["source"] = str(vnc / entry["source"].rpartition("/")[2])
        entry["output"] = entry["output"].replace("runs/vnc", str(tmp_path))
    config = tmp_path / "vnc.yaml"
    config.write_text(yaml.safe_dump({"run_dir": str(tmp_path), "prepare": recipe["prepare"]}))
    assert run("prepare", config) == 0
    raw = open_image(tmp_path / "heldout" / "raw")
    truth = open_image(tmp_path / "heldout" / "truth")
    raw.same_grid(truth, "the masks")
    assert raw.unit == "angstrom"
    assert tuple(raw.voxel_size) == (500, 184, 184)
    assert raw.offset_nm == (700, 0, 0)
    assert set(np.unique(truth.array[:])) == {0, 255}
    assert 0.002 < (truth.array[:] > 0).mean() < 0.05
    # synapses are darker than their surroundings
    values = raw.array[:].astype(float)
    assert values[truth.array[:] > 0].mean() < values.mean()


def test_masks_are_split_by_the_noted_direction(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    vnc_sides = importlib.import_module("vnc_sides")
    masks = np.zeros((3, 20, 30), bool)
    masks[:2, 5:9, 4:12] = masks[2, 12:15, 20:26] = masks[0, 15:17, 1:4] = True
    noted = {"z": "0", "y": "6.5", "x": "8", "pre_to_post_y": "0", "pre_to_post_x": "-1"}
    other = {"z": "2", "y": "13", "x": "22.5", "pre_to_post_y": "", "pre_to_post_x": ""}
    rows = [noted | {"judged_by": "one"}, other | {"judged_by": "none"}]
    expected = np.zeros(masks.shape, np.uint8)
    expected[:2, 5:9, 4:8], expected[:2, 5:9, 8:12] = 2, 1
    expected[2, 12:15, 20:26] = expected[0, 15:17, 1:4] = vnc_sides.UNKNOWN
    assert np.array_equal(vnc_sides.split(masks, rows), expected)
