"""Numbers out of Output and Batch: what each means, exactly, is in docs/protocols.md and at the head of each file.

May import: fgbench.types, torch, torchmetrics. Must not import: methods, data, explain, scoring, or anything that they
import; a metric never sees a module, and never looks at pixel values. Reads and writes: nothing.
"""
