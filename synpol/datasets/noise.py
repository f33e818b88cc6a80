"""Random numbers that belong to places: integer hashes, smooth noise, and jittered lattices.

Every value follows from a key and from integer coordinates, never from the order or the extent in
which values are asked for. Array arithmetic is element by element (no FFT, no matrix product, no
transcendental function), so a value is the same, byte for byte, whatever else is made with it.
"""

from __future__ import annotations

import math

import numpy as np

NOISE_UNIT = 5.2  # brings spline noise of uniform values to a standard deviation of about 1
STEP = np.uint64(0x9E3779B97F4A7C15)


def mix(h: np.ndarray) -> np.ndarray:
    """Scramble uint64 values (the splitmix64 finaliser), same shape."""
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


def hash_at(key: np.ndarray, *coords: np.ndarray) -> np.ndarray:
    """Hash integer coordinates (broadcast together) under a key, uint64."""
    for c in coords:
        key = mix(key + np.asarray(c, np.int64).astype(np.uint64) * STEP + STEP)
    return key


def key_of(seed: int, name: str) -> np.ndarray:
    """Return the uint64 key, shape (1,), of one named random process of one seed."""
    parts = [seed & (2**32 - 1), seed >> 32, *name.encode()]
    return hash_at(np.zeros(1, np.uint64), *(np.array([part]) for part in parts))


def uniform(h: np.ndarray, count: int) -> np.ndarray:
    """Draw ``count`` numbers in [0, 1) from each hash: shape ``h.shape + (count,)``."""
    drawn = mix(h[..., None] + np.arange(1, count + 1, dtype=np.uint64) * STEP)
    return (drawn >> np.uint64(11)) * 2.0**-53


def bell(h: np.ndarray) -> np.ndarray:
    """Turn each hash into a nearly normal float32 (mean 0, deviation 1, within 3.47)."""
    total = (h & np.uint64(0xFFFF)) + (h >> np.uint64(48))
    for shift in (16, 32):
        total += (h >> np.uint64(shift)) & np.uint64(0xFFFF)
    return (total.astype(np.float32) - np.float32(131070)) * np.float32(3**0.5 / 65536)


def spline_taps(coords: np.ndarray, wavelength: float) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the first lattice index and the four cubic B-spline weights of each coordinate."""
    t = coords / wavelength
    base = np.floor(t)
    f = t - base
    g, f2 = 1 - f, f * f
    f3 = f2 * f
    weights = [g * g * g, 3 * f3 - 6 * f2 + 4, 3 * (f2 + f - f3) + 1, f3]
    return base.astype(np.int64) - 1, [w / 6 for w in weights]


def noise_lattice(key: np.ndarray, bases: list[np.ndarray]) -> tuple[np.ndarray, list[int]]:
    """Return lattice values (float32 in [-1, 1)) under all taps, and the first index per axis."""
    first = [int(b.min()) for b in bases]
    axes = np.ix_(*(np.arange(lo, int(b.max()) + 4) for lo, b in zip(first, bases, strict=True)))
    h = hash_at(key.reshape(1, 1, 1), *axes)
    return (h >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-23) - 1, first


def grid_noise(
    key: np.ndarray, axes: list[np.ndarray], wavelength: float | tuple[float, float, float]
) -> np.ndarray:
    """Make smooth noise (float32, deviation about 1) on the grid of three axes in nm."""
    lengths = wavelength if isinstance(wavelength, tuple) else (wavelength,) * 3
    taps = [spline_taps(a, length) for a, length in zip(axes, lengths, strict=True)]
    values, first = noise_lattice(key, [base for base, _ in taps])
    values *= np.float32(NOISE_UNIT)
    for axis, (base, weights) in enumerate(taps):
        shape = [-1 if i == axis else 1 for i in range(3)]
        index = base - first[axis]
        factors = [w.astype(np.float32).reshape(shape) for w in weights]
        out = np.take(values, index, axis=axis)
        out *= factors[0]
        for k in (1, 2, 3):
            part = np.take(values, index + k, axis=axis)
            part *= factors[k]
            out += part
        values = out
    return values


def jittered_lattice(
    key: np.ndarray, lo: np.ndarray, hi: np.ndarray, spacing: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return cells (n, 3), points (n, 3) in nm and hashes (n,) of a jittered lattice in a box."""
    ranges = [
        np.arange(math.floor(a / spacing), math.floor(b / spacing) + 1)
        for a, b in zip(lo, hi, strict=True)
    ]
    cells = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, 3)
    h = hash_at(key, cells[:, 0], cells[:, 1], cells[:, 2])
    return cells, (cells + 0.05 + 0.9 * uniform(h, 3)) * spacing, mix(h ^ STEP)
