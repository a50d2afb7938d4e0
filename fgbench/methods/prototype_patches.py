"""Patches from a trained ProtoPNet: boxes around what an image's strongest prototypes are like. No label is seen.

Paper: Chen et al., NeurIPS 2019 (see ``methods.protopnet``), whose code draws a box around the pixels of an activation
map that reach its 95th percentile. That Focus Longer (Shroff et al., CVPR Workshops 2020) cuts its patches so is a
guess from the sizes of its published boxes: none is smaller than a twentieth of the image.
"""

import json

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fgbench.layers.patches import strongest_boxes
from fgbench.methods.base import Optim
from fgbench.methods.protopnet import ProtoPNet
from fgbench.pretrained import Colour, WeightsError, read_weights


class PatchExtractor(nn.Module):
    """A frozen ProtoPNet that says where an image is most like prototypes; it is never told a label.

    Args:
        method: trained.
        count: boxes for each image.
        size: pixels; images are resized to squares of it first, as the ProtoPNet was trained; None takes them as they
            come.
        mean: of the normalisation of the images that come in; None for that of the ProtoPNet's own backbone.
        std: like ``mean``.
    """

    _scale: Tensor
    _shift: Tensor

    def __init__(
        self,
        method: ProtoPNet,
        count: int = 10,
        size: int | None = None,
        mean: Colour | None = None,
        std: Colour | None = None,
    ) -> None:
        super().__init__()
        most = len(method.prototypes)
        if not 1 <= count <= most:
            raise ValueError(f"{count} patches are asked for, but there are 1 to {most} prototypes to choose from")
        self.method, self.count, self.size = method.eval().requires_grad_(False), count, size
        here_mean, here_std = torch.tensor(method.backbone.mean), torch.tensor(method.backbone.std)
        come_mean, come_std = torch.tensor(mean or method.backbone.mean), torch.tensor(std or method.backbone.std)
        self.register_buffer("_scale", (come_std / here_std).view(3, 1, 1))
        self.register_buffer("_shift", ((come_mean - here_mean) / here_std).view(3, 1, 1))

    def train(self, mode: bool = True) -> "PatchExtractor":
        """Always in evaluation mode: boxes do not depend on the batch."""
        super().train(False)
        return self

    @torch.no_grad()
    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n 4"]:
        """Boxes ``x0 y0 x1 y1`` in pixels of the images, the most activated first."""
        seen = image * self._scale + self._shift
        if self.size is not None:
            seen = nn.functional.interpolate(seen, (self.size, self.size), mode="bilinear", antialias=True)
        maps = self.method.similarities(seen)
        return strongest_boxes(maps, self.count, image.shape[2], image.shape[3])


def load_protopnet(path: str) -> ProtoPNet:
    """A trained ProtoPNet from a file that ``fgbench weights --whole RUN FILE`` wrote. Nothing in it is executed.

    Raises:
        WeightsError: the file is missing, damaged, or of something else; names it.
    """
    state, metadata = read_weights(path)
    if metadata.get("method") != "protopnet":
        raise WeightsError(
            f"{path}: not a trained ProtoPNet; write one with: fgbench weights --whole runs/<dataset>/<name> {path}"
        )
    try:
        arguments = json.loads(metadata["arguments"])
        colours = {name: tuple(arguments[name]) for name in ("mean", "std")}
        method = ProtoPNet(optim=Optim(), **{**arguments, **colours})
        method.load_state_dict(dict(state))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{path}: of another version of the suite ({error}); write it again") from None
    return method.eval().requires_grad_(False)
