"""What can be said of numbers from several seeds, and of two methods on the same images.

Two things vary: the images of a test split are a sample of those that could have been taken, and a run is a sample of
what its method gives with another seed. An interval or a test here names the one or both that it speaks of (``unit``).

* ``seeds``: mean, standard deviation and t interval of a number (``summary``). Unit: the seed.
* ``paired``: tests of two methods on the same images.
    * ``mcnemar``: are two runs right on the same number of images? Exact, unit: the image.
    * ``wilcoxon``: are errors of one run smaller than those of another on the same images? Unit: the image.
    * ``crossed``: the same questions for several runs of each method. Unit: image and seed.
* ``resampling``: interval of the difference (``bootstrap``). Unit: the image, and the seed where there are several.
* ``groups``: many comparisons at once (``holm``), and the groups that they leave together (``letters``).

Everything is of float64 and pure; the same arguments give the same numbers.

May import: numpy, scipy. Must not import: anything else of the suite. Reads and writes: nothing.
"""

from fgbench.statistics.groups import holm, letters
from fgbench.statistics.paired import Test, crossed, mcnemar, wilcoxon
from fgbench.statistics.resampling import DRAWS, Interval, bootstrap
from fgbench.statistics.seeds import LEVEL, Summary, summary

__all__ = [
    "DRAWS",
    "LEVEL",
    "Interval",
    "Summary",
    "Test",
    "bootstrap",
    "crossed",
    "holm",
    "letters",
    "mcnemar",
    "summary",
    "wilcoxon",
]
