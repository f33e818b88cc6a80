"""The request graph of pipelines/train.py: its batches stay those that old runs were trained on."""

from __future__ import annotations

from pathlib import Path

import gunpowder as gp
import numpy as np
import pytest
from recipes import recipe, tiny_config, tiny_volume

from synpol.config import load_config
from synpol.gp import request_batch
from synpol.training.volumes import open_volume

#: arrays of the first batches that the code of commit ff88e6a drew
KEPT = Path(__file__).parent / "data" / "batches_of_ff88e6a.npz"
#: every augmentation of configs/full_recipe.yaml, more often than there
FULL = {
    "elastic_p": 0.6,
    "elastic_sigma": [0, 1.5, 1.5],
    "elastic_spacing": [4, 12, 12],
    "misalign_p": 0.6,
    "misalign": 5,
    "gamma_p": 0.6,
    "section_contrast": 0.3,
    "section_brightness": 0.2,
    "noise_p": 0.6,
    "blur_p": 0.6,
    "blur": 2,
    "blur_length": 7,
    "missing_p": 0.6,
    "missing": 1,
}
AFTER = {"size_thres": 50, "p": 0.9, "after_augmentation": True}
CASES = {
    "default": {},
    "full": {"augment": FULL},
    "rejection_after": {"augment": FULL, "reject_sampling": AFTER},
    "exclusive": {"augment": {"gamma_p": 1, "flip": False}, "exclusive": True},
    "union": {"augment": {"misalign_p": 1, "misalign": 3, "rotate90": False}},
}


def batches(folder: Path, name: str, count: int = 3) -> dict[str, np.ndarray]:
    """The first batches of a case, by the names that the file of old ones has."""
    for number in (1, 2):
        tiny_volume(folder / f"volume_{number}", (12, 64, 64), seed=number)
    given = [
        {
            "raw": f"{folder}/volume_{number}/raw",
            "truth": f"{folder}/volume_{number}/truth",
            "labels": "union" if name == "union" and number == 2 else "polarity",
        }
        for number in (1, 2)
    ]
    config = load_config([str(tiny_config(folder, data={"train": given}, **CASES[name]))])
    train = recipe("train")
    volumes = [open_volume(v, None) for v in config.data.train]
    graph = train.request_graph(config, volumes, 0, range(2))
    request = train.batch_request(config, volumes[0])
    keys = {"raw": train.RAW, "target": train.TARGET, "weights": train.WEIGHTS}
    keys["draws"] = train.DRAWS
    with gp.build(graph):
        drawn = [request_batch(graph, request.copy()) for _ in range(count)]
    return {f"{name}/{k}": np.stack([b[key].data for b in drawn]) for k, key in keys.items()}


@pytest.mark.parametrize("name", CASES)
def test_the_batches_of_a_config_are_those_that_older_code_drew(tmp_path, name):
    with np.load(KEPT) as kept:
        for key, found in batches(tmp_path, name).items():
            expected = kept[key]
            if expected.dtype == np.float16:  # in the file only, to keep it short
                assert np.allclose(found, expected.astype(np.float32), rtol=1e-3, atol=1e-3), key
            else:
                assert np.array_equal(found, expected), key
