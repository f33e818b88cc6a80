"""Archives and headers that claim, hide or break something are refused and leave nothing."""

from __future__ import annotations

import random
import resource
import zipfile

import h5py
import numpy as np
import pytest
from importing import RAW, made_of

from synpol import InputError
from synpol.datasets import archive as archive_module
from synpol.datasets.archive import unpack
from synpol.formats import Stack, check_memory, open_stack

CONTENT = np.random.default_rng(0).integers(0, 9, 20_000).astype(np.uint8).tobytes()


def write_zip(path, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in members:
            file.writestr(zipfile.ZipInfo(name), content, compress_type=method)
    return path


def change_entry(path, place, value):
    """Change bytes of the first entry of a ZIP file's directory."""
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    content[entry + place : entry + place + len(value)] = value
    path.write_bytes(content)


def damaged_in_the_middle(path):
    content = bytearray(path.read_bytes())
    for place in range(60, 4000, 7):
        content[place] ^= 0xFF
    path.write_bytes(content)


CASES = {
    "a file and a folder": ([("a", b"1"), ("a/b", b"2")], None, "a file and a folder"),
    "a folder and a file": ([("a/b", b"2"), ("a", b"1")], None, "a file and a folder"),
    "a file twice": ([("a", b"1"), ("a", b"2")], None, "twice"),
    "a long name": ([("a" * 300, b"1")], None, "no file can be called"),
    "an empty name": ([("", b"1")], None, "no file can be called"),
    "a name of a dot": ([(".", b"1")], None, "no file can be called"),
    "a very long path": ([("/".join(["a" * 100] * 60), b"1")], None, "cannot be unpacked"),
    "damaged deflate": ([("a.h5", CONTENT)], damaged_in_the_middle, "a.zip"),
    "encrypted": ([("a.h5", CONTENT)], lambda p: change_entry(p, 8, b"\x01"), "encrypted"),
    "unknown packing": ([("a.h5", CONTENT)], lambda p: change_entry(p, 10, b"\x63"), "99"),
    "wrong checksum": ([("a.h5", CONTENT)], lambda p: change_entry(p, 16, b"abcd"), "damaged"),
    "claims too little": (
        [("a.h5", CONTENT)],
        lambda p: change_entry(p, 24, (100).to_bytes(4, "little")),
        "damaged",
    ),
    "claims too much": (
        [("a.h5", CONTENT)],
        lambda p: change_entry(p, 24, (10**6).to_bytes(4, "little")),
        "damaged",
    ),
}


@pytest.mark.parametrize("what", CASES)
def test_an_archive_that_cannot_be_unpacked_leaves_nothing(tmp_path, what):
    members, change, said = CASES[what]
    with pytest.warns(UserWarning) if what == "a file twice" else _no_warning():
        path = write_zip(tmp_path / "a.zip", members)
    if change is not None:
        change(path)
    with pytest.raises(InputError) as caught:
        unpack(path, tmp_path / "unpacked")
    assert said in str(caught.value) and str(path) in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


def _no_warning():
    import contextlib

    return contextlib.nullcontext()


def test_an_archive_that_needs_more_room_than_there_is_is_not_begun(tmp_path, monkeypatch):
    path = write_zip(tmp_path / "a.zip", [("a", bytes(10_000)), ("b", bytes(10_000))])
    usage = archive_module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(archive_module.shutil, "disk_usage", lambda _: usage._replace(free=19_999))
    with pytest.raises(InputError, match="unpacks to 20000 bytes, and 19999 are free"):
        unpack(path, tmp_path / "unpacked")
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


def test_mutated_archives_are_unpacked_or_refused(tmp_path):
    path = write_zip(tmp_path / "a.zip", [("v/a.h5", CONTENT), ("v/b/c.h5", CONTENT), ("d/", b"")])
    whole = path.read_bytes()
    for seed in range(300):
        rng = random.Random(seed)
        content = bytearray(whole)
        headers = [i for i in range(len(content) - 1) if content[i : i + 2] == b"PK"]
        for _ in range(rng.choice([1, 2, 5])):
            place = rng.choice(headers) + rng.randrange(46) if rng.random() < 0.7 else None
            place = rng.randrange(len(content)) if place is None else min(place, len(content) - 1)
            content[place] = rng.randrange(256)
        path.write_bytes(content)
        folder = tmp_path / f"unpacked{seed}"
        try:
            unpack(path, folder)
        except InputError as error:
            assert str(path) in str(error)
            assert not folder.exists()
        assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("layout", [{}, {"chunks": (1, 512, 512)}])
def test_a_header_that_claims_more_than_memory_is_refused_before_it_is_read(tmp_path, layout):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("main", (64, 200_000, 200_000), np.uint8, **layout)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=r"596\.0 GiB have to be in memory at once"):
        made_of(path, voxel_size=(30, 8, 8))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5"]


def test_every_format_looks_at_its_sections_before_it_reads_them(tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["main"] = RAW
    stack = open_stack(str(path), None)
    looked = []
    monkeypatch.setattr("synpol.formats.check_memory", lambda what, needed: looked.append(needed))
    stack.read(0, 3)
    assert looked == [RAW[:3].nbytes]
    stack.close()
    from synpol.formats import FORMATS

    assert all("read" not in vars(kind) for kind in FORMATS.values())
    assert Stack.read is FORMATS["HDF5"].read
    with pytest.raises(InputError, match="the file is damaged"):
        check_memory("a.tif", 2**60)


@pytest.mark.parametrize("through", ["the dataset", "a virtual dataset", "a link"])
def test_bytes_of_other_files_do_not_come_in_by_external_storage(tmp_path, through):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(range(200)) * 200)
    path = tmp_path / "inner.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("main", (4, 10, 10), np.uint8, external=[(str(secret), 0, 400)])
    if through != "the dataset":
        path = tmp_path / "outer.h5"
        with h5py.File(path, "w") as file:
            if through == "a link":
                file["main"] = h5py.ExternalLink("inner.h5", "main")
            else:
                layout = h5py.VirtualLayout((4, 10, 10), np.uint8)
                layout[:] = h5py.VirtualSource("inner.h5", "main", (4, 10, 10))
                file.create_virtual_dataset("main", layout)
    with pytest.raises(InputError, match="keeps its values in other files"):
        made_of(path, key="main", voxel_size=(30, 8, 8))
