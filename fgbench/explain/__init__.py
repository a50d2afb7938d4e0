"""Evidence for any method, made after training: maps from gradients, parts from factors, floors that look at nothing.

Nothing here knows a method: an explainer asks a network for what ``gradients.Network`` lists, which every method has.

May import: fgbench.types, fgbench.layers, torch, lightning. Must not import: methods, data, metrics. Reads and writes:
nothing.
"""

from fgbench.explain.explained import Explained
from fgbench.explain.explainers import EXPLAINERS, Explainer, ExplainerError, make_explainer, parse

__all__ = ["EXPLAINERS", "Explained", "Explainer", "ExplainerError", "make_explainer", "parse"]
