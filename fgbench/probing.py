"""``fgbench probe``: what costs further forward passes, on the fixed subset of a finished run's test split.

Stability under noise, insertion and deletion, and the sanity check, for the method's own evidence and that of
explainers; floors are explainers too. Never a part of the test phase, and no result is changed: the numbers go to
``probes.json``.

May import: every room below it, pictures. Must not import: cli. Reads: a run's folder. Writes: ``probes.json`` there.
"""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from fgbench import explaining, measures, pictures, run
from fgbench.explain import Explained, floors, make_explainer, parse
from fgbench.explain.explainers import Explainer
from fgbench.metrics import consistency, perturbation
from fgbench.metrics.census import Census
from fgbench.metrics.sanity import SanityCheck
from fgbench.result import write_atomically
from fgbench.scoring import DIGITS
from fgbench.types import NOTHING, Batch, Output

DEFAULT = ("own", "centre", "random_map")
"""The method's own evidence and the floors."""


def cascade(method: nn.Module, fresh: nn.Module) -> dict[str, nn.Module]:
    """Copies of a method with fresh weights outside of its backbone, then from the last stage of it down to all.

    Args:
        method: trained; with ``backbone.stages``.
        fresh: the same method, not trained.
    """
    stages = len(method.backbone.stages)  # type: ignore[arg-type, union-attr]
    unlearned, found = fresh.state_dict(), {}
    for first in range(stages, -1, -1):
        kept = tuple(f"backbone.stages.{stage}." for stage in range(first))
        state = {
            name: value if name.startswith(kept) else unlearned[name] for name, value in method.state_dict().items()
        }
        network = copy.deepcopy(method)
        network.load_state_dict(state)
        found["head" if first == stages else f"stage{first}" if first else "all"] = network.eval()
    return found


def answer(method: Any, known: Batch, shown: perturbation.Perturbed) -> Tensor:
    """Logits as in the test, of perturbed images of which all else that a batch has is known."""
    logits: Tensor = method.respond(known._replace(image=shown.image())).logits
    return logits


def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same, compiled at its first call, for half a minute; only what its tensor needs is computed.

    Weights are folded into it and must not change. It is compiled anew for another network or number of images.

    Raises:
        RuntimeError: there is no compiler, or it refuses the network, or the network fails compiled; says what to do.
    """
    from torch._inductor import config  # seconds to import, for few

    torch.compiler.reset()  # which leaves the ninth network of a process as it is
    faster = torch.compile(function, dynamic=False)

    def call(*given: Any) -> Tensor:
        try:
            with config.patch(freezing=True):  # torch.compile's own option of that name folds no batch norm
                return faster(*given)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # of the compiler's own kinds, or of what it made of a network that differentiates
            reason = str(error).strip().partition("\n")[0]
            raise RuntimeError(f"the network could not be compiled ({reason}); go on without --compile") from error

    return call


class Probes(Callback):
    """All probes over one loader of ``trainer.test``; ``numbers`` has them afterwards.

    Args:
        facts: of the dataset, see ``Scoring``.
        shows: the method, or what explains it.
        ids: the images that must be seen.
        explainer: that is asked again of networks with fresh weights.
        networks: the cascade, by level; empty for no sanity check.
        seed: of the noise.
        steps: of insertion and deletion.
        ask: for logits of perturbed images; ``answer``, or that compiled.
        at_once: see ``perturbation.curves``.
    """

    def __init__(
        self,
        facts: Any,
        shows: Any,
        ids: Sequence[int],
        explainer: Explainer,
        networks: dict[str, nn.Module],
        seed: int = 0,
        steps: int = perturbation.STEPS,
        ask: Callable[..., Tensor] = answer,
        at_once: int | None = None,
    ) -> None:
        super().__init__()
        self.answer, self.at_once = ask, at_once
        self.facts, self.ids, self.explainer, self.networks = facts, ids, explainer, networks
        self.seed, self.steps, self.bound = seed, steps, shows.class_stages > 0
        self.parts, self.bound_parts, self.saliency = shows.parts, shows.bound_parts, True
        self.census, self.areas = Census(), perturbation.Perturbation()
        in_boxes = facts.landmark_frame == "box"
        self.stable = [consistency.PartStability(self.bound, in_boxes)]
        self.stable += [consistency.PartStability(True, in_boxes, "bound_parts")] if self.bound_parts else []
        self.sanity = SanityCheck(tuple(networks) or ("all",))
        self.numbers: dict[str, float] = {}
        self.reasons: dict[str, str] = {}

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start from nothing."""
        for module in (self.census, self.areas, *self.stable, self.sanity, *self.networks.values()):
            module.to(pl_module.device)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Ask the network again."""
        said: Output = outputs["output"]
        self.census.update(batch.image_id)
        self.saliency = said.saliency is not None
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            noisy = self._noisy(pl_module, said, batch) if self.parts and self.facts.landmark_names else None
            curves = self._curves(pl_module, said, batch) if self.saliency and self.facts.target == "class" else None
            index = said.logits.argmax(1)
            maps = (
                [self.explainer(net, batch, index).saliency for net in self.networks.values()] if self.saliency else []
            )
        with torch.autocast(batch.image_id.device.type, enabled=False):
            if noisy is not None:
                points = (
                    floors.random_parts(batch, self.parts, self.seed),
                    floors.random_parts(batch, self.parts, self.seed + 1),
                )
                for metric in self.stable:
                    metric.update(said, noisy, batch, points)
            if curves is not None:
                self.areas.update(curves)
            if maps and said.saliency is not None:
                self.sanity.update(said.saliency.float(), [one.float() for one in maps if one is not None])

    def _noisy(self, module: Any, said: Output, batch: Batch) -> Output:
        """What the method shows with noise; parts that belong to classes stay those of the class without it."""
        image = batch.image + consistency.noise(batch.image, batch.image_id, self.seed)
        if self.bound or self.bound_parts:
            shown: Output = module.show(image, said.logits.argmax(1))
            return shown
        output: Output = module.respond(batch._replace(image=image))
        return output

    def _curves(self, module: Any, said: Output, batch: Batch) -> Tensor:
        method = module.method if isinstance(module, Explained) else module
        saliency = torch.zeros_like(batch.image[:, 0, :1, :1]) if said.saliency is None else said.saliency.float()
        rank = perturbation.ranks(saliency, *batch.image.shape[2:])

        known = batch._replace(image=batch.image_id, mask=batch.image_id)  # large, and not asked for

        def classify(shown: perturbation.Perturbed, row: int) -> Tensor:
            """As in the test: the perturbed images of an image have its number, and whatever else is known of it."""
            fields = (field[row].expand(len(shown.counts), *field.shape[1:]) for field in known)
            return self.answer(method, Batch(*fields)._replace(mask=NOTHING), shown)

        return perturbation.curves(classify, batch.image, said.logits.argmax(1), rank, self.steps, self.at_once)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reduce over the processes."""
        self.census.check("probes'", self.ids)
        seen = [metric for metric in (*self.stable, self.areas, self.sanity) if metric.update_called]
        found = {name: value for metric in seen for name, value in metric.compute().items()}
        self.reasons = {
            name: reason
            for name, reason in measures.reasons(
                self.facts, self.parts, self.bound, self.saliency, bound_parts=self.bound_parts
            ).items()
            if name in measures.PROBED
        }
        self.numbers = {
            name: round(float(value), DIGITS)
            for name, value in found.items()
            if not torch.isnan(value) and name.partition("/")[0] not in self.reasons
        }


def probe(
    folder: Path,
    explainers: Sequence[str] = DEFAULT,
    steps: int = perturbation.STEPS,
    fast: bool = False,
    at_once: int | None = None,
) -> dict[str, Any]:
    """Probe a finished run; adds to its ``probes.json`` and returns what that then holds, by explainer.

    Each entry says of how many ``images`` and in how many ``steps`` its ``numbers`` are, in which ``precision`` the
    network answered, and whether it was ``compiled`` for insertion and deletion.

    Raises:
        RuntimeError: it was not trained to its end.
        ValueError: there is no such explainer (``ExplainerError``), or no step.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}; insertion and deletion take 1 step at least")
    for name in explainers:
        parse(name)  # before the first one takes its time
    run.hush()
    path = folder / "probes.json"
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    trained, tree = pictures.load(folder), run.read_run(folder)["tree"]
    data = trained.data
    rows = perturbation.subset(data.listing.rows("test"))
    ids = data.listing.image_id[rows].tolist()
    networks = cascade(trained.method, explaining.fresh_network(tree, trained.method))
    ask = compiled(answer) if fast else answer  # once, for the network is the same whoever explains it
    for name in explainers:
        shows = pictures.explained_by(trained, name, tree).shows
        explainer = shows.explainer if isinstance(shows, Explained) else make_explainer(name)
        probes = Probes(data, shows, ids, explainer, networks, tree["seed"], steps, ask, at_once)
        trainer = run.make_trainer(tree, folder, [probes], None)
        trainer.test(shows, dataloaders=data.some_loader(rows, data.test_view), verbose=False)
        known[name] = {
            "images": len(rows), "steps": steps, "compiled": fast, "precision": tree["trainer"]["precision"],
            "numbers": probes.numbers, "reasons": probes.reasons,
        }  # fmt: skip
        if trainer.is_global_zero:
            write_atomically(path, json.dumps(known, indent=1).encode())
    return known


def notes(known: Mapping[str, Any]) -> list[str]:
    """Lines for what the table of probes has no column for: floors of stability, and the sanity check's cascade.

    Args:
        known: what ``probes.json`` holds.
    """
    found = []
    for explainer, entry in known.items():
        below: dict[str, list[str]] = {}
        for name, value in entry["numbers"].items():
            base, _, level = name.partition("/")
            if level:
                below.setdefault(base, []).append(f"{level} {value:.2f}")
        for base, values in below.items():
            what = "with fresh weights down to" if base.startswith("sanity") else "floor"
            found.append(f"{explainer}: {base.replace('_', ' ')}, {what}: {', '.join(values)}")
    return found
