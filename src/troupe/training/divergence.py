"""When a run has diverged: a figure that is not finite, or a gradient that has exploded and stays so.

A single large gradient is no alarm: it is clipped, and the next step is as before. An explosion is a gradient norm
above `TIMES` the median of the `HISTORY` steps before it, for `IN_A_ROW` steps in a row; in 16 healthy runs (dense and
with experts, both corpora, 78 to 600 steps) no step passed 2.01 times that median.
"""

import math
from collections import deque
from statistics import median

TIMES = 100
IN_A_ROW = 10
HISTORY, ENOUGH = 100, 20  # steps that the median is taken of, at most and at least


class Watch:
    """Follows loss and gradient norm (before clipping) from step to step; after a resumption it begins anew."""

    def __init__(self) -> None:
        self._healthy: deque[float] = deque(maxlen=HISTORY)
        self.unhealthy = 0  # steps in a row, the last one included

    def fault(self, loss: float, grad_norm: float) -> str | None:
        """What is wrong after this step, in words; None while the run may go on."""
        finite = math.isfinite(loss) and math.isfinite(grad_norm)
        if finite and not self._exploded(grad_norm):
            self._healthy.append(grad_norm)
            self.unhealthy = 0
            return None
        self.unhealthy += 1
        if not finite:
            return f"loss {loss:.4g}, gradient norm {grad_norm:.4g}"
        if self.unhealthy < IN_A_ROW:
            return None
        return f"the gradient norm, now {grad_norm:.4g}, was over {TIMES} times its median for {IN_A_ROW} steps"

    def _exploded(self, grad_norm: float) -> bool:
        return len(self._healthy) >= ENOUGH and grad_norm > TIMES * median(self._healthy)
