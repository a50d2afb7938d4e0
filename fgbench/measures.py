"""Which metrics of evidence a dataset and a method allow, and why not the others: a value or a reason in each column.

May import: metrics. Must not import: methods, data, scoring. Reads and writes: nothing.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from fgbench.metrics.agreement import LandmarkAgreement
from fgbench.metrics.base import BenchMetric
from fgbench.metrics.consistency import PartConsistency
from fgbench.metrics.energy_pointing import EnergyPointing
from fgbench.metrics.masks import MaskedParts, MaskIoU

Need = Literal["parts", "saliency", "landmarks", "boxes", "masks", "bound", "agnostic", "classes"]
MISSING: dict[Need, str] = {
    "parts": "the method has no parts",
    "saliency": "the method has no saliency",
    "landmarks": "the dataset has no landmarks",
    "boxes": "the dataset has no boxes",
    "masks": "the dataset has no masks of parts",
    "classes": "the dataset asks for attributes, not for classes",
    "bound": "none of the method's part maps belongs to a class",
    "agnostic": "the method has parts that belong to classes only",
}


class Measure(NamedTuple):
    """A column beside the leaderboard's: what must be there, the better direction, whether it has to be asked for."""

    needs: tuple[Need, ...]
    better: Literal["higher", "lower", "near 0"] = "higher"
    probe: bool = False


MEASURES: dict[str, Measure] = {
    "nmi_landmarks": Measure(("landmarks", "parts")),
    "ari_landmarks": Measure(("landmarks", "parts")),
    "nmi_landmarks_foreground": Measure(("landmarks", "parts")),
    "ari_landmarks_foreground": Measure(("landmarks", "parts")),
    "part_consistency": Measure(("landmarks", "parts", "bound")),
    "part_consistency_agnostic": Measure(("landmarks", "parts", "agnostic")),
    "energy_pointing": Measure(("boxes", "saliency")),
    "nmi_pixels": Measure(("masks", "parts")),
    "ari_pixels": Measure(("masks", "parts")),
    "nmi_foreground": Measure(("masks", "parts")),
    "ari_foreground": Measure(("masks", "parts")),
    "part_iou": Measure(("masks", "parts")),
    "part_pointing": Measure(("masks", "parts")),
    "mask_iou": Measure(("masks", "saliency")),
    "energy_pointing_mask": Measure(("masks", "saliency")),
    "part_stability": Measure(("landmarks", "parts", "bound"), probe=True),
    "part_stability_agnostic": Measure(("landmarks", "parts", "agnostic"), probe=True),
    "insertion": Measure(("classes", "saliency"), probe=True),
    "deletion": Measure(("classes", "saliency"), "lower", probe=True),
    "sanity_rank": Measure(("saliency",), "near 0", probe=True),
    "sanity_ssim": Measure(("saliency",), "near 0", probe=True),
}
HEADLINE: dict[str, Measure] = {
    "landmark_error": Measure(("landmarks", "parts"), "lower"),
    "pointing_error": Measure(("boxes", "saliency"), "lower"),
}
"""The leaderboard's own columns of evidence; ``scoring`` measures them, and gives the same reasons."""
PLAIN = tuple(name for name, measure in MEASURES.items() if not measure.probe)
PROBED = tuple(name for name, measure in MEASURES.items() if measure.probe)


def reasons(
    facts: Any,
    parts: int | None,
    bound: bool,
    saliency: bool = True,
    columns: Mapping[str, Measure] = MEASURES,
    *,
    bound_parts: int = 0,
) -> dict[str, str]:
    """Why a column has no value, for those that have none.

    Args:
        facts: of the dataset, see ``Scoring``.
        parts: number of part maps, None without.
        bound: whether parts belong to classes.
        saliency: whether there is one; in a test that is seen at the first batch.
        columns: that are asked about.
        bound_parts: number of part maps that belong to a class, beside those that do not.
    """
    there: dict[Need, bool] = {
        "parts": bool(parts),
        "saliency": saliency,
        "landmarks": bool(facts.landmark_names),
        "boxes": facts.has_boxes,
        "masks": bool(facts.mask_names),
        "classes": facts.target == "class",
        "bound": bound or bound_parts > 0,
        "agnostic": not bound,
    }
    missing = {name: [need for need in measure.needs if not there[need]] for name, measure in columns.items()}
    return {name: MISSING[needs[0]] for name, needs in missing.items() if needs}


def evidence(
    facts: Any, parts: int | None, bound: bool, bound_parts: int = 0
) -> tuple[list[BenchMetric], dict[str, str]]:
    """The metrics of the plain test phase for parts and saliency, and reasons for the columns that they leave empty."""
    found: list[BenchMetric] = []
    landmarks, in_boxes = len(facts.landmark_names), facts.landmark_frame == "box"
    if landmarks and parts:
        points = {"image_centre": 1, **({"box_centre": 1} if facts.has_boxes else {}), "random_parts": parts}
        classes = facts.num_outputs if bound else 0
        found += [
            LandmarkAgreement(landmarks, parts),
            PartConsistency(landmarks, parts, classes, in_boxes, points),
        ]
        if bound_parts:  # random points are drawn for ``parts`` of them
            some = points | {"random_parts": min(parts, bound_parts)}
            found.append(PartConsistency(landmarks, bound_parts, facts.num_outputs, in_boxes, some, "bound_parts"))
    if facts.has_boxes:
        found.append(EnergyPointing())
    if facts.mask_names:
        found += [
            *([MaskedParts(parts, len(facts.mask_names))] if parts else []),
            MaskIoU(),
            EnergyPointing(masks=True),
        ]
    why = reasons(facts, parts, bound, bound_parts=bound_parts)
    return found, {name: reason for name, reason in why.items() if name in PLAIN}
