"""What is to be known of a dataset before it is used: counts, source, licence, leaks. docs/protocols.md prints it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """Facts about a dataset, in words where they are no numbers.

    Attributes:
        title: what its authors call it.
        paper: to cite.
        home: where to get it.
        licence: what it may be used for.
        disk: size of the unpacked tree, about.
        outputs: classes or attributes.
        train: images.
        test: images.
        split: whose split it is.
        validation: what is used to choose epochs or hyper-parameters.
        leaks: what is known of test images that others have been trained on.
        landmarks: annotated in each image.
        by_hand: what must be unpacked by hand, since no tool of Python's does it.
        val: images of an official validation split that stays one.
        fit: images on which landmark regressors are fitted, where these are not the training images.
    """

    title: str
    paper: str
    home: str
    licence: str
    disk: str
    outputs: int
    train: int
    test: int
    split: str
    validation: str = "10 % cut of the training images, by `val_fraction: 0.1`"
    leaks: str = "none known"
    landmarks: int = 0
    by_hand: str = ""
    val: int = 0
    fit: int = 0
