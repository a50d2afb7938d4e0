"""Evidence for any method, made after training: for now the floors that every metric is printed beside.

May import: fgbench.types, fgbench.layers, torch. Must not import: methods, data, metrics. Reads and writes: nothing.
"""
