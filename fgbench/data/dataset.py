"""One image of a listing, seen through a view, with everything that is known about it."""

import os
from collections.abc import Sequence
from copy import copy
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy import ndarray
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from fgbench.data.augment import (
    Augment,
    boxes_to_input,
    inside,
    is_mirrored,
    mask_to_input,
    mirror_order,
    points_to_input,
)
from fgbench.data.cache import PixelCache
from fgbench.data.device import pack_choices
from fgbench.data.images import read_image, read_mask
from fgbench.data.listing import Listing
from fgbench.data.resident import Rows
from fgbench.data.samplers import Key
from fgbench.data.view import View
from fgbench.types import NOTHING, Batch


class ImageDataset(Dataset[Batch]):
    """Items are ``Batch`` tuples without the batch axis; the key is a row of the listing, or ``(row, draw)``.

    Args:
        listing: all images of the dataset, of all splits, with their sizes.
        view: what is to be seen of them.
        seed: with image and draw it decides the random choices of the view.
        cache: keeps resized images in memory; None reads and resizes each time.
        bottom: rows of pixels at the bottom of each file that are no part of the image.
        known_damaged: names of official images that end too early; they are used as far as they go.
        places: for each image its place on the device, where the pixels are there already (see ``data/device.py``): an
            item's ``image`` is then what chance decided for it.
    """

    def __init__(
        self,
        listing: Listing,
        view: View,
        seed: int = 0,
        cache: PixelCache | None = None,
        bottom: int = 0,
        known_damaged: frozenset[str] = frozenset(),
        places: Int[ndarray, " n"] | None = None,
    ) -> None:
        if listing.sizes is None:
            raise ValueError("the listing has no sizes: take the datamodule's listing, not its reader's")
        self.listing, self.view, self.seed, self.cache, self.bottom = listing, view, seed, cache, bottom
        self._torn, self._places = known_damaged, places
        self._sizes, self._stored = listing.sizes, listing.stored_sizes()
        self._folder, self._augment = os.fspath(listing.folder), Augment(view)
        self._mirror = np.array(mirror_order(listing.landmark_names), np.int64)
        self._rows: Rows | None = None
        self._replaces = False
        self._masks: Path | None = None

    def __len__(self) -> int:
        return len(self.listing.names)

    def with_rows(self, rows: Rows, replaces_image: bool) -> "ImageDataset":
        """The same images, each with what a frozen network said of it; where that replaces it, no file is read."""
        found = copy(self)
        found._rows, found._replaces = rows, replaces_image
        return found

    def with_masks(self, folder: Path) -> "ImageDataset":
        """The same images, each with its true parts, from a file of the image's name in this folder."""
        found = copy(self)
        found._masks = folder
        return found

    def pixels(self, row: int) -> UInt8[ndarray, "h w 3"]:
        """The image as far as nothing is random in it: decoded and resized. Not to be written to.

        Raises:
            ValueError: the file is damaged, too small for the view, or another image than the one that was listed.
        """
        image = self.cache.get(row) if self.cache else None
        if image is None:
            name = self.listing.name(row)
            path = f"{self._folder}/{name}"
            image = read_image(path, torn=name in self._torn)
            image = image[: len(image) - self.bottom]
            if image.shape[:2] != tuple(self._stored[row].tolist()):
                height, width = self._stored[row].tolist()
                raise ValueError(
                    f"{path}: {image.shape[0]} x {image.shape[1]} (height x width) pixels where {height} x {width} are "
                    "listed: restore this file from the archive, or make the index again with fgbench data prepare"
                )
            try:
                image = self._augment.resize(image)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
            if self.cache:
                self.cache.put(row, image)
        return image

    def __getitem__(self, key: Key | int) -> Batch:
        row, draw = (key, 0) if isinstance(key, int) else key
        listing, image_id = self.listing, int(self.listing.image_id[row])
        try:
            image, frame, shape = self._seen(row, (self.seed, draw, image_id))
        except ValueError as error:
            message = str(error)
            raise ValueError(message if message.startswith(self._folder) else f"{listing.path(row)}: {error}") from None
        boxes, box_valid = np.zeros((listing.most_boxes, 4), np.float32), np.zeros(listing.most_boxes, np.bool_)
        if listing.most_boxes:
            found = boxes_to_input(frame, listing.boxes_of(row))
            boxes[: len(found)], box_valid[: len(found)] = found, True
        landmarks, visible = listing.landmarks[row], listing.visible[row]
        if len(visible):
            landmarks = points_to_input(frame, landmarks)
            visible = visible & inside(landmarks, *shape)
            landmarks = landmarks * visible[:, None]
            if is_mirrored(frame):
                landmarks, visible = landmarks[self._mirror], visible[self._mirror]
        target = listing.target[row]
        prepared = NOTHING if self._rows is None else torch.from_numpy(np.array(self._rows.read(row)))
        return Batch(
            image=image,
            target=torch.from_numpy(target.astype(np.float32) if target.ndim else np.asarray(target)),
            image_id=torch.from_numpy(np.asarray(image_id)),
            boxes=torch.from_numpy(boxes),
            box_valid=torch.from_numpy(box_valid),
            landmarks=torch.from_numpy(landmarks.astype(np.float32)),
            visible=torch.from_numpy(visible),
            frame=torch.from_numpy(frame),
            prepared=prepared,
            mask=NOTHING if self._masks is None else torch.from_numpy(self._mask(row, frame, shape)),
        )

    def _mask(self, row: int, frame: Float[ndarray, " 6"], shape: tuple[int, int]) -> UInt8[ndarray, "h w"]:
        """The true part at each pixel's centre; 0 outside of the original."""
        path = f"{self._masks}/{self.listing.name(row)}"
        mask = read_mask(path)
        if mask.shape != tuple(self._sizes[row].tolist()):
            raise ValueError(f"{path}: a mask of {mask.shape} (height x width) pixels, not of its image's size")
        return mask_to_input(frame, mask, *shape)

    def _seen(self, row: int, key: tuple[int, ...]) -> tuple[Tensor, Float[ndarray, " 6"], tuple[int, int]]:
        """The image (or what chance decided for it), the frame, and the input's height and width."""
        height, width = self._sizes[row].tolist()
        if self._places is not None or self._replaces:
            resized, shape = (find(*self._stored[row].tolist()) for find in (self.view.resized, self.view.shape))
            chosen = self._augment.choose(resized, key)
            frame = chosen.frame(resized, (height, width))
            if self._places is None or self._replaces:  # a shape without pixels
                return torch.zeros(1, dtype=torch.uint8).expand(3, *shape), frame, shape
            return pack_choices(int(self._places[row]), chosen), frame, shape
        image, frame = self._augment.change(self.pixels(row), (height, width), key)
        kept = torch.from_numpy(image.copy() if self.cache else np.ascontiguousarray(image))
        return kept.permute(2, 0, 1), frame, image.shape[:2]


def collate(items: Sequence[Batch]) -> Batch:
    """Items of one shape to a batch; images in channels-last memory, as decoders give them and networks want them."""
    first = items[0].image
    if not any(first.stride()):  # replaced by prepared rows: a shape without pixels stays one
        blank: Batch = default_collate([item._replace(image=NOTHING) for item in items])
        return blank._replace(image=first.expand(len(items), *first.shape))
    if items[0].image.ndim == 1:  # choices, of pixels that are on the device
        chosen: Batch = default_collate(list(items))
        return chosen
    batch: Batch = default_collate([item._replace(image=item.image.permute(1, 2, 0)) for item in items])
    return batch._replace(image=batch.image.permute(0, 3, 1, 2))
