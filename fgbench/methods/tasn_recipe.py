"""TASN's numbers: where its paper and its authors' code differ, in one place, and what each loss of a step weighs.

Zheng et al., CVPR 2019, sections 3.3 and 4.1, and github.com/researchmm/tasn (MXNet). What both leave open, and
everything that is no number, is in the list of differences of ``methods.tasn``.
"""

from typing import Any, NamedTuple


class Recipe(NamedTuple):
    """What paper and code do differently; terms of the loss are means over images."""

    gain: float  # factor in the spatial softmax
    structure_power: float  # of the averaged attention, before sampling
    dedup: bool  # equal attention maps (of dead channels) count once
    detach_teacher: bool  # no gradient from the distillation to the detail's answer
    attention_weight: float  # loss of the attention net's classifier
    stream_weight: float  # loss of each stream's own classifier
    shared_weight: float  # loss of the classifier that both streams share, on each; 0: there is none
    distillation_weight: float
    temperature: float

    def weight(self, term: str, details: int) -> float:
        """Of one term of the loss; several details of an image share the weight of one."""
        if term.startswith("distillation"):
            return self.distillation_weight / details
        weight = self.attention_weight if term == "attention" else self.stream_weight
        weight = self.shared_weight if term.startswith("shared") else weight
        return weight / details if "part" in term else weight


PRESETS = {
    # No temperature and no square in the text; each classifier's loss counts one, lambda is 2, T is 10 (section 4.1).
    # "Sharing of fully connected layers is optional": not shared. The teacher is detached: usual, not said.
    "paper": Recipe(1.0, 1.0, False, True, 1.0, 1.0, 0.0, 2.0, 10.0),
    # MXNet: gain 7, squared map, five cross-entropies, prediction by the shared classifier, gradient to the teacher.
    "official": Recipe(7.0, 2.0, True, False, 1.0, 0.5, 0.5, 1.0, 10.0),
}


def make_recipe(preset: str, **changes: Any) -> Recipe:
    """A preset with single values changed; None leaves one as it is.

    Raises:
        ValueError: impossible numbers.
    """
    recipe = PRESETS[preset]._replace(**{name: value for name, value in changes.items() if value is not None})
    if min(recipe.gain, recipe.structure_power, recipe.temperature) <= 0:
        raise ValueError("gain, structure_power and temperature must be above 0")
    if recipe.distillation_weight < 0:
        raise ValueError(f"distillation_weight is {recipe.distillation_weight}: need a weight of at least 0")
    return recipe
