"""Synapse tables that were cut, changed or written by others: read as they are, or refused."""

from __future__ import annotations

import random
import shutil
import sqlite3
import subprocess
from contextlib import closing

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from finished import finish
from recipes import run, run_refused

from synpol import InputError
from synpol.images.image import open_image
from synpol.scene.annotations import score_range, write_annotations
from synpol.synapses.exports import cave_rows, synful_rows, write_csv, write_parquet_form
from synpol.synapses.reading import parts_of, read_table


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A result with its partners; returns the config."""
    return finish(tmp_path_factory.mktemp("made"), "connect")


@pytest.fixture
def result(made, tmp_path):
    """The table of a result, which each test may damage; it is put back at the end."""
    table = made.parent / "result" / "synapses.parquet"
    shutil.copy(table, tmp_path / "kept")
    assert run("connect", made) == 0  # of this table, not of one that a test before has made
    yield table
    shutil.copy(tmp_path / "kept", table)


def changed(name, values):
    """Replace a column."""

    def change(rows):
        return rows.set_column(rows.schema.get_field_index(name), name, values(rows[name]))

    return change


def one_more(values, value):
    """The values of a column, the second replaced."""
    return pa.array([value if i == 1 else v for i, v in enumerate(values.to_pylist())])


#: what somebody may have made of a table, and what is said of it
CHANGES = {
    "without ids": (lambda rows: rows.drop_columns(["synapse_id"]), "no column synapse_id"),
    "without scores": (lambda rows: rows.drop_columns(["pre_score"]), "no column pre_score"),
    "unsorted": (lambda rows: rows.take(list(range(rows.num_rows))[::-1]), "ascending"),
    "a row twice": (lambda rows: rows.take([0, 0, *range(1, rows.num_rows)]), "ascending"),
    "ids as text": (changed("synapse_id", lambda c: c.cast(pa.string())), "type string"),
    "scores as text": (changed("pre_score", lambda c: c.cast(pa.string())), "type string"),
    "scores as lists": (
        changed("pre_score", lambda c: pa.array([[v] for v in c.to_pylist()])),
        "type list",
    ),
    "negative ids": (
        changed("synapse_id", lambda c: pa.array([-5, *c.to_pylist()[1:]], pa.int64())),
        "damaged",
    ),
    "an id missing": (
        changed("synapse_id", lambda c: pa.array([*c.to_pylist()[:-1], None], pa.uint64())),
        "without a synapse_id",
    ),
    "score above 1": (changed("pre_score", lambda c: one_more(c, 3.0)), "pre_score = 3"),
    "infinite area": (changed("contact_area", lambda c: one_more(c, np.inf)), "contact_area = inf"),
    "area missing": (changed("contact_area", lambda c: one_more(c, None)), "without contact_area"),
    "area not a number": (changed("contact_area", lambda c: one_more(c, np.nan)), "= nan"),
    "a column twice": (lambda rows: rows.append_column("z", rows["z"]), "several columns 'z'"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_table_that_cannot_be_is_refused_by_every_reader(made, result, tmp_path, capsys, change):
    change, said = CHANGES[change]
    pq.write_table(change(pq.read_table(result)), result)
    for command in (("connect",), ("view", "--prepare"), ("table", "--csv", tmp_path / "a.csv")):
        if command[0] == "table" and said == "no column pre_score":
            continue  # a CSV file holds what is there
        message = run_refused(capsys, command[0], made, *command[1:])
        assert str(result) in message and said in message, message
        assert "Traceback" not in message
    assert not (tmp_path / "a.csv").exists()


def test_a_damaged_table_is_refused_by_the_report_and_made_anew_by_decoding(made, result, capsys):
    content = result.read_bytes()
    result.write_bytes(content[: len(content) // 2])
    message = run_refused(capsys, "evaluate", made)
    assert str(result) in message and "--only decode" in message
    assert not (result.parent / "scores.json").exists()
    assert run("predict_blockwise", made, "--only", "decode") == 0
    assert result.read_bytes() == content


def test_a_table_of_other_instances_is_refused(made, result, capsys):
    rows = pq.read_table(result)
    pq.write_table(rows.slice(1), result)
    assert "has no row for synapse 1" in run_refused(capsys, "connect", made)
    number = pa.array([999], pa.uint64())
    more = pa.concat_tables([rows, rows.slice(0, 1).set_column(0, rows.schema.field(0), number)])
    pq.write_table(more, result)
    assert "has a row for synapse 999" in run_refused(capsys, "connect", made)


def test_a_table_that_another_program_wrote_in_other_widths_is_read(made, result, tmp_path):
    before = (result.parent / "connectivity.parquet").read_bytes()
    rows = pq.read_table(result)
    expected = read_table(result)
    narrow = rows.cast(
        pa.schema(
            [
                f.with_type({"uint64": pa.int32(), "int64": pa.int32()}.get(str(f.type), f.type))
                for f in rows.schema
            ]
        )
    )
    pq.write_table(narrow, result, row_group_size=2)
    assert read_table(result).equals(expected)
    assert [part.num_rows for part in parts_of(result, rows=3)] == [3, 1]
    assert run("connect", made) == 0
    old, new = (
        pq.read_table(pa.BufferReader(before)),
        pq.read_table(result.parent / "connectivity.parquet"),
    )
    assert new.equals(old)


def mutated(rng, content):
    """Change some bytes of a file, or cut it."""
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 8])):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    if rng.random() < 0.1:
        content = content[: rng.randrange(len(content))]
    return bytes(content)


def read_in_every_form(table, folder, instances):
    """Read a table as every command does."""
    write_csv(table, folder / "a.csv")
    for rows_of in (cave_rows, synful_rows):
        write_parquet_form(table, folder / "a.parquet", rows_of, instances)
    score_range(table)
    write_annotations(folder / "lines", table, instances.offset_nm, instances.end_nm)


def try_mutations(made, folder, seeds):
    """Read mutated tables; returns how many were read and how many refused."""
    table, instances = made.parent / "result" / "synapses.parquet", made.parent / "result/instances"
    content, image, outcomes = table.read_bytes(), open_image(instances), [0, 0]
    for seed in seeds:
        damaged = folder / f"{seed}.parquet"
        damaged.write_bytes(mutated(random.Random(seed), content))
        try:
            read_in_every_form(damaged, folder, image)
            outcomes[0] += 1
        except InputError as error:
            assert damaged.name in str(error)
            outcomes[1] += 1
        assert not list(folder.glob("*.tmp"))
        damaged.unlink()
    return outcomes


def test_mutated_tables_are_read_or_refused(made, tmp_path):
    read, refused = try_mutations(made, tmp_path, range(60))
    assert refused > 10 and read + refused == 60


@pytest.mark.slow
def test_mutated_tables_are_read_or_refused_many_times(made, tmp_path):
    read, refused = try_mutations(made, tmp_path, range(1000, 2500))
    assert refused > 250 and read + refused == 1500


def test_mutated_partners_are_read_or_refused(made, tmp_path):
    folder = made.parent / "result"
    image, content = open_image(folder / "instances"), (folder / "partners.parquet").read_bytes()
    for seed in range(30):
        damaged = tmp_path / "partners.parquet"
        damaged.write_bytes(mutated(random.Random(seed), content))
        table = folder / "synapses.parquet"
        try:
            write_annotations(tmp_path / "a", table, image.offset_nm, image.end_nm, damaged)
        except InputError as error:
            assert "partners.parquet" in str(error)


@pytest.mark.parametrize("name", ["synapses", "partners"])
def test_a_flipped_bit_in_a_table_is_always_noticed(made, result, name):
    table = result.with_name(f"{name}.parquet")
    content = table.read_bytes()
    for seed in range(200):
        damaged = bytearray(content)
        damaged[random.Random(seed).randrange(len(content))] ^= 1 << (seed % 8)
        table.write_bytes(damaged)
        with pytest.raises(InputError, match=rf"{name}\.parquet"):
            read_table(table)
    table.write_bytes(content)
    assert read_table(table).num_rows


def test_the_digest_of_a_table_is_one_that_sha256sum_reads(made, result):
    command = ["sha256sum", "--check", "--strict", "synapses.parquet.sha256"]
    assert subprocess.run(command, cwd=result.parent, check=True, capture_output=True)
    result.with_name("synapses.parquet.sha256").write_text("damaged")
    assert read_table(result).num_rows


@pytest.mark.parametrize("left", ["cut database", "cut metadata", "no metadata", "killed writer"])
def test_a_database_that_was_half_made_is_replaced(made, tmp_path, left):
    path, metadata = tmp_path / "a.db", tmp_path / "a-meta.json"
    assert run("table", made, "--sqlite", path) == 0
    whole = {file: file.read_bytes() for file in (path, metadata)}
    if left == "cut database":
        path.write_bytes(whole[path][:3000])
    if left == "cut metadata":
        metadata.write_bytes(whole[metadata][:100])
    if left == "no metadata":
        metadata.unlink()
    if left == "killed writer":
        (tmp_path / "a.db.tmp").mkdir()
        (tmp_path / "a.db.tmp" / "a.db").write_bytes(whole[path][:3000])
        (tmp_path / "a.db-wal").write_bytes(whole[path][:3000])
    assert run("table", made, "--sqlite", path) == 0
    assert metadata.read_bytes() == whole[metadata]
    with closing(sqlite3.connect(path)) as database:
        [[count]] = database.execute("SELECT count(*) FROM nodes")
    assert count == pq.read_metadata(made.parent / "result" / "synapses.parquet").num_rows
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a-meta.json", "a.db"]


def test_an_annotation_folder_that_was_damaged_is_made_anew(made):
    info = made.parent / "result" / "synapses.annotations" / "info"
    assert run("connect", made) == 0
    assert run("view", made, "--prepare") == 0
    content = info.read_bytes()
    for damaged in (b"", content[:50], b"[1]", b'{"synpol_hash": 3}', b"\xff"):
        info.write_bytes(damaged)
        assert run("view", made, "--prepare") == 0
        assert info.read_bytes() == content
