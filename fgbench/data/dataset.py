"""One image of a listing, seen through a view, with everything that is known about it."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import UInt8
from numpy import ndarray
from torch.utils.data import Dataset, default_collate

from fgbench.data.augment import Augment, boxes_to_input, inside, is_mirrored, mirror_order, points_to_input
from fgbench.data.images import read_image
from fgbench.data.listing import Listing
from fgbench.data.samplers import Key
from fgbench.data.view import View
from fgbench.types import Batch


class ImageDataset(Dataset[Batch]):
    """Items are ``Batch`` tuples without the batch axis; the key is a row of the listing, or ``(row, draw)``.

    Args:
        listing: all images of the dataset, of all splits.
        view: what is to be seen of them.
        seed: with image and draw it decides the random choices of the view.
        cache: ``ram`` keeps decoded files in memory (of each worker process): 3 bytes a pixel.
        bottom: rows of pixels at the bottom of each file that are no part of the image.
    """

    def __init__(
        self,
        listing: Listing,
        view: View,
        seed: int = 0,
        cache: Literal["none", "ram"] = "none",
        bottom: int = 0,
    ) -> None:
        self.listing, self.view, self.seed, self.cache, self.bottom = listing, view, seed, cache, bottom
        self._augment = Augment(view)
        self._mirror = np.array(mirror_order(listing.landmark_names), np.int64)
        self._kept: dict[int, ndarray] = {}

    def __len__(self) -> int:
        return len(self.listing.names)

    def pixels(self, row: int) -> UInt8[ndarray, "h w 3"]:
        """The decoded file, without what is no part of the image."""
        if row in self._kept:
            return self._kept[row]
        image = read_image(self.listing.path(row))
        image = image[: len(image) - self.bottom]
        if self.cache == "ram":
            self._kept[row] = image
        return image

    def __getitem__(self, key: Key | int) -> Batch:
        row, draw = (key, 0) if isinstance(key, int) else key
        listing, image_id = self.listing, int(self.listing.image_id[row])
        pixels = self.pixels(row)
        try:
            image, frame = self._augment(pixels, (self.seed, draw, image_id))
        except ValueError as error:
            raise ValueError(f"{listing.path(row)}: {error}") from None
        box_valid = np.arange(listing.most_boxes) < listing.box_start[row + 1] - listing.box_start[row]
        boxes = np.zeros((listing.most_boxes, 4))
        boxes[box_valid] = boxes_to_input(frame, listing.boxes_of(row))
        landmarks, visible = points_to_input(frame, listing.landmarks[row]), listing.visible[row]
        visible = visible & inside(landmarks, *image.shape[:2])
        landmarks = landmarks * visible[:, None]
        if is_mirrored(frame):
            landmarks, visible = landmarks[self._mirror], visible[self._mirror]
        target = listing.target[row]
        return Batch(
            image=torch.from_numpy(image).permute(2, 0, 1).contiguous(),
            target=torch.from_numpy(target.astype(np.float32)) if target.ndim else torch.tensor(int(target)),
            image_id=torch.tensor(image_id),
            boxes=torch.from_numpy(boxes.astype(np.float32)),
            box_valid=torch.from_numpy(box_valid),
            landmarks=torch.from_numpy(landmarks.astype(np.float32)),
            visible=torch.from_numpy(visible),
            frame=torch.from_numpy(frame),
        )


def collate(items: Sequence[Batch]) -> Batch:
    """Items of one shape to a batch."""
    batch: Batch = default_collate(list(items))
    return batch
