"""A place in a chain of nodes that stays empty."""

from __future__ import annotations

import gunpowder as gp


class Nothing(gp.Pipeline):
    """Add no node to a chain: ``chain + Nothing()`` is `chain`, and so is ``Nothing() + chain``.

    A node that a config leaves out has to be absent. One that is there but does nothing still
    changes the patches, because every node of a chain derives a new random seed for the nodes
    upstream of it.
    """

    def __init__(self) -> None:
        """Hold no node, unlike any other pipeline."""

    def __add__(self, other: gp.Pipeline | gp.BatchProvider) -> gp.Pipeline:
        return gp.Pipeline(other) if isinstance(other, gp.BatchProvider) else other

    def __radd__[Chain: (gp.Pipeline, tuple[gp.Pipeline, ...])](self, other: Chain) -> Chain:
        return other

    def __repr__(self) -> str:
        return "Nothing()"
