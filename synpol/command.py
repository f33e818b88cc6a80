"""What every command in pipelines/ shares: arguments, ``--help``, exit codes.

Exit 0 only when the whole job is done; 2 for input that cannot be used, with a message and
nothing written; 1 for a fault; 130 after Ctrl-C.
"""

from __future__ import annotations

import json
import logging
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import yaml

from synpol.config import Config, describe, load_config
from synpol.errors import InputError


def run_command(
    main: Callable[[Config], bool | None],
    doc: str | None,
    arguments: Sequence[str] | None = None,
    extra: Sequence[str] = (),
) -> None:
    """Read the config from the command line, run, and exit with the right code.

    Parameters
    ----------
    main : callable
        Gets the config; returns False when the job is not done although nothing is wrong (an
        interrupt). With `extra` flags it gets a second argument, the set of those given.
    doc : str
        What the command does, for ``--help``.
    arguments : sequence of str, optional
        By default those of the process.
    extra : sequence of str
        Names of flags this command knows besides ``--help``, for instance ``--fresh``.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    if not given or "--help" in given or "-h" in given:
        print(help_text(doc, extra))
        sys.exit(0 if given else 2)
    try:
        flags = {g for g in given if g.startswith("--")}
        unknown = sorted(flags - set(extra))
        if unknown:
            raise InputError(f"unknown option {unknown[0]}; see --help")
        config = load_config([g for g in given if not g.startswith("--")])
        done = main(config, flags) if extra else main(config)  # type: ignore[call-arg]
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
    sys.exit(130 if done is False else 0)


def help_text(doc: str | None, extra: Sequence[str] = ()) -> str:
    """The text of ``--help``: what the command does and every key."""
    name = Path(sys.argv[0]).name
    flags = "".join(f" [{flag}]" for flag in extra)
    lines = [
        f"usage: python pipelines/{name} CONFIG.yaml [MORE.yaml ...] [section.key=value ...]{flags}",
        "",
        (doc or "").strip(),
        "",
        "keys (default): meaning",
    ]
    for key, kind, default, meaning in describe(Config):
        lines.append(f"  {key}  [{kind}] ({default})")
        lines.append(f"      {meaning}")
    return "\n".join(lines)


def record_run(config: Config, folder: str | Path, name: str) -> None:
    """Leave the resolved config, versions and git state beside what they made."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    packages = ("synpol", "torch", "gunpowder", "daisy", "funlib.persistence", "zarr", "numpy")
    about = {
        "config": config.model_dump(mode="json"),
        "versions": {p: version(p) for p in packages} | {"python": platform.python_version()},
        "git": _git_state(),
    }
    (folder / f"{name}.resolved.yaml").write_text(yaml.safe_dump(about, sort_keys=False))


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


def write_json(path: str | Path, content: object) -> None:
    """Write JSON whole or not at all."""
    path = Path(path)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    temporary.replace(path)
