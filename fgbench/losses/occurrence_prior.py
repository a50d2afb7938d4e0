"""How often each part occurs, pulled towards a prior (Huang & Li, CVPR 2020, section 3.1 and Eq. 2).

A part's occurrence in an image is the maximum of its blurred assignment map. Over the global batch, the distribution of
occurrences of each part is compared with a Beta prior by the 1-D Wasserstein distance of their logarithms: the mean
absolute difference of sorted log-occurrences and log-quantiles. The logarithm keeps a gradient on a part that occurs
nowhere: it is 1 / (occurrence + 1e-5).
"""

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor, nn

from fgbench.layers.distributed import gather

EPS = 1e-5  # Eq. 2
BLUR_STD = 0.4  # in cells; the authors' code, as is the radius
BLUR_RADIUS = 2


def blur_kernel(std: float = BLUR_STD, radius: int = BLUR_RADIUS) -> Float[Tensor, "s s"]:
    """A truncated Gaussian with sum 1; at 0.4 cells its centre holds 0.845."""
    line = torch.exp(-(torch.arange(-radius, radius + 1, dtype=torch.float64) ** 2) / (2 * std**2))
    kernel = line[:, None] * line[None, :]
    return (kernel / kernel.sum()).float()


@lru_cache(maxsize=64)
def beta_quantiles(n: int, alpha: float, beta: float) -> Float[np.ndarray, " n"]:
    """Quantiles of Beta(alpha, beta) at (2 i - 1) / (2 n), ascending, float64.

    Raises:
        ValueError: if the quantiles cannot be computed for this alpha and beta.
    """
    levels = (2 * np.arange(1, n + 1) - 1) / (2 * n)
    quantiles: np.ndarray = np.clip(stats.beta.ppf(levels, alpha, beta), 0.0, 1.0)
    if not np.isfinite(quantiles).all() or (np.diff(quantiles) < 0).any():
        raise ValueError(
            f"scipy gives no ascending finite quantiles of Beta({alpha}, {beta}); both must be above 0, "
            "and values below 1e-3 are beyond its precision"
        )
    return quantiles


@lru_cache(maxsize=64)
def _log_quantiles(n: int, alpha: float, beta: float, device: torch.device) -> Float[Tensor, "n 1"]:
    # Once per batch size and device: the authors' code computes them on the host in each step, which waits for the GPU.
    with torch.inference_mode(False):
        values = np.log(beta_quantiles(n, alpha, beta) + EPS)
        return torch.tensor(values, dtype=torch.float32, device=device)[:, None]


def occurrence(
    parts: Float[Tensor, "b p u v"], kernel: Float[Tensor, "s s"], pad: bool = False
) -> Float[Tensor, "b p"]:
    """Maximum of each blurred map. The blur is float64: a GPU's float32 convolution keeps 10 bits by default (TF32).

    Without padding (the authors' code) the outermost two cells count only through their neighbours' blur: a part that
    lives in a corner does not occur.

    Raises:
        ValueError: if the map is smaller than the kernel and not padded.
    """
    size = len(kernel)
    if not pad and min(parts.shape[-2:]) < size:
        raise ValueError(
            f"the assignment map has {tuple(parts.shape[-2:])} cells, fewer than the {size} x {size} blur: "
            "use larger images, a smaller stride, or prior_pad: true"
        )
    maps = parts.double().flatten(0, 1)[:, None]
    blurred = nn.functional.conv2d(maps, kernel.double()[None, None], padding=size // 2 if pad else 0)
    return blurred.flatten(1).amax(1).view(parts.shape[:2]).to(parts.dtype)


class OccurrencePrior(nn.Module):
    """The distance of the parts' occurrences from a Beta prior, over the batch of all processes.

    Args:
        alpha: of the Beta prior. With alpha = 1 and beta = 1e-3 every part is wanted in every image; with small alpha
            and beta a part is wanted in a share alpha / (alpha + beta) of the images.
        beta: of the Beta prior.
        pad: blur with zero padding, so that parts at the border count.
    """

    kernel: Tensor

    def __init__(self, alpha: float = 1.0, beta: float = 1e-3, pad: bool = False) -> None:
        super().__init__()
        beta_quantiles(8, alpha, beta)  # refuse impossible values before any data is read
        self.alpha, self.beta, self.pad = alpha, beta, pad
        self.register_buffer("kernel", blur_kernel(), persistent=False)

    def forward(self, parts: Float[Tensor, "b p u v"]) -> Float[Tensor, ""]:
        """Mean over parts and quantiles of the distance; 0 where occurrences equal the prior's quantiles."""
        with torch.autocast(parts.device.type, enabled=False):
            tau = gather(occurrence(parts.float(), self.kernel, self.pad))
            return self.distance(tau)

    def distance(self, tau: Float[Tensor, "n p"]) -> Float[Tensor, ""]:
        """Wasserstein distance between each column of occurrences and the prior, mean over columns, in log space."""
        ranked = tau.sort(0).values
        target = _log_quantiles(len(tau), self.alpha, self.beta, tau.device)
        return (torch.log(ranked + EPS) - target).abs().mean()
