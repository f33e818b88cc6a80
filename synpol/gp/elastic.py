"""Elastic deformation, gunpowder's, beside arrays that have no place."""

from __future__ import annotations

from typing import Any

import gunpowder as gp


class ElasticAugment(gp.DeformAugment):
    """``gunpowder.DeformAugment`` that leaves non-spatial arrays alone, on which it fails.

    Labels are deformed by nearest neighbour, since their arrays are not interpolatable; so no new
    label comes up, and sides are never mixed. Parameters are those of ``gunpowder.DeformAugment``.
    """

    def process(self, batch: gp.Batch, request: gp.BatchRequest) -> Any:
        aside = {key: array for key, array in batch.items() if array.spec.nonspatial}
        for key in aside:
            del batch.arrays[key]
        deformed = super().process(batch, request)
        for key, array in aside.items():
            deformed[key] = array
        return deformed
