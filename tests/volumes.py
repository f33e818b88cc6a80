"""Random polarity volumes for tests, and a decoder written a second time with scipy alone."""

from __future__ import annotations

from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import scipy.ndimage as nd

from synpol.images.writing import create_image


def random_polarity(
    seed: int, shape: tuple[int, int, int], smooth: int, density: float, dtype: str
) -> np.ndarray:
    """Smooth noise in three channels; about `density` of the voxels are above one half."""
    rng = np.random.default_rng(seed)
    noise = rng.random((3, *shape))
    noise[2] = np.maximum(noise[2], 0.9 * np.maximum(noise[0], noise[1]))
    if smooth > 1:
        noise = nd.uniform_filter(noise, (0, 1, smooth, smooth))
    rank = noise.reshape(3, -1).argsort(axis=1).argsort(axis=1).reshape(noise.shape)
    value = rank / max(1, rank[0].size - 1)
    value = np.clip(value - (1 - density) + 0.5, 0, 1)
    if dtype == "uint8":
        return np.rint(value * 255).astype(np.uint8)
    return value.astype(dtype)


polarity_volumes = st.builds(
    random_polarity,
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(1, 9), st.integers(1, 17), st.integers(1, 17)),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.02, 0.1, 0.3, 0.6, 1.0]),
    st.sampled_from(["uint8", "uint8", "float16", "float32", "float64"]),
)

block_shapes = st.tuples(st.integers(1, 10), st.integers(1, 18), st.integers(1, 18))


def scipy_decode(
    volume: np.ndarray,
    thres: float,
    thres_small: int,
    dilate_sz: int | tuple[int, int, int],
    exclusive: bool = False,
    semantic: bool = False,
    sides: bool = True,
) -> np.ndarray:
    """The decoder's rules once more, voxel by voxel and component by component."""
    if exclusive:
        best = np.argmax(volume, axis=0)
        pre, post, union = best == 1, best == 2, best > 0
    else:
        is_float = volume.dtype.kind == "f"
        level = volume.dtype.type(thres) if is_float else int(255.0 * thres)
        pre, post, union = volume[0] > level, volume[1] > level, volume[2] > level
        pre, post = pre & union, post & union

    def large(mask: np.ndarray) -> np.ndarray:
        labels, count = nd.label(mask)
        kept = np.zeros_like(mask)
        for n in range(1, count + 1):
            if (labels == n).sum() >= thres_small:
                kept |= labels == n
        return kept

    box = (1, dilate_sz, dilate_sz) if isinstance(dilate_sz, int) else dilate_sz
    synapse, count = nd.label(nd.binary_dilation(union, np.ones(box)))
    result = np.zeros(union.shape, np.uint64)
    if not sides:
        for n in range(1, count + 1):
            mine = union & (synapse == n)
            if mine.sum() >= thres_small:
                result[mine] = 1 if semantic else n
        return result
    pre, post = large(pre), large(post)
    result[pre] = 1 if semantic else synapse[pre] * 2 - 1
    result[post] = 2 if semantic else synapse[post] * 2
    return result


def write_polarity(
    folder: Path | str,
    volume: np.ndarray,
    chunk: tuple[int, int, int] = (4, 7, 5),
    **placement: object,
) -> str:
    """Store a polarity volume; returns the path of its image."""
    where = {"voxel_size": (30, 16, 16), "offset": (0, 0, 0), "unit": "nm"} | placement
    image = create_image(
        folder,
        "polarity",
        shape=volume.shape,
        dtype=volume.dtype,
        chunk_shape=(1, *(min(c, s) for c, s in zip(chunk, volume.shape[1:], strict=True))),
        **where,  # type: ignore[arg-type]
    )
    image.array[:] = volume
    return f"{folder}/polarity"
