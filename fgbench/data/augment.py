"""A view, carried out: albumentations for the pixels, one exact matrix for everything that has coordinates.

albumentations' own boxes and key points are not used: it flips key points as pixel indices (``w - 1 - x``) but resizes
them as continuous coordinates (``x * scale``), so that a point which is flipped and resized ends up to a pixel off. Its
``SmallestMaxSize`` is not used either: it cuts ``height * (size / height)`` to an integer, which can be ``size - 1``.
Here each transform that was applied gives its affine map (``fgbench.types`` says what a coordinate is), their product
is the frame, and boxes and landmarks go through it. This is the only importer of albumentations.
"""

import functools
import hashlib
import math
import os
import random
import struct
from typing import Any, NamedTuple

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # at import it would ask the network for its newest version

import albumentations as A  # noqa: N812 (its documentation's name)
import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray

from fgbench.data.view import View

Affine = tuple[float, float, float, float, float, float]
_STAY: Affine = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
WHITE = 255  # of what a turn uncovers; the authors' code of TASN

# Of the colours of ImageNet's pixels in units of bytes: standard deviations, and directions as columns; rows R G B.
# Krizhevsky et al., NeurIPS 2012, computed such; the values are those that MXNet and Torch publish.
SPREAD = np.array([55.46, 4.794, 1.148])
DIRECTIONS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])


class Colours(NamedTuple):
    """Changes of an image's colours.

    Attributes:
        factors: which of ``ColorJitter``'s changes (0 brightness, 1 contrast, 2 saturation), in order, and its factor.
        shift: added to R, G and B of every pixel after that.
    """

    factors: list[tuple[int, float]]
    shift: Float[ndarray, " 3"]


class Chosen(NamedTuple):
    """What chance decided for one image.

    Attributes:
        steps: transforms that apply, with their parameters, in order.
        moves: for the border and each step, the affine map from pixels after it to pixels before it.
        brightness: factor of the pixel values, 1 for none.
        colours: in place of the brightness, where the view changes more than that.
    """

    steps: list[tuple[A.BasicTransform, dict[str, Any]]]
    moves: list[Affine]
    brightness: float
    colours: "Colours | None" = None

    def frame(self, resized: tuple[int, int], original: tuple[int, int]) -> Float[ndarray, " 6"]:
        """From pixels of the network's input to those of the original; both sizes are height and width."""
        frame = _STAY
        if original != resized:
            frame = (original[1] / resized[1], 0.0, 0.0, 0.0, original[0] / resized[0], 0.0)
        for move in self.moves:
            frame = _then(frame, move)
        return np.array(frame)

    def move(self) -> Affine:
        """From pixels of the network's input to those of the resized image: whole steps, and a mirror or none."""
        return functools.reduce(_then, self.moves, _STAY)


class Augment:
    """Shows images as a view wants them.

    The random choices are a function of the key alone, so that an item is the same in any worker process, with any
    number of processes, and after any resume.

    albumentations' transforms are asked for their choices and for the pixels one by one, not through ``Compose`` or
    ``__call__``, whose bookkeeping for masks, volumes and replays costs more than a crop does.

    Example:
        >>> image = np.zeros((375, 500, 3), np.uint8)
        >>> pixels, frame = Augment(View(resize="short", size=448, crop="centre", crop_size=448))(image)
        >>> pixels.shape, points_to_original(frame, np.array([[0.0, 0.0]])).round(2).tolist()
        ((448, 448, 3), [[61.98, 0.0]])
    """

    def __init__(self, view: View) -> None:
        self.view = view
        self._resize: dict[tuple[int, int], A.Resize] = {}  # constructing one costs more than resizing
        self._cut: dict[tuple[int, int, int, int], A.Crop] = {}
        self._transforms: list[A.BasicTransform] = []
        if view.rotate:
            self._transforms.append(_Turn(view.rotate, border_mode=cv2.BORDER_CONSTANT, fill=WHITE, p=1))
        if view.crop == "random":
            self._transforms.append(A.RandomCrop(view.crop_size, view.crop_size, p=1))
        elif view.crop == "centre":
            self._transforms.append(A.CenterCrop(view.crop_size, view.crop_size, p=1))
        self._flips = [A.HorizontalFlip(p=view.flip)] if view.flip else []
        factor = (1 - view.brightness, 1 + view.brightness)
        self._jitter = A.ColorJitter(factor, p=1)
        self._ranges = (view.brightness, view.contrast, view.saturation)
        self._coloured = max(view.contrast, view.saturation, view.lighting) > 0

    def __call__(
        self, image: UInt8[ndarray, "h w 3"], key: tuple[int, ...] = (0,)
    ) -> tuple[UInt8[ndarray, "h2 w2 3"], Float[ndarray, " 6"]]:
        """The network's input, and the affine map from its pixels to those of ``image``.

        Raises:
            ValueError: the image is smaller than the crop.
        """
        return self.change(self.resize(image), image.shape[:2], key)

    def resize(self, image: UInt8[ndarray, "h w 3"]) -> UInt8[ndarray, "h2 w2 3"]:
        """The part without random choices; the image itself where nothing is to be done.

        Raises:
            ValueError: the image is smaller than the crop.
        """
        height, width = image.shape[:2]
        target = self.view.resized(height, width)
        if self.view.crop != "none" and min(self.view.padded(height, width)) < self.view.crop_size:
            raise ValueError(
                f"the image is {height} x {width} (height x width) pixels, smaller than the view's crop of "
                f"{self.view.crop_size}: add resize: short with size: {self.view.crop_size} or more to the view"
            )
        if target == (height, width):
            return image
        resized: ndarray = self._resizer(*target).apply(image)
        return resized

    def change(
        self, image: UInt8[ndarray, "h w 3"], original: tuple[int, int], key: tuple[int, ...]
    ) -> tuple[UInt8[ndarray, "h2 w2 3"], Float[ndarray, " 6"]]:
        """The part after the resize.

        Args:
            image: what ``resize`` gave; never written to.
            original: height and width of the image whose pixels the returned affine map shall lead to.
            key: of the random choices.
        """
        chosen = self.choose(image.shape[:2], key)
        frame = chosen.frame(image.shape[:2], original)
        if pad := self.view.pad:
            image = cv2.copyMakeBorder(image, pad, pad, pad, pad, cv2.BORDER_CONSTANT, value=(0, 0, 0))
        for transform, params in chosen.steps:
            image = transform.apply(image, **params)
        if chosen.brightness != 1:
            # only this of the four that ColorJitter would draw, order and check
            image = self._jitter.transforms[0](image, chosen.brightness)
        return image if chosen.colours is None else self._colour(image, chosen.colours), frame

    def choose(self, shape: tuple[int, int], key: tuple[int, ...]) -> "Chosen":
        """The random choices for a resized image of this height and width; needs no pixels.

        Raises:
            ValueError: the image has nothing left when cut to the view's multiple.
        """
        rng = _random(key) if self.view.is_random else None
        pad, steps, moves = self.view.pad, [], []
        height, width = shape[0] + 2 * pad, shape[1] + 2 * pad
        if pad:
            moves.append((1.0, 0.0, float(-pad), 0.0, 1.0, float(-pad)))
        cropped = (height, width) if self.view.crop == "none" else (self.view.crop_size, self.view.crop_size)
        for transform in (*self._transforms, *self._cutter(*cropped), *self._flips):
            if rng is not None:
                # these transforms draw from py_random only; the other generator would cost 20 us an item
                transform.py_random = rng
            if not transform.should_apply():
                continue
            params = {**transform.get_params(), "shape": (height, width, 3)}
            params |= transform.get_params_dependent_on_data(params, {})
            steps.append((transform, params))
            moves.append(_matrix(transform, params, params["shape"]))
            if "crop_coords" in params:
                x0, y0, x1, y1 = params["crop_coords"]
                height, width = y1 - y0, x1 - x0
        if self._coloured and rng is not None:
            return Chosen(steps, moves, 1.0, self._colours(rng))
        # nothing is drawn after the brightness
        drawn = rng.uniform(*self._jitter.brightness) if self.view.brightness and rng is not None else 1.0
        return Chosen(steps, moves, drawn)

    def _colours(self, rng: random.Random) -> Colours:
        factors = [(i, rng.uniform(1 - most, 1 + most)) for i, most in enumerate(self._ranges) if most]
        rng.shuffle(factors)
        drawn = np.array([rng.gauss(0, self.view.lighting) for _ in SPREAD]) if self.view.lighting else np.zeros(3)
        return Colours(factors, DIRECTIONS @ (drawn * SPREAD))

    def _colour(self, image: UInt8[ndarray, "h w 3"], colours: Colours) -> UInt8[ndarray, "h w 3"]:
        for number, factor in colours.factors:
            image = self._jitter.transforms[number](image, factor)
        if colours.shift.any():
            values = np.arange(256)[:, None] + colours.shift  # a table of 256 bytes per channel, rounded and cut
            image = cv2.LUT(image, values.round().clip(0, 255).astype(np.uint8)[None])
        return image

    def _resizer(self, height: int, width: int) -> A.Resize:
        if (height, width) not in self._resize:
            self._resize[height, width] = A.Resize(
                height, width, interpolation=cv2.INTER_LINEAR, area_for_downscale="image", p=1
            )
        return self._resize[height, width]

    def _cutter(self, height: int, width: int) -> list[A.Crop]:
        over_y, over_x = height % self.view.multiple, width % self.view.multiple
        if not over_y and not over_x:
            return []
        if height < self.view.multiple or width < self.view.multiple:
            raise ValueError(
                f"an image of {height} x {width} pixels has nothing left when cut to a multiple of "
                f"{self.view.multiple}: raise the view's size"
            )
        key = (over_x // 2, over_y // 2, width - over_x + over_x // 2, height - over_y + over_y // 2)
        if key not in self._cut:
            self._cut[key] = A.Crop(*key, p=1)
        return [self._cut[key]]


def _random(key: tuple[int, ...]) -> random.Random:
    digest = hashlib.blake2b(struct.pack(f"<{len(key)}q", *key), digest_size=8).digest()
    return random.Random(int.from_bytes(digest, "little"))


class _Turn(A.Rotate):  # type: ignore[misc]  # albumentations has no types
    """A turn whose angle is drawn and whose pixels are read, without the maps of boxes and key points."""

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """The matrix from pixel indices before to those after, about the centre of the image."""
        height, width = params["shape"][:2]
        turn = math.radians(self.py_random.uniform(*self.limit))
        cos, sin, x, y = math.cos(turn), math.sin(turn), (width - 1) / 2, (height - 1) / 2
        matrix = np.array([[cos, sin, x - cos * x - sin * y], [-sin, cos, y + sin * x - cos * y], [0, 0, 1]])
        return {"matrix": matrix, "turn": turn, "x_min": 0, "x_max": width, "y_min": 0, "y_max": height}


def _matrix(transform: A.BasicTransform, params: dict[str, Any], before: tuple[int, ...]) -> Affine:
    """The affine map from pixels after one transform to pixels before it."""
    if isinstance(transform, _Turn):  # the inverse of its matrix; the centre, as a point, is at half of the sides
        cos, sin, x, y = math.cos(params["turn"]), math.sin(params["turn"]), before[1] / 2, before[0] / 2
        return cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y
    if isinstance(transform, A.HorizontalFlip):
        return -1.0, 0.0, float(before[1]), 0.0, 1.0, 0.0
    if isinstance(transform, A.RandomCrop | A.CenterCrop | A.Crop):
        x0, y0 = params["crop_coords"][:2]
        return 1.0, 0.0, float(x0), 0.0, 1.0, float(y0)
    raise TypeError(
        f"{type(transform).__name__} moves pixels in a way that augment.py does not know: add it to _matrix"
    )


def _then(outer: Affine, inner: Affine) -> Affine:
    """The affine map ``x -> outer(inner(x))``."""
    a, b, c, d, e, f = outer
    p, q, r, s, t, u = inner
    return a * p + b * s, a * q + b * t, a * r + b * u + c, d * p + e * s, d * q + e * t, d * r + e * u + f


def points_to_original(frame: Float[ndarray, " 6"], points: Float[ndarray, "*n 2"]) -> Float[ndarray, "*n 2"]:
    """Points of the input as points of the original image."""
    a, b, c, d, e, f = frame
    x, y = points[..., 0], points[..., 1]
    return np.stack([a * x + b * y + c, d * x + e * y + f], axis=-1)


def points_to_input(frame: Float[ndarray, " 6"], points: Float[ndarray, "*n 2"]) -> Float[ndarray, "*n 2"]:
    """Points of the original image as points of the input."""
    a, b, c, d, e, f = frame.tolist()
    det = a * e - b * d
    if b == d == 0:  # nothing is turned
        upright: ndarray = (points - (c, f)) * (e, a) / det
        return upright
    x, y = points[..., 0] - c, points[..., 1] - f
    found = np.empty_like(points)
    found[..., 0], found[..., 1] = (e * x - b * y) / det, (a * y - d * x) / det
    return found


def mask_to_input(
    frame: Float[ndarray, " 6"], mask: UInt8[ndarray, "h w"], height: int, width: int
) -> UInt8[ndarray, "h2 w2"]:
    """A mask of the original as a mask of the input: what each pixel's centre shows; 0 outside of the original."""
    rows, cols = np.mgrid[:height, :width] + 0.5
    points = np.floor(points_to_original(frame, np.stack([cols, rows], axis=-1))).astype(np.int64)
    x, y = points[..., 0], points[..., 1]
    there = (x >= 0) & (x < mask.shape[1]) & (y >= 0) & (y < mask.shape[0])
    found: ndarray = mask[y.clip(0, mask.shape[0] - 1), x.clip(0, mask.shape[1] - 1)] * there
    return found


def boxes_to_input(frame: Float[ndarray, " 6"], boxes: Float[ndarray, "n 4"]) -> Float[ndarray, "n 4"]:
    """Boxes ``x0 y0 x1 y1`` of the original image as boxes of the input, upright and ordered, not clipped."""
    corners = points_to_input(frame, boxes[:, [[0, 1], [2, 3], [0, 3], [2, 1]]])  # all four: an image may be turned
    return np.concatenate([corners.min(1), corners.max(1)], axis=-1)


def is_mirrored(frame: Float[ndarray, " 6"]) -> bool:
    """Whether left and right are exchanged between input and original."""
    return bool(frame[0] * frame[4] - frame[1] * frame[3] < 0)


def mirror_order(landmark_names: tuple[str, ...]) -> tuple[int, ...]:
    """For each landmark the one that takes its place in a mirror: left parts become right parts.

    >>> mirror_order(("beak", "left eye", "right eye"))
    (0, 2, 1)
    """
    swapped = {"left": "right", "right": "left"}
    place = {name: i for i, name in enumerate(landmark_names)}
    order = []
    for i, name in enumerate(landmark_names):
        side, _, part = name.partition(" ")
        order.append(place.get(f"{swapped[side]} {part}", i) if side in swapped else i)
    return tuple(order)


def inside(points: Float[ndarray, "l 2"], height: int, width: int) -> Bool[ndarray, " l"]:
    """Which points lie on the input, its border included."""
    within = (points >= 0) & (points <= (width, height))
    found: ndarray = within[:, 0] & within[:, 1]
    return found
