"""Labels to polarity targets and back: pure numpy, no side effects.

The convention is that of the EM-R50 data set and of PyTorch Connectomics: in a label volume the
pre-synaptic side of synapse n is 2n-1, its post-synaptic side 2n, and 0 is none.
"""

from __future__ import annotations

import numpy as np

from synpol.errors import InputError

#: channel order of a polarity array
CHANNELS = ("pre", "post", "union")
#: channel order of an exclusive polarity array
EXCLUSIVE_CHANNELS = ("background", "pre", "post")


def seg_to_polarity(label: np.ndarray, exclusive: bool = False) -> np.ndarray:
    """Turn a label volume into the target of the network.

    Parameters
    ----------
    label : (z, y, x) array of integers
        2n-1 on the pre side of synapse n, 2n on its post side, 0 elsewhere.
    exclusive : bool
        Classes instead of channels.

    Returns
    -------
    (3, z, y, x) float32
        Channels pre, post, union, each 0 or 1; with `exclusive` instead ``(z, y, x)`` int64,
        0 background, 1 pre, 2 post.

    Raises
    ------
    InputError
        Labels that are not integers, or below zero.

    Examples
    --------
    >>> import numpy as np
    >>> label = np.array([[[0, 1, 2, 3]]])
    >>> seg_to_polarity(label)[:, 0, 0].tolist()
    [[0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 1.0, 0.0], [0.0, 1.0, 1.0, 1.0]]
    >>> seg_to_polarity(label, exclusive=True)[0, 0].tolist()
    [0, 1, 2, 1]
    """
    label = np.asarray(label)
    if label.dtype.kind == "b":
        label = label.astype(np.uint8)
    if label.dtype.kind not in "ui":
        raise InputError(
            f"labels are {label.dtype}; whole numbers are expected (2n-1 pre, 2n post, 0 none)"
        )
    if label.dtype.kind == "i" and label.size and label.min() < 0:
        raise InputError(f"a label is {label.min()}; labels are 0 or above")
    odd = (label & label.dtype.type(1)).astype(bool)
    union = label != 0
    if exclusive:
        return np.where(odd, np.int64(1), np.where(union, np.int64(2), np.int64(0)))
    return np.stack([odd, union & ~odd, union]).astype(np.float32)


def polarity_to_seg(instances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split instances into the synapse each voxel belongs to and the side it is on.

    Parameters
    ----------
    instances : (z, y, x) array of unsigned integers
        2n-1 / 2n.

    Returns
    -------
    synapse : array like `instances`
        n on both sides of synapse n, 0 elsewhere.
    is_pre : bool array
        True on pre sides.

    Examples
    --------
    >>> import numpy as np
    >>> synapse, is_pre = polarity_to_seg(np.array([0, 1, 2, 5], dtype=np.uint64))
    >>> synapse.tolist(), is_pre.tolist()
    ([0, 1, 1, 3], [False, True, False, True])
    """
    one = instances.dtype.type(1)
    odd = instances & one
    return (instances >> one) + odd, odd.astype(bool)  # label + 1 could be too large


def check_polarity_labels(values: np.ndarray, path: str) -> None:
    """Refuse labels whose odd/even scheme cannot be right.

    Parameters
    ----------
    values : array of integers
        Labels that occur (0 may be among them).
    path : str
        Where they are, for the message.

    Raises
    ------
    InputError
        There are labels, but only odd ones (a binary mask, say) or only even ones.
    """
    found = np.unique(values)
    found = found[found != 0]
    if found.size == 0:
        return
    odd = int((found % 2 == 1).sum())
    if odd == 0 or odd == found.size:
        which = "odd" if odd else "even"
        shown = ", ".join(str(v) for v in found[:5]) + (", ..." if found.size > 5 else "")
        raise InputError(
            f"{path} is declared `labels: polarity`, but it holds only {which} labels ({shown}), "
            "so every synapse would lack a side; if it marks synapses without sides (a mask, or "
            "one id a synapse), say `labels: union`"
        )
