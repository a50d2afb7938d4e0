"""The one shape of a metric: per-image values first, sums of them second."""

from typing import ClassVar

import torchmetrics
from torch import Tensor

from fgbench.types import Batch, Output


class BenchMetric(torchmetrics.Metric):
    """Numbers of a split from sums that are exact under any division of the split over processes.

    ``columns`` is a pure function of one batch: what the metric says of each image, row by row (it goes to the
    predictions file as it is). ``update`` takes these columns into sums; ``compute`` turns the sums into the numbers of
    the split, in percent. A metric never sees a module.

    A metric that must first be fitted (the regressors of the landmark error) has ``fit_update(output, batch)``, called
    for each batch of the fitting split, and ``fit()``, called once after the sums were reduced over the processes.
    """

    full_state_update: ClassVar[bool] = False
    higher_is_better: ClassVar[bool]
    names: ClassVar[tuple[str, ...]]  # keys of compute(), the first is the leaderboard's column

    def columns(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        """Per-image values, each ``b`` or ``b x``."""
        raise NotImplementedError

    def update(self, columns: dict[str, Tensor], batch: Batch) -> None:
        """Add one batch's columns to the sums."""
        raise NotImplementedError

    def compute(self) -> dict[str, Tensor]:
        """The split's numbers, NaN where nothing was seen."""
        raise NotImplementedError
