"""Say what is wrong with a file of a result, and which command makes it right."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """A file that is not as it has to be.

    Attributes
    ----------
    file : str
        Path or URL of the file.
    found : str
        What is wrong with it.
    redo : str
        Shell command that makes it right.
    """

    file: str
    found: str
    redo: str

    def __str__(self) -> str:
        return f"{self.file}: {self.found}\n    {self.redo}"


@dataclass(frozen=True)
class Commands:
    """Commands of pipelines/ for one config.

    Attributes
    ----------
    config : sequence of str
        Config files and keys, as they were given on the command line.
    """

    config: Sequence[str]

    def run(self, name: str, *options: str, remove: str = "") -> str:
        """Return the shell command that runs a recipe, and removes a damaged file first."""
        command = shlex.join(["python", f"pipelines/{name}.py", *self.config, *options])
        return f"rm {shlex.quote(remove)} && {command}" if remove else command
