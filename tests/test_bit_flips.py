"""A flipped bit in a file that a run leaves is noticed, or the result is the same."""

from __future__ import annotations

import random
import shutil
from collections import Counter

import pytest
from finished import finish
from recipes import run

#: kind of file, how its files are found, commands that use it: (name, options)
DECODE = ("predict_blockwise", "--only", "decode")
TABLE = ("table", "--csv", "FOLDER/read.csv")
KINDS = {
    "polarity": ("result/polarity/s0/c/**/*", [DECODE, TABLE]),
    "instances": ("result/instances/s0/c/**/*", [("connect",), TABLE]),
    "zarr.json": ("result/**/zarr.json", [DECODE, ("connect",), TABLE]),
    "parquet": ("result/*.parquet", [TABLE, ("connect",)]),
    "sha256": ("result/*.sha256", [TABLE, ("connect",)]),
    "records": ("result.work/**/*.record", [DECODE, ("connect",)]),
    "json": ("result.work/**/*.json", [DECODE, ("connect",)]),
    "annotations": ("result/*.annotations/**/*", [("view", "--prepare")]),
}
#: results that are compared: they hold no hash of the files of others
RESULTS = ("synapses.parquet", "partners.parquet", "connectivity.parquet", "connectivity.graphml")
KEPT = (*RESULTS, "read.csv")


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A finished result and a copy of it."""
    folder = tmp_path_factory.mktemp("flips")
    config = finish(folder / "made", "connect")
    assert run("view", config, "--prepare") == 0
    assert run(*filled(TABLE, config)) == 0
    shutil.copytree(folder / "made", folder / "kept")
    return folder


def filled(command, config):
    """A command with the config and its options."""
    name, *options = command
    return (name, config, *(o.replace("FOLDER", str(config.parent)) for o in options))


def contents(folder):
    """What is compared of a result."""
    names = [*(folder / "result").glob("*"), folder / "read.csv"]
    found = {p.name: p.read_bytes() for p in names if p.name in KEPT and p.is_file()}
    lines = [p for p in folder.glob("result/*.annotations/**/*") if p.is_file()]
    return found | {str(p.relative_to(folder)): p.read_bytes() for p in lines}


def restore(kept, made):
    """Take back what trials have changed; all other files keep their dates."""
    names = {p.relative_to(kept) for p in kept.rglob("*") if p.is_file()}
    for path in [p for p in made.rglob("*") if p.is_file()]:
        if path.relative_to(made) not in names:
            path.unlink()
    for name in names:
        place = made / name
        if not place.is_file() or place.read_bytes() != (kept / name).read_bytes():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(kept / name, place)


def flip(path, rng):
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def try_flips(kept, kind, seeds, capsys):
    """Flip a bit a seed and use the file; returns how often each outcome was."""
    pattern, commands = KINDS[kind]
    made, expected = kept / "made", contents(kept / "kept")
    outcomes = Counter()
    for seed in seeds:
        restore(kept / "kept", made)
        rng = random.Random(seed)
        file = rng.choice(sorted(p for p in made.glob(pattern) if p.is_file() and p.stat().st_size))
        flip(file, rng)
        (made / "read.csv").unlink(missing_ok=True)
        refused = False
        for command in commands:
            capsys.readouterr()
            code = run(*filled(command, made / "config.yaml"))
            said = capsys.readouterr().err
            assert code in (0, 1, 2) and "Traceback" not in said, (seed, file, said)
            refused |= code != 0
        found = contents(made)
        if not refused:
            assert found.keys() | {"read.csv"} == expected.keys(), (seed, file)
        damaged = {file.name} if refused else set()  # it lies there as it was found
        wrong = [n for n in found.keys() - damaged if found[n] != expected[n]]
        assert not wrong, (seed, file, wrong)
        outcomes["refused" if refused else "the same"] += 1
    return outcomes


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_noticed_or_changes_nothing(kept, capsys, kind):
    assert try_flips(kept, kind, range(2), capsys).total() == 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_hundreds_of_flipped_bits_are_noticed_or_change_nothing(kept, capsys, kind):
    outcomes = try_flips(kept, kind, range(1000, 1100), capsys)
    with capsys.disabled():
        print(f"{kind}: {dict(outcomes)}")
    assert outcomes.total() == 100
