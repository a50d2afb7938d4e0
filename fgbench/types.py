"""What the rooms hand each other, and the names of the axes.

Axes, in annotations and comments alike: ``b`` images of a batch, ``h w`` pixels, ``k`` classes,
``a`` attributes, ``p`` parts, ``u v`` rows and columns of a feature map, ``d`` features, ``l`` landmarks, ``n`` boxes.

Coordinates are ``x y`` and continuous: pixel ``i`` covers the interval ``[i, i + 1]`` and its centre is ``i + 0.5``. An
image of width ``w`` therefore spans ``[0, w]``; resizing multiplies coordinates, a horizontal flip maps ``x`` to
``w - x``. A cell ``(r, c)`` of a ``u v`` map over an ``h w`` image has its centre at
``((c + 0.5) * w / v, (r + 0.5) * h / u)``.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Target = Literal["class", "attributes"]
"""What a dataset asks for: one of ``k`` exclusive classes, or ``a`` independent yes/no attributes."""

NOTHING = torch.empty(0)


class Batch(NamedTuple):
    """Images and everything that is known about them; a tuple, so it collates, pins and moves without code of ours.

    Attributes:
        image: ``b 3 h w`` RGB. uint8 until it is on the device, where the method turns it into float32, normalised as
            its backbone's weights ask for (a quarter of the bytes travel, and the data does not depend on the weights).
        target: ``b`` class index (int64); or ``b a`` attributes, 0 or 1 (float32).
        image_id: ``b`` int64, position in the dataset's published order: every per-image result is keyed by it; -1 of a
            picture of no dataset, which comes alone.
        boxes: ``b n 4`` float32, ``x0 y0 x1 y1`` in input pixels, not clipped to the input; zeros where invalid.
        box_valid: ``b n`` bool.
        landmarks: ``b l 2`` float32, ``x y`` in input pixels; zeros where not visible.
        visible: ``b l`` bool. A landmark outside of the input (cropped away) is not visible.
        frame: ``b 6`` float64 ``(a, b, c, d, e, f)``, the affine map from input pixels to pixels of the original file:
            ``x_original = a x + b y + c`` and ``y_original = d x + e y + f``.
        prepared: ``b ...``, what a frozen network said of each image before training (``methods.Preparation``);
            ``b 0`` where there is none.
        mask: ``b h w`` uint8, the true part that each input pixel shows, from 1 (0: none), in tests on datasets that
            have masks of parts; ``b 0`` elsewhere.
    """

    image: Tensor
    target: Tensor
    image_id: Tensor
    boxes: Tensor
    box_valid: Tensor
    landmarks: Tensor
    visible: Tensor
    frame: Tensor
    prepared: Tensor = NOTHING
    mask: Tensor = NOTHING

    @property
    def aspect(self) -> Tensor:
        """``b``: height over width of an input pixel in the original file; 1 unless the view squashes images."""
        return (self.frame[..., 4] / self.frame[..., 0]).abs()


class Output(NamedTuple):
    """What a method says about a batch.

    Attributes:
        logits: ``b k`` (or ``b a``) float32.
        saliency: ``b u v`` float32, non-negative: the evidence for the predicted class; None where there is none.
        parts: ``b p u v`` float32, non-negative: soft assignment or attention per part; None where there is none.
        scores: ``b t k`` float32: what the channels that belong to a class say of it, at each of ``t`` stages of the
            network, the last one first; None where channels belong to no class.
        finer: ``b p s u2 v2`` float32, non-negative: for each part the maps of an earlier stage that were searched
            within it; zero where a part has fewer than ``s``; None where there is none.
        streams: ``b s k`` (or ``b s a``) float32: further logits, named by ``Method.stream_names``, whose accuracy is
            reported beside that of ``logits``: of streams that are fused, or of ablations that need no other training;
            None where there are none.
        steps: ``b t u v`` float32, non-negative: the evidence of each of ``t`` steps that a method takes, one after the
            other, over one and the same frame (which need not be the whole image; of several frames the first); None
            where it looks once.
        step_weights: ``b t`` float32: what each of the steps counts in the decision, the mean of several frames; None
            without ``steps``.
        bound_parts: ``b m u v`` float32, non-negative: the parts of the predicted class alone, where a method has such
            beside ``parts``, which all classes share; None where there are none.
    """

    logits: Tensor
    saliency: Tensor | None = None
    parts: Tensor | None = None
    scores: Tensor | None = None
    finer: Tensor | None = None
    streams: Tensor | None = None
    steps: Tensor | None = None
    step_weights: Tensor | None = None
    bound_parts: Tensor | None = None
