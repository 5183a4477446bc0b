"""Rules of a user's own, which the tests name as `python:outside_code:...`."""

import numpy as np


def word_counts(batch):
    return np.asarray([len(text.split()) for text in batch.texts])


def width(signals):
    return signals["width"]


def too_few(batch):
    return [0.0]


def fails(batch):
    raise RuntimeError("a fault of the user's code")


def ends(batch):
    raise SystemExit(0)


def seven(signals):
    return "7"


not_callable = 3
