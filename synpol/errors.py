"""The exception that means "the input is at fault, and here is what to do", and one for servers.

Commands turn the first into a message and exit code 2, the second into one and exit code 1;
everything else that escapes is a fault of synpol or of the machine and keeps its traceback.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable


class InputError(ValueError):
    """What was given cannot be used. The message names it, says what was expected, what to do."""


#: numbers of errors of the system for places and names that no file has, as damaged ones claim
_IMPOSSIBLE = (errno.EINVAL, errno.ENAMETOOLONG, errno.EOVERFLOW, errno.EILSEQ)


class Outage(RuntimeError):
    """A server failed, or the way to it. What is done is kept, and the same command goes on."""


def is_of_content(error: OSError) -> bool:
    """Whether what is in a file led to an error of the system, and not the disk or a server."""
    return error.errno is None or (error.errno in _IMPOSSIBLE and error.__cause__ is None)


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which known name is nearest to a wrong one.

    Parameters
    ----------
    name : str
        What was given.
    known : iterable of str
        What would have been right.

    Returns
    -------
    str
        ``"; did you mean 'x'?"``, or the list of what there is when nothing is near.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if near:
        return "; did you mean " + " or ".join(repr(n) for n in near) + "?"
    return "; there is: " + ", ".join(names) if names else ""
