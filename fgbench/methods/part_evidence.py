"""What parts say of an image and of a class: shares of a logit, d(p, c), heatmaps, and the figures made of them."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize

from fgbench.layers.part_importance import Weighting, discriminative_power, popularity
from fgbench.layers.regions import Regions, on_device, paint, region_scores, regions_of
from fgbench.methods.training_regions import TrainingRegions
from fgbench.types import Batch

SHOWN = 3  # parts of a class in a figure
BINS = 40  # of the histogram of cosines, from -1 to 1
ROWS = 1024  # parts whose cosines with all others are held at once


class PartEvidence(TrainingRegions):
    """A method whose logits are sums over parts: what each part, and its regions, say.

    A subclass has ``classifier`` (linear, of the bag of parts) beside what ``TrainingRegions`` asks for.
    """

    figures: tuple[str, ...] = ("heatmap", "class_parts")
    classifier: nn.Linear
    per_class: int
    weighting: Weighting
    region_norm: str
    top_parts: int
    top_regions: int

    def shares(self, bag: Float[Tensor, "b p"], index: Int[Tensor, " b"]) -> Float[Tensor, "b p"]:
        """What each part adds to one logit of each image, v_cp b_p: they sum to it."""
        return self.classifier.weight.float()[index] * bag

    def importance(self, bag: Float[Tensor, "b p"], index: Int[Tensor, " b"]) -> Float[Tensor, "b p"]:
        """How much each part matters to a class: d(p, c) once the training images were seen, shares before."""
        if not self.concluded:
            return self.shares(bag, index)
        return self.power()[index]

    def power(self) -> Float[Tensor, "k p"]:
        """d(p, c) of all classes and parts; after the training images were seen."""
        return discriminative_power(self.class_shares(), self.per_class, self.weighting)

    def class_shares(self) -> Float[Tensor, "k p"]:
        """Mean of v_cp b_p over the training images of each class."""
        return self.classifier.weight.detach().float() * self.class_bag

    def top(self, bag: Float[Tensor, "b p"], index: Int[Tensor, " b"]) -> Int[Tensor, "b n"]:
        """The parts that matter most to a class, the first one first."""
        return self.importance(bag, index).topk(min(self.top_parts, bag.shape[1]), dim=1).indices

    def painted(
        self,
        parts: Float[Tensor, "i p d"],
        maps: Float[Tensor, "b d u v"],
        image_id: Int[Tensor, " b"],
        weights: Float[Tensor, "b p"] | None = None,
    ) -> Float[Tensor, "b p n"]:
        """Each part's best regions on the cells, by the scores that classify: see ``layers.regions.paint``."""
        regions = regions_of(maps, self.boxes(image_id, (maps.shape[2], maps.shape[3])))
        lengths = regions.features().norm(dim=2).clamp(min=1e-12) if self.region_norm == "l2" else None
        return paint(parts, regions, self.top_regions, weights, lengths)

    def heatmap(
        self,
        maps: Float[Tensor, "b d u v"],
        image_id: Int[Tensor, " b"],
        bag: Float[Tensor, "b p"],
        index: Int[Tensor, " b"],
    ) -> Float[Tensor, "b u v"]:
        """The best regions of the parts that matter most to a class, each as heavy as weight times match; largest 1."""
        most = self.top(bag, index)
        parts, weights = self.part.weight.float()[most], self.classifier.weight.float()[index].gather(1, most)
        with torch.autocast(maps.device.type, enabled=False):
            heat = self.painted(parts, maps, image_id, weights).sum(1)
        found: Tensor = heat / heat.amax(1, keepdim=True).clamp(min=1e-12)
        return torch.unflatten(found, 1, maps.shape[2:])

    def look(self, batch: Batch, index: Int[Tensor, " b"] | None = None) -> Mapping[str, Tensor]:
        """Figure 3 of any images for any classes.

        Args:
            batch: with stored maps, or normalised images.
            index: a class of each; the predicted ones by default.

        Returns:
            ``heatmap`` (``b u v``); ``box`` (``b 4``, ``y0 x0 y1 x1`` as shares of the input's height and width), the
            most discriminative region: the best one of that part, of those that matter most to the class, which adds
            most here; ``class`` and ``predicted`` (``b``); ``logit`` (``b``) of the class.
        """
        maps = self.maps(batch)
        bag, _, places = self.bag(self.areas(maps, batch.image_id))
        logits = self.classifier(bag).float()
        predicted = logits.argmax(1)
        index = predicted if index is None else index
        most = self.top(bag, index)
        part = most.gather(1, self.shares(bag, index).gather(1, most).argmax(1, keepdim=True))
        size = (maps.shape[2], maps.shape[3])
        boxes = self.boxes(batch.image_id, size).expand(len(maps), -1, -1)
        box = boxes[torch.arange(len(maps), device=boxes.device), places.gather(1, part)[:, 0]]
        return {
            "heatmap": self.heatmap(maps, batch.image_id, bag, index),
            "box": box / on_device((*size, *size), box.device),
            "class": index,
            "predicted": predicted,
            "logit": logits.gather(1, index[:, None])[:, 0],
        }

    def class_parts(self, index: int) -> Mapping[str, Tensor]:
        """Figure 2: the parts that matter most to a class, with their best training images, regions and scores.

        Raises:
            RuntimeError: the training images were not shown to the method yet.
        """
        if not self.concluded:
            raise RuntimeError("the training images were not shown to the parts yet: train for an epoch at least")
        power = self.power()[index]
        most = power.topk(min(SHOWN, len(power))).indices
        there = (self.best_image[most] >= 0).all(0)  # fewer images than places: the last places are empty
        return {
            "part": most,
            "class": torch.full_like(most[:1], index),
            "power": power[most],
            "image_id": self.best_image[most][:, there],
            "boxes": self.best_box[most][:, there],
            "scores": self.best_score[most][:, there],
        }

    def figure(self, name: str, batch: Batch) -> Mapping[str, Tensor]:
        """``heatmap``: Figure 3 of the prediction; ``class_parts``: Figure 2 of it, once training images were seen."""
        with torch.no_grad():
            found = self.look(batch)
            if name == "class_parts" and self.concluded:
                return self.class_parts(int(found["class"]))
            return {"heatmap": found["heatmap"][0], "box": found["box"][0], "class": found["class"]}

    # ---- histograms

    def assigned(self, regions: Regions) -> Int[Tensor, " p"]:
        """How many regions are most like each part, of unit length as in the assignment's entropy."""
        unit = normalize(self.part.weight.detach().float(), dim=1)
        count = torch.zeros(len(unit), dtype=torch.int64, device=unit.device)
        for image in range(len(regions.cells)):
            nearest = region_scores(unit, regions.some(slice(image, image + 1))).argmax(2)
            count += torch.bincount(nearest.flatten(), minlength=len(unit))
        return count

    def shared(self) -> Int[Tensor, " p"]:
        """f(p): how many classes have each part among their most activated ones."""
        return popularity(self.class_shares(), self.per_class)

    def cosines(self) -> Float[Tensor, " bins"]:
        """Pairs of different parts by their cosine, in ``BINS`` bins from -1 to 1."""
        unit = normalize(self.part.weight.detach().float(), dim=1)
        found = torch.zeros(BINS, device=unit.device)
        for start in range(0, len(unit), ROWS):
            found += torch.histc((unit[start : start + ROWS] @ unit.T).clamp(-1, 1), BINS, -1, 1)
        found[-1] -= len(unit)  # each part with itself
        return found / 2
