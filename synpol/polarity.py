"""Channels of a polarity array and labels of synapse sides: the one place that knows both.

A label volume follows the convention of the EM-R50 data set and of PyTorch Connectomics: the
pre-synaptic side of synapse n has the label 2n-1, its post-synaptic side the label 2n, and 0 is the
background. A polarity array has three channels, whose order depends on the kind of network
(`Channels`). Everything here is pure numpy without side effects, so that every other module can
import it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from synpol.errors import InputError

#: What the labels of a volume mark: sides of synapses (2n-1 / 2n), or synapses without sides.
LabelKind = Literal["polarity", "union"]

#: Label of voxels that nobody looked at, where a source of labels declares some. Like the next one
#: it is exact as float32, which programs that deform labels may compute in.
UNKNOWN = 2**62
#: Label of the voxels of synapses whose sides nobody knows.
SIDES_UNKNOWN = 2**61


class _Indexable(Protocol):
    """A numpy array or a torch tensor."""

    def __getitem__(self, key: Any, /) -> Any: ...


@dataclass(frozen=True)
class Channels:
    """Name the three channels of a polarity array, of logits or of a target.

    Every method takes a numpy array or a torch tensor and the number of its channel axis: 0 for
    ``(3, z, y, x)``, 1 for ``(batch, 3, z, y, x)``. Channels are returned as views.

    Attributes
    ----------
    names : tuple of 3 str
        Channels in their order: pre, post, union; of an exclusive network background, pre, post.
    count : int
        Number of channels, the same for both kinds of network.

    Examples
    --------
    >>> import numpy as np
    >>> polarity = np.arange(6).reshape(3, 2)
    >>> Channels.of(exclusive=False).post(polarity).tolist()
    [2, 3]
    >>> Channels.of(exclusive=True).post(polarity).tolist()
    [4, 5]
    """

    names: tuple[str, str, str]
    count: ClassVar[int] = 3

    @classmethod
    def of(cls, exclusive: bool) -> Channels:
        """Return the channels of an exclusive network, or of one with independent channels."""
        return EXCLUSIVE if exclusive else PLAIN

    @property
    def exclusive(self) -> bool:
        """Whether the channels are classes of which a voxel has one.

        The probabilities of classes are the softmax of the logits over the channel axis; those of
        independent channels are the sigmoid of each logit.
        """
        return "background" in self.names

    def index(self, name: str) -> int:
        """Return the position of a channel; for exclusive networks also the number of the class.

        Raises
        ------
        ValueError
            There is no channel with this name.
        """
        return self.names.index(name)

    def background[A: _Indexable](self, array: A, axis: int = 0) -> A:
        """Return the background channel, which only exclusive networks have."""
        return self._channel(array, "background", axis)

    def pre[A: _Indexable](self, array: A, axis: int = 0) -> A:
        """Return the channel of the pre-synaptic side."""
        return self._channel(array, "pre", axis)

    def post[A: _Indexable](self, array: A, axis: int = 0) -> A:
        """Return the channel of the post-synaptic side."""
        return self._channel(array, "post", axis)

    def union[A: _Indexable](self, array: A, axis: int = 0) -> A:
        """Return the channel of both sides together; for exclusive networks the sum of the sides.

        The sum has the type of the array, so uint8 has to be converted first.
        """
        if self.exclusive:
            pre: Any = self.pre(array, axis)
            return pre + self.post(array, axis)
        return self._channel(array, "union", axis)

    def sides[A: _Indexable](self, array: A, axis: int = 0) -> A:
        """Return the two channels pre and post, in this order; the channel axis stays."""
        first = self.index("pre")
        view: A = array[(*[slice(None)] * axis, slice(first, first + 2))]
        return view

    def _channel[A: _Indexable](self, array: A, name: str, axis: int) -> A:
        view: A = array[(*[slice(None)] * axis, self.index(name))]
        return view


PLAIN = Channels(("pre", "post", "union"))
EXCLUSIVE = Channels(("background", "pre", "post"))


def pre_label[N: (int, np.uint64, np.ndarray)](synapse: N) -> N:
    """Return the label 2n-1 of the pre side of synapse n (1 or above), in the type of n.

    Parameters
    ----------
    synapse : int, numpy integer or array of integers

    Returns
    -------
    Like `synapse`

    Examples
    --------
    >>> pre_label(3), post_label(3)
    (5, 6)
    """
    return synapse + (synapse - 1)  # 2 * 2**63 would not fit into 64 bits


def post_label[N: (int, np.uint64, np.ndarray)](synapse: N) -> N:
    """Return the label 2n of the post side of synapse n, in the type of n; see `pre_label`."""
    return synapse + synapse


def is_pre(label: Any) -> Any:
    """Return whether labels are those of pre sides: bool, for a number or an array of labels."""
    return (label & 1) != 0


def partner_of(label: np.ndarray) -> np.ndarray:
    """Return the label of the other side of the same synapse, for an array of labels.

    Examples
    --------
    >>> import numpy as np
    >>> partner_of(np.array([1, 2, 7])).tolist()
    [2, 1, 8]
    """
    return np.where(is_pre(label), label + 1, label - 1)


def synapse_of[N: (int, np.uint64, np.ndarray)](label: N) -> N:
    """Return the number n of the synapse that labels 2n-1 and 2n belong to, 0 for 0.

    Parameters
    ----------
    label : int, numpy integer or array of integers

    Returns
    -------
    Like `label`

    Examples
    --------
    >>> synapse_of(5), synapse_of(6), synapse_of(0)
    (3, 3, 0)
    """
    return (label >> 1) + (label & 1)  # label + 1 may not fit into the type


def split_labels(instances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split labels into the number of the synapse and the side; `side_labels` joins them again.

    Parameters
    ----------
    instances : array of unsigned integers
        2n-1 on the pre side of synapse n, 2n on its post side, 0 elsewhere.

    Returns
    -------
    synapse : array like `instances`
        n on both sides of synapse n, 0 elsewhere.
    is_pre : bool array
        True on pre sides.

    Examples
    --------
    >>> import numpy as np
    >>> synapse, is_pre = split_labels(np.array([0, 1, 2, 5], dtype=np.uint64))
    >>> synapse.tolist(), is_pre.tolist()
    ([0, 1, 1, 3], [False, True, False, True])
    """
    odd = instances & 1
    return (instances >> 1) + odd, odd.astype(bool)  # label + 1 may not fit into the type


def polarity_to_seg(instances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split labels into the number of the synapse and the side: `split_labels`, for users.

    This public name is an alias and not the inverse of `seg_to_polarity`, which returns channels.

    Parameters
    ----------
    instances : array of unsigned integers
        2n-1 on the pre side of synapse n, 2n on its post side, 0 elsewhere.

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
    return split_labels(instances)


def side_labels[N: (np.uint64, np.ndarray)](
    synapse: N, pre: np.ndarray, post: np.ndarray
) -> np.ndarray:
    """Label voxels by their synapse and side; post wins where a voxel is on both sides.

    Parameters
    ----------
    synapse : array of unsigned integers, or one number for all
        Number n of the synapse, 1 or above where `pre` or `post` is true.
    pre, post : bool arrays
        Voxels on the pre and on the post side.

    Returns
    -------
    array like `synapse`
        2n-1 on pre voxels, 2n on post voxels, 0 elsewhere.

    Examples
    --------
    >>> import numpy as np
    >>> synapse = np.array([7, 1, 1, 3], dtype=np.uint64)
    >>> pre, post = np.array([[False, True, True, True], [False, False, True, False]])
    >>> side_labels(synapse, pre, post).tolist()
    [0, 1, 2, 5]
    """
    label = post_label(synapse)
    return np.where(post, label, np.where(pre, label - 1, 0))


def side_voxels(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which voxels lie on a pre side and which on a post side, as two bool arrays."""
    pre = is_pre(labels)
    return pre, (labels != 0) & ~pre


def seg_to_polarity(label: np.ndarray, exclusive: bool = False) -> np.ndarray:
    """Turn a label volume into the target of the network.

    Parameters
    ----------
    label : (z, y, x) array of integers
        2n-1 on the pre side of synapse n, 2n on its post side, 0 elsewhere.
    exclusive : bool
        Whether to return classes instead of channels.

    Returns
    -------
    (3, z, y, x) float32
        Channels pre, post, union, each 0 or 1; with `exclusive` instead ``(z, y, x)`` int64,
        0 background, 1 pre, 2 post.

    Raises
    ------
    InputError
        The labels are not integers, or some are below zero.

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
    pre, post = side_voxels(label)
    if exclusive:
        background, first, second = (
            np.int64(EXCLUSIVE.index(name)) for name in ("background", "pre", "post")
        )
        return np.where(pre, first, np.where(post, second, background))
    voxels = {"pre": pre, "post": post, "union": pre | post}
    return np.stack([voxels[name] for name in PLAIN.names]).astype(np.float32)


def check_polarity_labels(values: np.ndarray, path: str) -> None:
    """Refuse labels of which none has its partner, which cannot be sides of synapses.

    Parameters
    ----------
    values : array of integers
        Labels that occur (0 may be among them).
    path : str
        Path of the label volume, for the message.

    Raises
    ------
    InputError
        There are labels, but only odd ones (a binary mask, for example), only even ones, or none
        of which the other side is there too.
    """
    labels = np.unique(values)
    labels = labels[labels != 0]
    if labels.size == 0:
        return
    odd = int(is_pre(labels).sum())
    fault = ""
    if odd == 0 or odd == labels.size:
        fault = f"holds only {'odd' if odd else 'even'} labels ({shown_labels(labels)})"
    elif not np.isin(partner_of(labels), labels).any():
        fault = f"holds no label together with its partner 2n-1 or 2n ({shown_labels(labels)})"
    if fault:
        raise InputError(
            f"{path} is declared `labels: polarity`, but it {fault}, so every synapse would lack a "
            "side; if it marks synapses without sides (a mask, or one id a synapse), say `labels: "
            "union`"
        )


def shown_labels(labels: np.ndarray) -> str:
    """Return the first five labels as text for a message."""
    return ", ".join(str(v) for v in labels[:5]) + (", ..." if labels.size > 5 else "")
