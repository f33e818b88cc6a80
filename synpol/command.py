"""What every command in pipelines/ shares: arguments, ``--help``, exit codes.

Exit 0 only when the whole job is done; 2 for input that cannot be used, with a message and
nothing written; 1 for a fault; 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import errno
import logging
import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import yaml

from synpol.blockwise.records import DamagedRecord
from synpol.blockwise.schedulers import SCHEDULERS, scheduler_of
from synpol.config import Config, describe, load_config
from synpol.errors import InputError, Outage
from synpol.files import is_url, whole_file
from synpol.images.stores import outage_in

#: errors of the system that say that there is no room
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: what libraries write into errors of their own then
_FULL_WORDS = (
    *(os.strerror(number) for number in _FULL),
    "database or disk is full",
    "disk I/O error",
)


def run_command(
    main: Callable[[Config, argparse.Namespace], bool | None],
    doc: str | None,
    arguments: Sequence[str] | None = None,
    options: Callable[[argparse.ArgumentParser], object] | None = None,
    timed: bool = True,
) -> None:
    """Read the config from the command line, run, and exit with the right code.

    Parameters
    ----------
    main : callable
        Gets the config and the options; returns False when the job is not done although nothing
        is wrong (an interrupt).
    doc : str
        What the command does, for ``--help``.
    arguments : sequence of str, optional
        By default those of the process.
    options : callable, optional
        Adds the options that only this command has to the parser.
    timed : bool
        Whether how long it took is noted in the run's folder.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    parser = argparse.ArgumentParser(
        description=doc,
        epilog=keys_text(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "config",
        nargs="+",
        metavar="CONFIG.yaml | section.key=value",
        help="config files, later ones over earlier ones, and single keys",
    )
    if options is not None:
        options(parser)
    given = parser.parse_intermixed_args(arguments)
    started = time.monotonic()
    try:
        config = load_config(given.config)
        scheduler_of(config.workers)  # refuses a name that nobody knows
        done = main(config, given)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except (DamagedRecord, Outage) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        full = _full_disk(error)
        outage = outage_in("".join(traceback.format_exception(error)))
        if full is not None:
            outage = (
                f"the disk is full or fails ({full}); what is done is kept: make room there and "
                "run the same command again"
            )
        if outage is None:
            raise
        print(f"error: {outage}", file=sys.stderr)
        sys.exit(1)
    if done is False:
        sys.exit(130)
    if timed:
        _note_time(config, given.config, time.monotonic() - started)


def _full_disk(error: BaseException | None) -> str | None:
    """Say what could not be written since a disk or a quota is full; None for other faults.

    Libraries wrap what the system says in errors of their own.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            name = f": {error.filename}" if error.filename else ""
            return f"{os.strerror(error.errno)}{name}"
        for line in str(error).splitlines():
            if any(said in line for said in _FULL_WORDS):
                return line.strip()[-300:]
        error = error.__cause__ or error.__context__
    return None


def _note_time(config: Config, sources: Sequence[str], seconds: float) -> None:
    """Add a line to ``<run_dir>/timings.csv``: what was run and how long it took."""
    path = Path(config.run_dir) / "timings.csv"
    if path.parent.is_dir() and os.environ.get("RANK", "0") == "0":  # of several processes one
        with contextlib.suppress(OSError), open(path, "a", newline="") as file:  # a full disk
            csv.writer(file).writerow([Path(sys.argv[0]).name, *sources[1:], f"{seconds:.1f}"])


def described_keys() -> Iterator[tuple[str, str, str, str]]:
    """Describe every key of a config; schedulers are those that are registered.

    Yields
    ------
    (key, type, default, meaning)
    """
    for key, kind, default, meaning in describe(Config):
        names = " or ".join(SCHEDULERS)
        yield key, names if key == "workers.executor" else kind, default, meaning


def keys_text() -> str:
    """List every key of a config with its type, default and meaning."""
    lines = ["config keys [type] (default): meaning"]
    for key, kind, default, meaning in described_keys():
        lines += [f"  {key}  [{kind}] ({default})", f"      {meaning}"]
    return "\n".join(lines)


def record_run(config: Config, folder: str | Path, name: str) -> None:
    """Leave the resolved config, versions and git state beside what they made, if that is local."""
    if is_url(folder):
        return
    folder = Path(folder)
    packages = ("synpol", "torch", "gunpowder", "daisy", "funlib.persistence", "zarr", "numpy")
    about = {
        "config": config.model_dump(mode="json"),
        "versions": {p: version(p) for p in packages} | {"python": platform.python_version()},
        "git": _git_state(),
    }
    with whole_file(folder / f"{name}.resolved.yaml") as temporary:
        temporary.write_text(yaml.safe_dump(about, sort_keys=False))


def _git_state() -> str:
    here = Path(__file__).parent
    try:
        out = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "not in a git checkout"
    return out.stdout.strip()
