"""How a protocol wants to see an image: resize, pad, crop, random changes. Words only; ``augment.py`` acts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Int
from numpy import ndarray

LATER = ("rotate", "contrast", "saturation", "lighting")  # keys that came when results with a digest were there


def written(view: Mapping[str, Any]) -> dict[str, Any]:
    """A view's values as a digest has them: a later key counts only where it asks for something.

    >>> written({"flip": 0.5, "rotate": 0.0}), written({"flip": 0.5, "rotate": 30.0})
    ({'flip': 0.5}, {'flip': 0.5, 'rotate': 30.0})
    """
    return {name: value for name, value in view.items() if value or name not in LATER}


@dataclass(frozen=True)
class View:
    """From an image file to the network's input, in this order: resize, pad, rotate, crop, cut, flip, colours.

    Colours: brightness, contrast and saturation, in random order if there is more than brightness, then lighting.

    Attributes:
        resize: ``short`` makes the shorter side ``size`` and keeps the aspect (the longer side is
            ``size * longer // shorter``, cut to an integer as torchvision does); ``squash`` makes both sides ``size``;
            ``none`` leaves the image as it is.
        size: pixels; unused with ``none``.
        crop: ``centre`` or ``random`` square of ``crop_size``; ``none`` keeps everything.
        crop_size: pixels; unused with ``none``.
        multiple: height and width are cut down to a multiple of this: of a border of ``n`` pixels, ``n // 2`` go at the
            top or left and the others at the bottom or right.
        flip: probability of a horizontal flip, which also exchanges left and right landmarks.
        brightness: pixel values are multiplied by a factor drawn from ``[1 - brightness, 1 + brightness]``.
        pad: pixels of black on every side of the resized image, before the crop.
        rotate: degrees; the resized and padded image is turned about its centre by an angle drawn from
            ``[-rotate, rotate]``, stays as large as it was, and is white where nothing was.
        contrast: distances from the image's mean grey are multiplied by a factor drawn like that of ``brightness``.
        saturation: distances from the pixel's own grey are multiplied by a factor drawn like that of ``brightness``.
        lighting: standard deviation of three factors of the principal components of ImageNet's colours, which are
            added to all pixels; 0.1 in Krizhevsky et al., NeurIPS 2012, section 4.1.
    """

    resize: Literal["short", "squash", "none"] = "none"
    size: int = 0
    crop: Literal["none", "centre", "random"] = "none"
    crop_size: int = 0
    multiple: int = 1
    flip: float = 0.0
    brightness: float = 0.0
    pad: int = 0
    rotate: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    lighting: float = 0.0

    def __post_init__(self) -> None:
        if self.resize != "none" and self.size < 1:
            raise ValueError(f"view: resize: {self.resize} needs size, the side's pixels, e.g. size: 448")
        if self.crop != "none" and self.crop_size < 1:
            raise ValueError(f"view: crop: {self.crop} needs crop_size, pixels, e.g. crop_size: 448")
        if self.pad < 0:
            raise ValueError(f"view: pad is {self.pad}, but must be 0 or more")
        if self.crop != "none" and self.resize != "none" and self.crop_size > self.size + 2 * self.pad:
            raise ValueError(
                f"view: a crop of {self.crop_size} does not fit into an image resized to {self.size} and padded by "
                f"{self.pad}: raise size or lower crop_size"
            )
        if self.multiple < 1:
            raise ValueError(f"view: multiple is {self.multiple}, but must be 1 or more")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"view: flip is {self.flip}, but is a probability from 0 to 1")
        for name in ("brightness", "contrast", "saturation", "lighting"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"view: {name} is {getattr(self, name)}, but must be in [0, 1)")
        if not 0 <= self.rotate <= 180:
            raise ValueError(f"view: rotate is {self.rotate}, but is the largest angle in degrees, from 0 to 180")

    @property
    def is_random(self) -> bool:
        """Whether two looks at one image can differ."""
        return self.crop == "random" or 0 < self.flip < 1 or self.brightness > 0 or self.is_lively

    @property
    def is_lively(self) -> bool:
        """Whether more is random than a crop, a flip and brightness: the turn, or other colours."""
        return max(self.rotate, self.contrast, self.saturation, self.lighting) > 0

    @property
    def fixes_shape(self) -> bool:
        """Whether all images come out in one shape, whatever their own."""
        return self.resize == "squash" or self.crop != "none"

    def padded(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after resize and pad."""
        height, width = self.resized(height, width)
        return height + 2 * self.pad, width + 2 * self.pad

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after the resize.

        >>> View(resize="short", size=448).resized(375, 500)
        (448, 597)
        """
        if self.resize == "squash":
            return self.size, self.size
        if self.resize == "short":
            short = min(height, width)
            return self.size * height // short, self.size * width // short
        return height, width

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the input that an image of this height and width becomes.

        >>> View(resize="short", size=448, multiple=16).shape(375, 500)
        (448, 592)
        """
        if self.crop == "none":
            height, width = self.padded(height, width)
        else:
            height = width = self.crop_size
        return height - height % self.multiple, width - width % self.multiple

    def resized_all(self, sizes: Int[ndarray, "n 2"]) -> Int[ndarray, "n 2"]:
        """``resized`` of many images at once."""
        sizes = sizes.astype(np.int64)
        if self.resize == "squash":
            return np.full_like(sizes, self.size)
        if self.resize == "short":
            scaled: ndarray = self.size * sizes // sizes.min(axis=1, keepdims=True)
            return scaled
        return sizes

    def shapes(self, sizes: Int[ndarray, "n 2"]) -> Int[ndarray, "n 2"]:
        """``shape`` of many images at once."""
        found = self.resized_all(sizes) + 2 * self.pad
        if self.crop != "none":
            found = np.full_like(found, self.crop_size)
        found -= found % self.multiple
        return found
