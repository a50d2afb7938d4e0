"""What the makers of a dataset distribute, and how it is unpacked: each file whole or not there, and never outside.

Archives are data from elsewhere: a member with an absolute path, with ``..``, a link or a device is refused, and
nothing of it is written.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Archive:
    """One file as its makers distribute it, under its official name.

    Attributes:
        name: of the file: ``.zip``, ``.tar``, ``.tar.gz``, ``.tgz``, ``.tar.bz2``, ``.tar.xz``; any other suffix
            (``.mat``, ``.txt``) is a file that is copied as it is.
        holds: a file or folder, relative to the folder of all datasets, that is there once this is unpacked, so that
            a tree which was unpacked by hand is recognised.
        into: where it is unpacked, relative to the folder of all datasets; empty for that folder itself.
        url: where to get it.
        size_gb: of the download, 10^9 bytes.
        optional: whether the dataset can be read without it.
        nested: whether its members are ``.tar`` files that are unpacked in turn, each into a folder of its own name
            (ImageNet's training images).
    """

    name: str
    holds: str
    into: str = ""
    url: str = ""
    size_gb: float = 0.0
    optional: bool = False
    nested: bool = False
