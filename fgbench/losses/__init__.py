"""Losses: pure functions of tensors, and small modules where a constant must live on the device.

May import: types, layers. Must not import: any other room. Reads: nothing. Writes: nothing.
"""
