"""Files of others, changed at random: what they hold is read, or the file is refused by its name.

Nothing is run, no other file is changed, and memory has a bound. A few inputs of each kind are
tried in every run of the tests, many more in the slow ones, which print how many.
"""

from __future__ import annotations

import copy
import json
import random
import shutil
import struct
import tempfile
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from precomputed import write_precomputed
from recipes import recipe, run, tiny_config, tiny_volume
from test_damaged_checkpoints import resaved
from test_damaged_tables import mutated
from test_import_chunked import write_n5
from test_import_fuzz import changed
from test_links import CAVE, NEUPRINT, PLACE
from test_networks import edited
from test_zipped import zipped
from watched import watched

from synpol.config import Config, load_config
from synpol.errors import InputError
from synpol.images.appearance import learned_from
from synpol.images.image import check_readable, open_image
from synpol.images.reading import read_voxels
from synpol.model.trained import load_checkpoint, load_trained
from synpol.synapses.links import read_links
from synpol.training.initial import Initial

RAW = np.random.default_rng(0).integers(0, 256, (9, 12, 11), dtype=np.uint8)
SIZE = (40, 8, 4)


def read_image(path):
    """Open an image, and read all of it where that is little."""
    image = open_image(path, channels=0)
    check_readable(image)
    if max(image.shape_vx) < 99:
        read_voxels(image.array, (slice(None),), image.source)


class Json:
    """Metadata in JSON: one place is changed, or the text is cut."""

    def __init__(self, make, metadata, read):
        self.make, self.metadata, self.read = make, metadata, read

    def write(self, folder):
        self.make(folder)
        return folder

    def change(self, path, rng):
        file = path / self.metadata
        text = file.read_text()
        if rng.random() < 0.1:
            file.write_text(text[: rng.randrange(len(text))])
        else:
            file.write_text(json.dumps(changed(rng, json.loads(text))))


class Bytes:
    """A file of which some bytes are changed, or that is cut."""

    def __init__(self, make, read):
        self.make, self.read = make, read

    def write(self, path):
        self.make(path)
        return path

    def change(self, path, rng):
        path.write_bytes(mutated(rng, path.read_bytes()))


def make_n5(folder):
    transform = {"axes": ["z", "y", "x"], "scale": [*SIZE], "translate": [2, 2, 2]}
    write_n5(folder, RAW, transform=transform, pixelResolution={"dimensions": [4, 8, 40]})


def make_sharded(folder):
    sharding = {
        "@type": "neuroglancer_uint64_sharded_v1",
        "preshift_bits": 1,
        "hash": "identity",
        "minishard_bits": 1,
        "shard_bits": 1,
        "data_encoding": "gzip",
    }
    write_precomputed(folder, RAW.astype(np.uint64), SIZE, sharding=sharding)


def make_links(columns):
    def make(path):
        rows = {k: [float(n) + v[0] for n in range(40)] for k, v in columns.items()}
        table = pa.table(rows | {"pre_id": [*range(40)], "post_id": [*range(40)]})
        pq.write_table(table, path, row_group_size=16)

    return make


def change_zip(path, rng):
    """Change bytes of a ZIP file, mostly of its directory and of what stands before members."""
    content = bytearray(path.read_bytes())
    headers = [i for i in range(len(content) - 1) if content[i : i + 2] == b"PK"]
    for _ in range(rng.choice([1, 2, 5])):
        place = rng.choice(headers) + rng.randrange(46)
        if rng.random() < 0.4:
            place = rng.randrange(len(content))
        content[min(place, len(content) - 1)] = rng.randrange(256)
    path.write_bytes(content[: rng.randrange(len(content))] if rng.random() < 0.1 else content)


class Zip(Bytes):
    """A ZIP file of an array."""

    def change(self, path, rng):
        change_zip(path, rng)


KINDS = {
    "n5": Json(make_n5, "attributes.json", read_image),
    "precomputed": Json(lambda f: write_precomputed(f, RAW, SIZE), "info", read_image),
    "precomputed shards": Json(make_sharded, "info", read_image),
    "links": Bytes(make_links(PLACE), read_links),
    "links of cave": Bytes(make_links(CAVE), read_links),
    "links of neuprint": Bytes(make_links(NEUPRINT), read_links),
    "zip store": Zip(lambda path: zipped(path, raw=RAW), lambda path: read_image(path / "raw")),
}
#: endings by which files of a kind are known
ENDINGS = {"links": ".parquet", "n5": ".n5", "zip": ".zip"}


def try_files(kind, folder, seeds):
    """Change a file a seed and read it; returns how often each outcome was."""
    fuzzed, outcomes = KINDS[kind], Counter()
    ending = ENDINGS.get(kind.partition(" ")[0], "")
    kept = fuzzed.write(folder / f"kept{ending}")
    path = folder / f"fuzzed{ending}"
    for seed in seeds:
        if kept.is_dir():
            shutil.rmtree(path, ignore_errors=True)
            shutil.copytree(kept, path)
        else:
            shutil.copy(kept, path)
        fuzzed.change(path, random.Random(f"{kind} {seed}"))
        with watched(folder):
            outcomes[attempt(fuzzed.read, path, seed)] += 1
    assert {p.name for p in folder.iterdir()} == {kept.name, path.name}
    return outcomes


def attempt(read, path, seed):
    """Read; anything but success or a refusal that names the file fails."""
    try:
        read(path)
    except InputError as error:
        assert path.name in str(error) and len(str(error)) < 3000, (seed, error)
        return "refused"
    except Exception as error:
        error.add_note(f"seed {seed}")
        raise
    return "read"


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_read_or_refused(kind, tmp_path):
    assert try_files(kind, tmp_path, range(40))["refused"] > 5


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_read_or_refused_many_times(kind, tmp_path, capsys):
    outcomes = try_files(kind, tmp_path, range(1000, 2000))
    with capsys.disabled():
        print(f"\n{kind}: {outcomes.total()} inputs, {dict(outcomes)}")
    assert outcomes.total() == 1000


# ---------------------------------------------------------------- trained networks


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of four iterations, its checkpoint, and the network that was exported of it."""
    folder = tmp_path_factory.mktemp("trained")
    tiny_volume(folder / "data")
    config = tiny_config(folder)
    assert run("train", config) == 0 and run("export", config) == 0
    return folder


def use_network(path, config: Config):
    """Read a network as prediction, training and export do."""
    begun = config.model_copy(
        update={"train": config.train.model_copy(update={"initial": str(path)})}
    )
    problems = []
    for read in (
        lambda: load_trained(
            path, model=config.model, exclusive=config.exclusive, intensity_range=None
        ),
        lambda: Initial.of(begun),
        lambda: described(path, config),
    ):
        try:
            read()
        except InputError as error:
            problems.append(error)
    if problems:
        raise problems[0]


def described(path, config):
    """Describe a network as pipelines/export.py does."""
    stored = load_checkpoint(path)
    recipe("export").described(config, path, stored, learned_from(stored))


def change_content(path, rng):
    """Change what a checkpoint says, with a digest that fits."""

    def change(state):
        said = {k: v for k, v in state.items() if k not in ("model", "ema", "optimizer")}
        key = rng.choice(sorted({"config", "learned_from", "data_state", "iteration"} & {*said}))
        state[key] = changed(rng, copy.deepcopy(said[key]))

    resaved(path, change)


def change_description(path, rng):
    """Change what a portable network says, with a digest that fits."""

    def change(said, weights):
        told = changed(rng, copy.deepcopy(said))
        said.clear()
        said.update(told if isinstance(told, dict) else {})

    edited(path, change, keep_digest=False)


def change_bytes(path, rng):
    path.write_bytes(mutated(rng, path.read_bytes()))


def change_header(path, rng):
    """Change what a safetensors file says of its tensors."""
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header = json.dumps(changed(rng, json.loads(content[8 : 8 + size]))).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + content[8 + size :])


#: ending of the file, and how it is changed
NETWORKS = {
    "what a checkpoint says": (".pt", change_content),
    "what a network says": (".safetensors", change_description),
    "bytes of a network": (".safetensors", change_bytes),
    "header of a network": (".safetensors", change_header),
    "bytes of a package": (".zip", change_zip),
}


def try_networks(trained, kind, folder, seeds):
    """Change a network a seed and use it; returns how often each outcome was."""
    ending, change = NETWORKS[kind]
    config, path, outcomes = (
        load_config([str(trained / "config.yaml")]),
        folder / f"a{ending}",
        Counter(),
    )
    kept = (
        trained / "run" / ("checkpoints/0000004.pt" if ending == ".pt" else "network.safetensors")
    )
    for seed in seeds:
        if ending == ".zip":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as package:
                package.write(kept, "network.safetensors")
        else:
            shutil.copy(kept, path)
        change(path, random.Random(f"{kind} {seed}"))
        with watched(folder, Path(tempfile.gettempdir())):
            outcomes[attempt(lambda p: use_network(p, config), path, seed)] += 1
    return outcomes


@pytest.mark.parametrize("kind", NETWORKS)
def test_damaged_networks_are_used_or_refused(trained, kind, tmp_path):
    assert try_networks(trained, kind, tmp_path, range(10))["refused"] > 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", NETWORKS)
def test_damaged_networks_are_used_or_refused_many_times(trained, kind, tmp_path, capsys):
    outcomes = try_networks(trained, kind, tmp_path, range(1000, 1500))
    with capsys.disabled():
        print(f"\n{kind}: {outcomes.total()} inputs, {dict(outcomes)}")
    assert outcomes.total() == 500
