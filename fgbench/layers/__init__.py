"""Layers that two methods share, and what keeps training exact under any number of processes.

May import: types. Must not import: any other room. Reads: nothing. Writes: nothing.
"""
