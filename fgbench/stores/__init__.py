"""Stores: what a frozen network says of every image, once, in files that training and test read back.

A store is a folder: ``rows.npy`` (one row for each image of a listing, memory-mapped), ``done-<process>.bin`` (which
rows are finished, with a check sum of each) and ``key.json`` (everything that can change a value). Its name ends in the
digest of the key, so runs that agree share it and others never meet.

May import: result (for its atomic writes). Must not import: any other room of the suite; torch. Reads and writes: the
folder ``stores`` of the datasets' root.
"""

from fgbench.stores.store import StoreError, StoreReader, StoreWriter, hold, name_of

__all__ = ["StoreError", "StoreReader", "StoreWriter", "hold", "name_of"]
