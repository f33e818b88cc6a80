"""An S3 server whose requests fail, wait or come twice: the same result, or a clear error."""

from __future__ import annotations

import os
import random
import re
import shutil
from collections import Counter

import numpy as np
import pytest
from recipes import run, tiny_config, tiny_volume, write
from s3_proxy import s3_proxy
from s3_server import make_bucket, s3_server

import synpol
from synpol import InputError
from synpol.images import stores
from synpol.images.claim import ID
from synpol.images.image import check_readable, open_image
from synpol.images.nodes import opened_array, opened_group
from synpol.images.reading import read_voxels
from synpol.images.run_id import bind_records, forget_leftover
from synpol.images.writing import create_image

pytestmark = pytest.mark.s3
BUCKET = "s3://volumes"

#: what each kind runs: (command, options after the config)
KINDS = {
    "predict": [("predict_blockwise", "--only", "predict")],
    "decode": [("predict_blockwise", "--only", "decode")],
    "levels": [("view", "--prepare", "--levels", "image")],
    "precomputed": [("table", "--precomputed", "s3://volumes/out/labels")],
    "connect": [("connect",)],
    "evaluate": [("evaluate",)],
}


@pytest.fixture(scope="module")
def proxied(tmp_path_factory):
    """The faults that requests to a server meet, which every client in this process asks."""
    import s3fs

    before = dict(os.environ)
    with (
        pytest.MonkeyPatch.context() as patch,
        s3_server(tmp_path_factory.mktemp("s3")) as environment,
        s3_proxy(environment["AWS_ENDPOINT_URL"]) as (url, faults),
    ):
        # a library gives up soon, so that more gets to what is tested
        os.environ.update(environment | {"AWS_ENDPOINT_URL": url, "AWS_MAX_ATTEMPTS": "1"})
        patch.setattr(s3fs.S3FileSystem, "retries", 1)
        patch.setitem(stores._RETRIES, "max_retries", 1)
        patch.setitem(stores._FIRST_RETRIES, "max_retries", 1)
        s3fs.S3FileSystem.clear_instance_cache()
        make_bucket("volumes")
        yield faults
        os.environ.clear()
        os.environ.update(before)
        s3fs.S3FileSystem.clear_instance_cache()


def system():
    """The server's files, none of them remembered."""
    import s3fs

    return s3fs.S3FileSystem(use_listings_cache=False)


class Work:
    """One kind of work: its input, what it makes, and the undisturbed result."""

    def __init__(self, kind, folder, faults):
        self.kind, self.folder, self.faults = kind, folder, faults
        self.changes = {
            "predict__block_shape": [8, 32, 48],
            "decode__block_shape": [8, 24, 48],
            "view": {"port": 0},
            "workers": {"work_dir": f"{folder}/work"},
        }
        self._input()
        self.commands = [(n, self.config, *more) for n, *more in KINDS[kind]]
        self.kept = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        self.remote = self._remote()
        before = faults.met.total()
        assert self.run() == 0
        self.requests = faults.met.total() - before
        self.expected = self.contents()

    def _input(self):
        folder = self.folder
        tiny_volume(folder / "data", (8, 48, 48))
        raw, truth = (open_image(folder / "data" / n).array[:] for n in ("raw", "truth"))
        polarity = (255 * synpol.seg_to_polarity(truth)).astype(np.uint8)
        neurons = np.broadcast_to(1 + np.arange(48, dtype=np.uint64) // 12, truth.shape)
        self.changes["predict__output"] = f"{folder}/result"
        wipe()
        if self.kind == "predict":
            write(f"{BUCKET}/in", "raw", raw)
            config = tiny_config(folder, **self.changes)
            assert run("train", config) == 0
            self.changes |= {"predict__raw": f"{BUCKET}/in/raw", "predict__output": f"{BUCKET}/out"}
        elif self.kind == "decode":
            write(f"{BUCKET}/out", "polarity", polarity)
            self.changes["predict__output"] = f"{BUCKET}/out"
        else:
            write(folder / "result", "polarity", polarity)
            config = tiny_config(folder, **self.changes)
            assert run("predict_blockwise", config, "--only", "decode") == 0
        if self.kind == "levels":
            large = np.kron(raw, np.ones((1, 6, 6), np.uint8))
            where = {"voxel_size": (30, 16, 16), "offset": (0, 0, 0), "unit": "nm"}
            about = {"shape": large.shape, "dtype": large.dtype, "chunk_shape": (8, 144, 144)}
            create_image(f"{BUCKET}/out", "raw", **about, **where).array[:] = large
            self.changes["predict__raw"] = f"{BUCKET}/out/raw"
        if self.kind == "connect":
            write(f"{BUCKET}/in", "neurons", neurons)
            self.changes["connect"] = {"segmentation": f"{BUCKET}/in/neurons"}
        if self.kind == "evaluate":
            write(f"{BUCKET}/in", "truth", truth)
            self.changes["evaluate"] = {"truth": f"{BUCKET}/in/truth"}
        self.config = tiny_config(folder, **self.changes)

    def _remote(self):
        files = system()
        return {name: files.cat_file(name) for name in files.find("volumes")}

    def contents(self):
        """The bytes of all results, local and remote, but for the minute of a report."""
        local = {
            str(p): re.sub(rb"written \d{4}[-\d]+ [:\d]+", b"", p.read_bytes())
            for p in self.folder.rglob("*")
            if p.is_file() and "work" not in p.parts and p.name != "timings.csv"
        }
        return local | self._remote()

    def restore(self):
        """Take back all that was made."""
        for path in [*self.folder.iterdir()]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path, content in self.kept.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        wipe()
        files = system()
        for name, content in self.remote.items():
            files.pipe_file(name, content)
        forget()

    def run(self):
        """Run the commands; returns the exit code of the first that fails, or 0."""
        for name, *arguments in self.commands:
            if code := run(name, *arguments):  # a traceback ends the test
                return code
        return 0


def wipe():
    """Begin with an empty bucket; the server keeps folders whose files are gone."""
    files = system()
    if names := files.find("volumes"):
        files.rm(names)
    files.rmdir("volumes")
    files.mkdir("volumes")
    forget()


def forget():
    """Let the clients of this process know nothing of the bucket."""
    import s3fs

    for client in s3fs.S3FileSystem._cache.values():
        client.invalidate_cache()


def try_faults(work, seeds, many, capsys):
    """Disturb a run a seed; returns how often each outcome was.

    Most of them meet a server that fails for some time, from a request on that moves from the first
    of a run to its last.
    """
    outcomes = Counter()
    for seed in seeds:
        work.restore()
        capsys.readouterr()
        rng = random.Random(f"{work.kind} {seed}")
        begin = (seed * work.requests + rng.randrange(work.requests)) // many
        with work.faults.randomly(rng, begin):
            code = work.run()
        said = capsys.readouterr().err
        assert "Traceback" not in said, (seed, said)
        if code:
            errors = [line for line in said.splitlines() if line.startswith("error: ")]
            assert code in (1, 2) and len(errors) == 1, (seed, code, said)
            forget()
            assert work.run() == 0, (seed, said, capsys.readouterr().err[-3000:])
        outcomes["an error, then the same" if code else "the same"] += 1
        found = work.contents()
        wrong = [n for n in sorted(found | work.expected) if found.get(n) != work.expected.get(n)]
        assert not wrong, (seed, code, said, wrong)
    return outcomes


def test_runs_with_requests_that_fail(proxied, tmp_path, capsys):
    work = Work("decode", tmp_path, proxied)
    assert try_faults(work, range(2), 2, capsys).total() == 2


@pytest.fixture
def image(proxied, tmp_path):
    """A remote image."""
    values = np.arange(512, dtype=np.uint16).astype(np.uint8).reshape(8, 8, 8)
    write(f"{BUCKET}/{tmp_path.name}", "raw", values)
    return open_image(f"{BUCKET}/{tmp_path.name}/raw")


@pytest.mark.parametrize("fault", ["refused", "busy", "lost", "cut"])
def test_a_server_that_fails_does_not_say_that_nothing_is_there(proxied, image, fault):
    with proxied.chosen(lambda _: fault):
        for read in (open_image, opened_array, opened_group):
            with pytest.raises(InputError, match=rf"{image.path}.* does not answer"):
                read(image.path)
    assert opened_array(image.path) is not None and opened_group(image.path) is None


@pytest.mark.parametrize("fault", ["refused", "lost", "cut"])
def test_a_chunk_that_a_server_does_not_give_is_not_called_damaged(proxied, image, fault):
    with proxied.chosen(lambda request: fault if "/c/" in request else ""):
        with pytest.raises(Exception) as caught:
            read_voxels(image.array, (slice(0, 2),), image.path)
        assert not isinstance(caught.value, InputError)
        with pytest.raises(InputError, match="does not answer"):
            check_readable(image)
    assert read_voxels(image.array, (slice(0, 2),), image.path)[1, 0, 1] == 65


def test_the_id_of_an_unfinished_image_is_removed_by_the_next_run(image, tmp_path):
    (tmp_path / "records").mkdir()
    bind_records(open_image(image.path, mode="r+"), tmp_path / "records")
    assert system().exists(f"{image.path}/{ID}")
    forget_leftover(image.array)
    assert not system().exists(f"{image.path}/{ID}")


#: (kind, disturbed runs)
MANY = [
    ("decode", 40),
    ("predict", 20),
    ("levels", 16),
    ("precomputed", 24),
    ("connect", 20),
    ("evaluate", 16),
]


@pytest.mark.slow
@pytest.mark.parametrize("kind,many", MANY)
def test_many_runs_with_requests_that_fail(proxied, tmp_path, capsys, kind, many):
    work = Work(kind, tmp_path, proxied)
    proxied.met.clear()
    outcomes = try_faults(work, range(many), many, capsys)
    faults = {name: count for name, count in sorted(proxied.met.items()) if name}
    with capsys.disabled():
        print(f"\n{kind}: {dict(outcomes)}; {sum(faults.values())} faulted requests: {faults}")
    assert outcomes.total() == many and sum(faults.values()) > many
