"""Colours of the sides, the same in every picture and on every page.

They are apart from the figures, because programs that need them alone do not import matplotlib
(0.4 s).
"""

from __future__ import annotations

import numpy as np

#: colours of the sides everywhere: pre magenta, post cyan
PRE, POST = np.array([1.0, 0.1, 0.9]), np.array([0.0, 0.85, 1.0])
#: colour of both sides together
UNION = np.array([1.0, 0.75, 0.1])
