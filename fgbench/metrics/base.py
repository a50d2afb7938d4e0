"""The one shape of a metric: per-image values first, sums of them second."""

from collections.abc import Mapping

import torchmetrics
from torch import Tensor

from fgbench.types import Batch, Output

Points = Mapping[str, Tensor]
"""What stands in for a method's evidence, the floors: by name points ``b p 2``, ``x y`` in input pixels, or maps
``b u v`` like a saliency."""


class BenchMetric(torchmetrics.Metric):
    """Numbers of a split from sums that are exact under any division of the split over processes.

    ``columns`` is a pure function of one batch: what the metric says of each image, row by row. ``update`` takes
    these columns into sums; ``compute`` reduces the sums over the processes, once, and turns them into the numbers of
    the split, in percent. A metric never sees a module. Sums are integers (counts, fixed point) wherever the order of
    addition would otherwise show.

    ``compute`` returns scalars, and per-landmark (-attribute, -class) vectors under names that end in ``_each``. A
    metric with floors computes them beside the method's number, from the same sums, under ``<name>/<floor>``.

    A metric that must first be fitted (the regressors of the landmark error) gets ``fit_update`` for each batch of the
    fitting split, and ``fit`` once; ``reset`` forgets both the sums and the fit.
    """

    full_state_update: bool | None = False
    higher_is_better: bool | None
    name: str  # key of compute() that is the leaderboard's column
    needs: str = ""  # the field of Output without which there is nothing to measure, where that shows in the test only

    def columns(self, output: Output, batch: Batch, floors: Points | None = None) -> dict[str, Tensor]:
        """Per-image values, each ``b`` or ``b x``; NaN where the metric says nothing of an image."""
        raise NotImplementedError

    def fit_update(self, output: Output, batch: Batch, floors: Points | None = None) -> None:
        """Add a batch of the fitting split; nothing to do for a metric without a fit."""

    def fit(self) -> None:
        """End the fit; every process must call it."""

    def update(self, columns: dict[str, Tensor], batch: Batch) -> None:
        """Add one batch's columns to the sums."""
        raise NotImplementedError

    def compute(self) -> dict[str, Tensor]:
        """The split's numbers, NaN where nothing was seen."""
        raise NotImplementedError
