"""Schedulers that run workers, each in a module of this folder.

A scheduler is a subclass of `Scheduler` that is given to `register`. It says what a job asks for,
and what psij-python, which submits and watches jobs, gets wrong with it. All modules of this folder
are imported with it, so a file that is added here is all the code that a new scheduler takes. One
that lives elsewhere registers itself when its module is imported.

psij is imported only where jobs are submitted: that takes a third of a second.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from synpol.errors import InputError, nearest

if TYPE_CHECKING:
    import psij

    from synpol.config import Workers


@dataclass(frozen=True)
class Request:
    """Things that a job asks its scheduler for.

    Attributes
    ----------
    options : dict of str to str
        Options by their names without dashes.
    account : str, optional
        Account that psij writes into the job.
    resources : psij.ResourceSpecV1, optional
        Cores, GPUs and memory that psij writes into the job; none where `options` say them.
    """

    options: dict[str, str]
    account: str | None = None
    resources: psij.ResourceSpecV1 | None = None


class Scheduler(ABC):
    """Describe one scheduler to synpol and to psij.

    Attributes
    ----------
    name : str
        Name in ``workers.executor``.
    dialect : str
        Name under which psij's script template knows options of this scheduler.
    remote : bool
        Whether jobs run on other machines than the driver.
    """

    name: ClassVar[str]
    dialect: ClassVar[str]
    remote: ClassVar[bool] = True

    @abstractmethod
    def executor_class(self) -> type[psij.JobExecutor]:
        """Import the class of psij that submits to this scheduler."""

    @abstractmethod
    def request(self, settings: Workers, cores: int, gpus: int, name: str) -> Request:
        """Say what the job of a worker asks for, ``workers.options`` left out.

        Parameters
        ----------
        settings : Workers
        cores, gpus : int
            Cores and GPUs of the job.
        name : str
            Name of the job.
        """

    def submit_command(self, script: Path) -> list[str] | None:
        """Command that submits a script; None: the one that psij knows."""
        return None

    def readable_queue(self, exit_code: int, text: str) -> str:
        """Change what the scheduler said about its queue so that psij understands it."""
        return text

    def cancel(self, job: psij.Job) -> None:
        """End a job."""
        job.cancel()


#: schedulers by name
SCHEDULERS: dict[str, Scheduler] = {}


def register[Kind: type[Scheduler]](kind: Kind) -> Kind:
    """Add a scheduler, or replace the one of the same name; to be used as a decorator."""
    SCHEDULERS[kind.name] = kind()
    return kind


def scheduler_of(settings: Workers | None) -> Scheduler:
    """Return the scheduler that a config names; the local one without a config.

    Raises
    ------
    InputError
        No scheduler has that name.
    """
    name = "local" if settings is None else settings.executor
    if name not in SCHEDULERS:
        raise InputError(f"workers.executor is {name!r}{nearest(name, SCHEDULERS)}")
    return SCHEDULERS[name]


def check_place(settings: Workers | None, work_dir: Path) -> None:
    """Refuse folders whose names a job's script would take for commands.

    Raises
    ------
    InputError
        Workers are jobs of a cluster, and the work folder or the current folder is such a one.
    """
    if not scheduler_of(settings).remote:
        return
    advice = {
        work_dir: "give another one: workers.work_dir=FOLDER",
        Path.cwd(): "start the command in another folder",
    }
    for folder, way in advice.items():
        odd = next((c for c in str(folder) if c in "$`\"'\\" or not c.isprintable()), None)
        if odd is not None:
            raise InputError(
                f"{str(folder)!r} has {odd!r} in its name, which the script of a job would take "
                f"for a command; {way}"
            )


for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    importlib.import_module(_module.name)
