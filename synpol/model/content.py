"""Tell a checkpoint by what is in it, and refuse one that is damaged.

The bytes of a checkpoint's file say little: a run that was resumed writes other bytes for equal
weights, and torch reads flipped bits without a word. So a digest over the content is stored in
each checkpoint and compared when it is read. The digest of the weights alone tells whether a
prediction is up to date.
"""

from __future__ import annotations

import hashlib
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from synpol.errors import InputError, is_of_content

#: key of a checkpoint: the digest of everything else in it
DIGEST = "digest"
#: levels of dicts and lists in a checkpoint, at most
_DEPTH = 30


def digest_of_content(content: Any) -> str:
    """Return the SHA-256 of numbers, texts and tensors in dicts and lists, whatever their file.

    Examples
    --------
    >>> import torch
    >>> one = {"a": torch.zeros(2), "b": [1, None]}
    >>> other = {"b": (1, None), "a": torch.zeros(2)}
    >>> digest_of_content(one) == digest_of_content(other)
    True
    >>> digest_of_content(one) == digest_of_content({"a": torch.ones(2), "b": [1, None]})
    False
    """
    digest = hashlib.sha256()
    _add(digest, content, _DEPTH)
    return digest.hexdigest()


def _add(digest: Any, value: Any, depth: int) -> None:
    """Add a value to a digest, with its kind and length, so that different ones never agree."""
    if not depth:
        raise ValueError("it is nested too deeply")
    if isinstance(value, Mapping):
        digest.update(f"d{len(value)}:".encode())
        for key in sorted(value, key=lambda k: (type(k).__name__, str(k))):
            _add(digest, key, depth - 1)
            _add(digest, value[key], depth - 1)
    elif isinstance(value, list | tuple):
        digest.update(f"l{len(value)}:".encode())
        for item in value:
            _add(digest, item, depth - 1)
    elif isinstance(value, torch.Tensor):
        digest.update(f"t{value.dtype}{list(value.shape)}:".encode())
        plain = value.detach().cpu().contiguous()
        digest.update(plain.reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, float):
        digest.update(b"f" + struct.pack("<d", value))
    elif value is None or isinstance(value, bool | int | str):
        text = repr(value).encode(errors="surrogatepass")
        digest.update(f"{type(value).__name__}{len(text)}:".encode() + text)
    else:
        raise TypeError(f"it holds a {type(value).__name__}")


def read_content(path: Path) -> dict[str, Any]:
    """Read a file of torch that holds numbers, texts and tensors, and check it.

    Raises
    ------
    InputError
        The file is missing or damaged, holds something else, or claims more than it has.
    """
    if not path.is_file():
        raise InputError(f"there is no checkpoint {path}; train first, or name another one")
    try:
        _check_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise ValueError("it is no dict")
        _check_storage(state, _DEPTH)
        stored = state.pop(DIGEST, None)  # older checkpoints have none
        if stored is not None and stored != digest_of_content(state):
            raise ValueError("its content is not what its digest says")
    except InputError:
        raise
    except OSError as error:
        if not is_of_content(error):
            raise
        raise _unreadable(path, error) from None
    except Exception as error:  # whatever zipfile, pickle and torch make of bytes that are damaged
        raise _unreadable(path, error) from None
    return state


def _unreadable(path: Path, error: Exception) -> InputError:
    said = str(error).partition("\n")[0] or type(error).__name__
    return InputError(
        f"{path} is not a readable checkpoint ({said:.200}); copy it again, or remove it: training "
        "then goes on from the one before"
    )


def _check_file(path: Path) -> None:
    """Refuse a file that is no ZIP archive of torch, whose checksums fail, or that unpacks."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if any(m.compress_type != zipfile.ZIP_STORED or m.flag_bits & 1 for m in members):
            raise ValueError("torch neither compresses nor encrypts")
        if sum(m.file_size for m in members) > path.stat().st_size:
            raise ValueError("it claims to hold more than it has")
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"{damaged} is damaged")


def _check_storage(value: Any, depth: int) -> None:
    """Refuse tensors that claim more values than are stored, before they are used."""
    if not depth:
        raise ValueError("it is nested too deeply")
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str | int):
                raise TypeError(f"it has a key of the type {type(key).__name__}")
            _check_storage(item, depth - 1)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_storage(item, depth - 1)
    elif isinstance(value, torch.Tensor):
        if value.layout != torch.strided or value.is_quantized:
            raise TypeError(f"it has a tensor of the layout {value.layout}")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(f"a tensor of the shape {tuple(value.shape)} has fewer values")


def check_weights(path: Path, name: str, weights: Any, wanted: Mapping[str, torch.Tensor]) -> None:
    """Refuse weights that are not those of a network, or not finite.

    Parameters
    ----------
    path : Path
        File of the checkpoint, for the message.
    name : str
        Key of the weights in the checkpoint.
    weights : mapping of str to tensor
    wanted : mapping of str to tensor
        Weights of a new network of the same kind.

    Raises
    ------
    InputError
    """
    what, way = f"{path} is damaged, or of another network: its {name}", "name another checkpoint"
    if not isinstance(weights, Mapping) or set(weights) != set(wanted):
        raise InputError(f"{what} has not the names of this network's weights; {way}")
    for key, ours in wanted.items():
        theirs = weights[key]
        if not isinstance(theirs, torch.Tensor):
            raise InputError(f"{what} holds no tensor {key!r}; {way}")
        if theirs.shape != ours.shape or theirs.dtype != ours.dtype:
            raise InputError(
                f"{what} has {key!r} of {theirs.dtype} {tuple(theirs.shape)}; {ours.dtype} "
                f"{tuple(ours.shape)} is expected: {way}"
            )
        if not torch.isfinite(theirs).all():
            raise InputError(
                f"{path} has values in {name}.{key} that are not finite (nan or inf); a network "
                "with them predicts nothing: name an earlier checkpoint, predict.checkpoint=FILE"
            )
