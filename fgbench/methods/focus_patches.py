"""Where Focus Longer looks more closely: boxes of an image, the most promising first, found without its label.

``protopnet`` is the thesis' choice (Shroff, 2020, after Chen et al., NeurIPS 2019): a ProtoPNet is trained first
(``METHOD=protopnet``), written with ``fgbench weights --whole``, and named by ``patch_weights``; the phase ``prepare``
then stores its boxes for every image, whatever the split, in pixels of the original file, so that they also fit a view
that crops or mirrors. ``official`` looks up the boxes that the authors published for CUB
(``tools/official_patches.py`` writes the file). The others need nothing: ``cam`` asks the global stream, ``grid`` and
``random`` nobody.
"""

from collections.abc import Callable
from typing import Literal, cast

import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor, nn

from fgbench.backbones import Backbone
from fgbench.layers import boxes as boxed
from fgbench.methods.preparation import Preparation
from fgbench.methods.prototype_patches import PatchExtractor, load_protopnet
from fgbench.pretrained import WeightsError, read_weights, weight_tag
from fgbench.types import Batch

Kind = Literal["cam", "grid", "random", "protopnet", "official"]
VERSION = 1  # of stored boxes: raise it when the code that makes them changes (resizing, percentile, order)
LEAST = 0.25  # where a random crop leaves a smaller share of a stored box, the whole input is the patch
NEEDED = {
    "protopnet": "train METHOD=protopnet on this dataset and write it: fgbench weights --whole <run folder> <file>",
    "official": "write it from the authors' arrays: python tools/official_patches.py --help",
}


class Extractor(nn.Module):
    """Boxes of images.

    Args:
        kind: who finds them.
        count: of an image; ``cam`` gives one for each class at most.
        weights: of ``protopnet`` and ``official``: the path of their file.
        size: of ``protopnet``: pixels of the squares that its network sees; None for images as they come.
        backbone: whose normalisation the images have.

    Raises:
        ValueError: there are weights that nobody uses.
    """

    grid: Tensor
    published: Tensor | None

    def __init__(self, kind: Kind, count: int, weights: str | None, size: int | None, backbone: Backbone) -> None:
        super().__init__()
        if weights is not None and kind not in NEEDED:
            raise ValueError(f"patch_weights is {weights}, but patches {kind} need no file: set it to null")
        self.kind, self.count, self.weights, self.size = kind, count, weights, size
        self.mean, self.std = backbone.mean, backbone.std
        self._network: list[PatchExtractor] = []  # not a part of the method: neither trained nor in its checkpoints
        self.register_buffer("grid", boxed.grid_fractions(count)[None], persistent=False)
        read = kind == "official" and weights is not None
        self.register_buffer("published", read_boxes(str(weights), count) if read else None, persistent=False)

    def preparation(self) -> Preparation | None:
        """The boxes of a ProtoPNet, stored for all images."""
        if self.kind != "protopnet":
            self._check()
            return None
        key = {"weights": weight_tag(self._check()), "count": self.count, "size": self.size, "version": VERSION}
        key |= {"mean": list(self.mean), "std": list(self.std)}
        advice = "take patches that are not stored (--method.init_args.patches cam)"
        return Preparation("patches", self.network(), key, dtype="float32", boxes=True, advice=advice)

    def network(self) -> PatchExtractor:
        """The frozen ProtoPNet, read at its first use."""
        if not self._network:
            found = load_protopnet(str(self._check()))
            self._network.append(PatchExtractor(found, self.count, size=self.size, mean=self.mean, std=self.std))
        return self._network[0]

    def _check(self) -> str | None:
        check_file(self.kind, self.weights)
        return self.weights

    @torch.no_grad()
    def forward(
        self, image: Float[Tensor, "b 3 h w"], batch: Batch | None, maps: Callable[[int], Float[Tensor, "b n u v"]]
    ) -> Float32[Tensor, "b n 4"]:
        """Boxes in pixels of the images.

        Args:
            image: normalised.
            batch: what else is known of them, of which the label is not used; None if nothing is. Boxes of images of no
                dataset are found on the spot (``official``: as ``cam``).
            maps: gives activation maps of so many classes, the most likely first.
        """
        height, width = image.shape[2:]
        if self.kind == "grid":
            return boxed.in_pixels(self.grid, height, width).expand(len(image), -1, -1)
        if self.kind == "random":
            return boxed.in_pixels(boxed.random_fractions(numbers(image, batch), self.count), height, width)
        if self.kind == "protopnet":
            if batch is not None and batch.prepared.shape[1:] == (self.count, 4):
                return boxed.within(boxed.to_input(batch.prepared, batch.frame), height, width, LEAST)
            with torch.autocast(image.device.type, enabled=False):  # as rows are prepared
                found: Tensor = self.network().to(image.device)(image.float())
            return found
        if self.kind == "official" and batch is not None and not of_no_dataset(batch):
            self._check()
            published = cast(Tensor, self.published)[batch.image_id]
            return boxed.within(boxed.to_input(published, batch.frame), height, width, LEAST)
        return boxed.in_pixels(boxed.activation_fractions(maps(self.count)), height, width)


def check_file(kind: Kind, weights: str | None) -> None:
    """Refuse an extractor without its file.

    Raises:
        ValueError: says how the file is made.
    """
    if kind in NEEDED and weights is None:
        raise ValueError(f"patches {kind} need patch_weights: {NEEDED[kind]}")


def numbers(image: Tensor, batch: Batch | None) -> Int[Tensor, " b"]:
    """The images' numbers in their dataset; 0 where nothing is known of them."""
    return torch.zeros(len(image), dtype=torch.int64, device=image.device) if batch is None else batch.image_id


def of_no_dataset(batch: Batch) -> bool:
    """Whether it is a person's picture; those come one at a time, so that no larger batch waits for the device."""
    return len(batch.image_id) == 1 and int(batch.image_id) < 0


def one_of(boxes: Float[Tensor, "b n 4"], place: Float[Tensor, " b"]) -> Float[Tensor, "b 1 4"]:
    """The box of each image at a place in [0, 1) of its list."""
    index = (place * boxes.shape[1]).long().clamp(max=boxes.shape[1] - 1)
    return boxes.gather(1, index[:, None, None].expand(-1, 1, 4))


def read_boxes(path: str, count: int) -> Float32[Tensor, "images n 4"]:
    """The first boxes of each image of a dataset, in pixels of the original files, by the images' numbers.

    Raises:
        WeightsError: the file holds something else, or fewer boxes.
    """
    boxes = read_weights(path)[0].get("boxes")
    if boxes is None or boxes.ndim != 3 or boxes.shape[1] < count or boxes.shape[2] != 4:
        raise WeightsError(
            f"{path}: holds no {count} boxes for each image (a tensor `boxes`, images n 4); {NEEDED['official']}"
        )
    return boxes[:, :count].float()
