"""From a map to a vector: maximum over cells, batch norm, a linear layer, batch norm, ELU."""

from jaxtyping import Float
from torch import Tensor, nn


class Embedding(nn.Module):
    """The classifier of the mutual-channel papers without its last layer.

    The map is pooled to ``cells`` rows and columns by its maxima: 7 is the 2 x 2 pool of VGG on 224 pixels, whatever
    the size of the image; 1 is global maximum pooling.

    Args:
        channels: of the map.
        cells: rows and columns after pooling.
        features: of the vector; 512 in the authors' code.
    """

    def __init__(self, channels: int, cells: int = 1, features: int = 512) -> None:
        super().__init__()
        if cells < 1 or features < 1:
            raise ValueError(f"cells={cells} and features={features} must be 1 or more")
        flat = channels * cells * cells
        self.pool = nn.AdaptiveMaxPool2d(cells)
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.BatchNorm1d(flat),
            nn.Linear(flat, features, bias=False),  # the norm that follows subtracts any bias
            nn.BatchNorm1d(features),
            nn.ELU(),
        )

    def forward(self, maps: Float[Tensor, "b n u v"]) -> Float[Tensor, "b d"]:
        """The features that a head classifies."""
        pooled: Tensor = self.layers(self.pool(maps))
        return pooled
