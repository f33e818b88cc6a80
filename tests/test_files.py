"""Files and folders are there whole or not at all."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import fsspec
import pytest

from synpol.errors import InputError
from synpol.files import (
    whole_file,
    whole_folder,
    whole_remote_file,
    write_json,
    write_whole,
)


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def killed(code: str, folder: Path) -> None:
    """Run Python code that has to end by killing itself."""
    code = "import os, signal\nfrom pathlib import Path\nfrom synpol.files import *\n" + (
        textwrap.dedent(code).replace("DIE", "os.kill(os.getpid(), signal.SIGKILL)")
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True)
    assert process.returncode == -signal.SIGKILL, process.stderr


@pytest.mark.parametrize("rivals", [False, True])
@pytest.mark.parametrize("sync", [False, True])
def test_a_file_gets_its_name_when_it_is_finished(tmp_path, rivals, sync):
    path = tmp_path / "deep" / "a.csv"
    with whole_file(path, rivals=rivals, sync=sync) as temporary:
        temporary.write_text("first")
        assert not path.exists()
        assert temporary.parent == path.parent  # a rename across file systems would copy
    with whole_file(path, rivals=rivals, sync=sync) as temporary:
        temporary.write_text("second")
        assert path.read_text() == "first"
    assert path.read_text() == "second"
    assert names(tmp_path) == ["deep", "deep/a.csv"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("rivals", [False, True])
def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path, error, rivals):
    path = tmp_path / "a.csv"
    path.write_text("old")
    with pytest.raises(error), whole_file(path, rivals=rivals) as temporary:
        temporary.write_text("ne")
        raise error
    with pytest.raises(error), whole_file(path, rivals=rivals):
        raise error  # before anything is written
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.csv"]


def test_a_file_that_was_not_written_is_an_error_and_the_old_one_stays(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "a"):
        pass
    assert (tmp_path / "a").read_text() == "old"


def test_a_killed_writer_leaves_the_old_file_and_the_next_overwrites_what_it_began(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("old")
    killed("with whole_file('a.csv') as t: t.write_text('half'); DIE", tmp_path)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.csv", "a.csv.tmp"]
    with whole_file(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.csv"]


def test_several_processes_may_write_the_same_file_at_once(tmp_path):
    path = tmp_path / "a.record"
    with whole_file(path, rivals=True) as mine:
        mine.write_text("mine")
        other = f"from synpol.files import write_whole; write_whole(Path({str(path)!r}), b'theirs')"
        subprocess.run(
            [sys.executable, "-c", f"from pathlib import Path; {other}"], check=True, timeout=60
        )
        assert path.read_text() == "theirs"
    assert path.read_text() == "mine"
    assert names(tmp_path) == ["a.record"]


@pytest.mark.parametrize("whole", ["whole_file", "whole_folder"])
def test_a_second_writer_is_refused_and_the_first_one_keeps_what_it_writes(tmp_path, whole):
    path = tmp_path / "out"
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom synpol.files import *\n"
        f"with {whole}(Path({str(path)!r})) as new:\n"
        "    new = new / 'a' if new.is_dir() else new\n"
        "    new.write_bytes(b'first'); print(flush=True); sys.stdin.read(1)\n"
        "    new.write_bytes(new.read_bytes() + b', whole')\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as first:
        first.stdout.readline()
        writer = {"whole_file": whole_file, "whole_folder": whole_folder}[whole]
        with pytest.raises(InputError, match="out is being written by another run"), writer(path):
            raise AssertionError("two write at the same time")
        first.communicate(b"x")
    assert first.returncode == 0
    written = path / "a" if whole == "whole_folder" else path
    assert written.read_bytes() == b"first, whole"
    assert not list(tmp_path.glob("*.tmp"))


def test_a_relative_name_with_a_colon_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with whole_file("s3:a.csv") as temporary:
        assert temporary.is_absolute()
        temporary.touch()
    assert names(tmp_path) == ["s3:a.csv"]


def test_bytes_and_json_are_written_whole(tmp_path):
    write_whole(tmp_path / "deep" / "a", memoryview(b"content"))
    assert (tmp_path / "deep" / "a").read_bytes() == b"content"
    write_json(tmp_path / "scores.json", {"f1": [0.5]})
    assert (tmp_path / "scores.json").read_text() == '{\n "f1": [\n  0.5\n ]\n}\n'
    with pytest.raises(TypeError):
        write_json(tmp_path / "scores.json", {"f1": {1, 2}})
    assert (tmp_path / "scores.json").read_text().startswith("{")
    assert names(tmp_path) == ["deep", "deep/a", "scores.json"]


def fill(folder: Path, *files: str) -> None:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def test_a_folder_takes_the_place_of_another_when_it_is_finished(tmp_path):
    path = tmp_path / "deep" / "parts"
    with whole_folder(path) as temporary:
        assert list(temporary.iterdir()) == []
        fill(temporary, "1", "in/2")
        assert not path.exists()
    assert names(path) == ["1", "in", "in/2"]
    with whole_folder(path) as temporary:
        fill(temporary, "3")
        assert names(path) == ["1", "in", "in/2"]
    assert names(tmp_path) == ["deep", "deep/parts", "deep/parts/3"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failing_writer_leaves_the_old_folder_and_nothing_else(tmp_path, error):
    fill(tmp_path / "parts", "1", "2")
    with pytest.raises(error), whole_folder(tmp_path / "parts") as temporary:
        fill(temporary, "3")
        raise error
    assert names(tmp_path) == ["parts", "parts/1", "parts/2"]
    with pytest.raises(error), whole_folder(tmp_path / "others") as temporary:
        raise error
    assert names(tmp_path) == ["parts", "parts/1", "parts/2"]


def test_an_interruption_between_the_two_renames_puts_the_old_folder_back(tmp_path, monkeypatch):
    fill(tmp_path / "parts", "1")
    rename = Path.rename

    def interrupted(self, target):
        if self.name == "new":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / "parts") as temporary:
        fill(temporary, "2")
    monkeypatch.undo()
    assert names(tmp_path) == ["parts", "parts/1"]


@pytest.mark.parametrize(
    ("when", "there"),
    [
        ("Path.rename = lambda *_: DIE", ["1"]),  # before the old folder is moved away
        ("import shutil; shutil.rmtree = lambda *_, **__: DIE", ["2"]),  # before it is removed
    ],
)
def test_a_killed_writer_never_leaves_half_a_folder_under_the_name(tmp_path, when, there):
    fill(tmp_path / "parts", "1")
    with_kill = f"""
        with whole_folder(Path('parts').resolve()) as t:
            (t / '2').touch()
            {when}
        """
    killed(with_kill, tmp_path)
    assert names(tmp_path / "parts") == there
    assert (tmp_path / "parts.tmp").is_dir()
    with whole_folder(tmp_path / "parts") as temporary:
        assert list(temporary.iterdir()) == []
        fill(temporary, "3")
    assert names(tmp_path) == ["parts", "parts/3"]


def test_what_is_no_folder_of_ours_is_not_replaced(tmp_path):
    fill(tmp_path, "file", "a.tmp/mine.txt", "b.tmp", "kept/1")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    before = names(tmp_path)
    for name, why in (
        ("file", "file is no folder"),
        ("link", "link is no folder"),
        ("a", r"a\.tmp holds other files"),
        ("b", r"b\.tmp is no folder"),
    ):
        with pytest.raises(InputError, match=why), whole_folder(tmp_path / name):
            raise AssertionError("it is refused first")
    assert names(tmp_path) == before


def test_a_remote_file_gets_its_name_when_it_is_finished():
    remote = fsspec.filesystem("memory")
    with whole_remote_file("memory://files/a") as file:
        file.write(b"first")
        assert not remote.exists("/files/a")
    assert remote.cat("/files/a") == b"first"
    with pytest.raises(ValueError), whole_remote_file("memory://files/a") as file:
        file.write(b"sec")
        raise ValueError
    assert remote.cat("/files/a") == b"first"
    assert remote.find("/files") == ["/files/a"]


def test_writing_files_needs_no_heavy_library():
    code = "import sys, synpol.files; print({m.partition('.')[0] for m in sys.modules})"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ}
    )
    assert "json" in found.stdout
    for heavy in ("torch", "gunpowder", "pyarrow", "fsspec", "zarr", "numpy"):
        assert f"'{heavy}'" not in found.stdout
