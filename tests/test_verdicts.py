"""Verdicts are kept: through kills, by several reviewers, and through other programs."""

import dataclasses
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from recipes import ROOT

from synpol.errors import InputError
from synpol.review.exchange import read_parquet, read_state, write_lines, write_parquet
from synpol.review.store import VerdictStore
from synpol.review.verdicts import KINDS, UNDO, Verdict, standing


def some_verdicts(count: int, reviewer: str = "ann") -> list[Verdict]:
    kinds = [kind for kind in KINDS if kind != UNDO]
    return [
        Verdict(
            verdict=kinds[n % len(kinds)],
            reviewer=reviewer,
            pre=(30.0 * n, 16.0, 0.1 * n),
            post=(30.0 * n, 48.0, -3.0),
            pre_voxels=n,
            post_voxels=2 * n,
            score=None if n % 4 == 0 else n / count,
            synapse_id=n,
            table_hash="ab" * 32,
            origin="sample",
            stratum=n % 3,
            stratum_size=100,
            note="" if n % 2 else "a note, 2 µm away",
        )
        for n in range(count)
    ]


def test_verdicts_are_read_as_they_were_added_and_in_their_order(tmp_path):
    verdicts = some_verdicts(20)
    with VerdictStore(tmp_path / "a.db") as store:
        assert store.read() == ([], 0)
        assert store.add(verdicts[:15]) == 15
        first, last = store.read()
        assert store.add(verdicts) == 5  # the others are there already
        assert first + store.read(last)[0] == verdicts
    with VerdictStore(tmp_path / "a.db") as store:
        assert store.read()[0] == verdicts


def test_nothing_is_ever_changed_or_removed(tmp_path):
    with VerdictStore(tmp_path / "a.db") as store:
        store.add(some_verdicts(3))
    connection = sqlite3.connect(tmp_path / "a.db")
    for command in ("DELETE FROM verdicts", "UPDATE verdicts SET verdict = 'right'"):
        with pytest.raises(sqlite3.DatabaseError, match="kept"):
            connection.execute(command)
    connection.close()


def test_a_verdict_that_is_wrong_is_not_added_and_neither_are_those_beside_it(tmp_path):
    good = some_verdicts(2)
    wrong = {
        "verdict": "great",
        "reviewer": " ",
        "pre": (0.0, float("nan"), 0.0),
        "score": 2.0,
        "note": "x" * 3000,
        "undoes": "something",
        "synapse_id": -1,
    }
    with VerdictStore(tmp_path / "a.db") as store:
        for name, value in wrong.items():
            with pytest.raises(InputError, match=name):
                store.add([good[0], dataclasses.replace(good[1], **{name: value})])
        assert store.read()[0] == []


def test_an_undo_takes_back_one_verdict(tmp_path):
    first, second = some_verdicts(2)
    undo = Verdict(verdict=UNDO, reviewer="ann", undoes=second.uuid)
    assert standing([first, second, undo]) == [first]
    assert standing([undo, first, second]) == [first]  # files may be merged in any order


WRITER = """
import sys
from pathlib import Path
from synpol.review.store import VerdictStore
from synpol.review.verdicts import Verdict
store = VerdictStore(Path(sys.argv[1]))
for n in range(int(sys.argv[3])):
    name = sys.argv[2]
    store.add([Verdict(verdict="right", reviewer=name, synapse_id=n, uuid=f"{name}{n}")])
    print(n, flush=True)
"""


def writer(path, name, count):
    command = [sys.executable, "-c", WRITER, str(path), name, str(count)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_reviewers_in_several_processes_write_one_file(tmp_path):
    writers = [writer(tmp_path / "a.db", name, 25) for name in ("ann", "bo", "cy")]
    for one in writers:
        one.communicate(timeout=60)
        assert one.returncode == 0
    with VerdictStore(tmp_path / "a.db") as store:
        found = store.read()[0]
    for name in ("ann", "bo", "cy"):
        assert [v.synapse_id for v in found if v.reviewer == name] == list(range(25))


def test_a_kill_loses_no_verdict_that_was_confirmed(tmp_path):
    one = writer(tmp_path / "a.db", "ann", 10_000)
    confirmed = [int(one.stdout.readline()) for _ in range(30)]
    one.send_signal(signal.SIGKILL)
    confirmed += [int(line) for line in one.stdout.read().split()]
    one.wait()
    with VerdictStore(tmp_path / "a.db") as store:
        found = [v.synapse_id for v in store.read()[0]]
        assert found[: len(confirmed)] == confirmed == list(range(len(confirmed)))
        assert len(found) <= len(confirmed) + 1
        assert store.add(some_verdicts(2)) == 2


def test_a_reviewer_waits_for_another_who_writes(tmp_path):
    with VerdictStore(tmp_path / "a.db") as store:
        other = sqlite3.connect(tmp_path / "a.db", isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        import threading

        threading.Timer(0.3, lambda: other.execute("COMMIT")).start()
        before = time.monotonic()
        assert store.add(some_verdicts(1)) == 1
        assert time.monotonic() - before > 0.2
        other.close()


def test_other_files_are_refused_and_left_alone(tmp_path):
    (tmp_path / "text.db").write_text("no database " * 100)
    sqlite3.connect(tmp_path / "other.db").execute("CREATE TABLE a (b)").connection.close()
    (tmp_path / "folder.db").mkdir()
    with VerdictStore(tmp_path / "cut.db") as store:
        store.add(some_verdicts(200))
    whole = (tmp_path / "cut.db").read_bytes()
    (tmp_path / "cut.db").write_bytes(whole[: len(whole) // 2])
    for name in ("text.db", "other.db", "folder.db", "cut.db"):
        path = tmp_path / name
        before = path.read_bytes() if path.is_file() else None
        with pytest.raises(InputError, match=name):
            VerdictStore(path).read()
        assert before is None or path.read_bytes() == before


# ---------------------------------------------------------------- other programs


def test_parquet_gives_back_every_verdict(tmp_path):
    verdicts = some_verdicts(20)
    verdicts.append(Verdict(verdict=UNDO, reviewer="bo", undoes=verdicts[3].uuid))
    write_parquet(tmp_path / "a.parquet", verdicts)
    assert read_parquet(tmp_path / "a.parquet") == verdicts
    write_parquet(tmp_path / "none.parquet", [])
    assert read_parquet(tmp_path / "none.parquet") == []


def test_tables_that_hold_no_verdicts_are_refused(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="Parquet"):
        read_parquet(path)
    write_parquet(path, some_verdicts(3))
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["reviewer"]), path)
    with pytest.raises(InputError, match="reviewer"):
        read_parquet(path)
    for name, value in (("verdict", pa.array(["right", "great", "right"])), ("uuid", pa.nulls(3))):
        pq.write_table(table.set_column(table.column_names.index(name), name, value), path)
        with pytest.raises(InputError, match=f"row .*{name}"):
            read_parquet(path)


def test_lines_of_neuroglancer_give_back_every_verdict(tmp_path):
    verdicts = some_verdicts(20)
    write_lines(tmp_path / "a.json", verdicts, (30, 16, 4.6))
    found = read_state(tmp_path / "a.json", "somebody")
    expected = [v for v in verdicts if v.verdict != "seen"]
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.pre == pytest.approx(other.pre) and one.post == pytest.approx(other.post)
        places = {"pre": other.pre, "post": other.post}
        assert dataclasses.replace(one, **places) == other


def test_neuroglancer_takes_the_lines(tmp_path):
    import neuroglancer

    verdicts = some_verdicts(9)
    write_lines(tmp_path / "a.json", verdicts, (30, 16, 4))
    state = neuroglancer.ViewerState(json.loads((tmp_path / "a.json").read_text()))
    lines = state.layers["verdicts"].annotations
    assert [line.id for line in lines] == [v.uuid for v in verdicts if v.verdict != "seen"]
    z, y, x = verdicts[1].pre
    assert lines[1].point_a == pytest.approx([x / 4, y / 16, z / 30])
    assert state.dimensions.scales == pytest.approx([4e-9, 16e-9, 30e-9])


def test_lines_that_a_person_drew_are_missed_synapses_or_what_their_text_says(tmp_path):
    write_lines(tmp_path / "a.json", some_verdicts(1), (30, 16, 4))
    state = json.loads((tmp_path / "a.json").read_text())
    line = {"type": "line", "pointA": [10, 20, 3], "pointB": [12, 20, 3]}
    texts = ["", "Not a synapse", "flipped"]
    lines = [line | {"id": str(n), "description": t} for n, t in enumerate(texts)]
    state["layers"][0]["annotations"] = lines
    (tmp_path / "a.json").write_text(json.dumps(state))
    found = read_state(tmp_path / "a.json", "ann")
    assert [v.verdict for v in found] == ["missed", "not_synapse", "flipped"]
    assert {v.reviewer for v in found} == {"ann"}
    assert found[0].pre == pytest.approx((90, 320, 40))
    assert found[0].post == pytest.approx((90, 320, 48))
    assert [v.uuid for v in read_state(tmp_path / "a.json", "ann")] == [v.uuid for v in found]
    lines[1]["description"] = "nice"
    (tmp_path / "a.json").write_text(json.dumps(state))
    with pytest.raises(InputError, match=r"line 2.*nice"):
        read_state(tmp_path / "a.json", "ann")
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(InputError, match="no state"):
        read_state(tmp_path / "a.json", "ann")
