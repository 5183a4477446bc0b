import math

import pytest
import torch

from m2raap.adapt.validate import recall_at_1
from m2raap.core.errors import M2raapError


def test_recall_by_hand() -> None:
    video = torch.eye(3)
    text = torch.tensor([[0.9, 0.1, 0.0], [0.9, 0.2, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]])
    # found; beaten by clip 0; a tie of two counts half; a second query of clip 2 found
    assert recall_at_1(text, video, torch.tensor([0, 1, 2, 2])) == (1 + 0 + 0.5 + 1) / 4


def test_equal_vectors_are_chance() -> None:
    assert abs(recall_at_1(torch.ones(5, 2), torch.ones(5, 2), torch.arange(5)) - 0.2) < 1e-12


def test_vectors_that_are_no_numbers_find_nothing() -> None:
    broken, clips = torch.tensor([[math.nan, 0.0], [0.0, 1.0]]), torch.arange(2)
    for text, video, kind in ((torch.eye(2), broken, "video"), (broken, torch.eye(2), "text")):
        with pytest.raises(M2raapError, match=f"{kind} vectors of the validation clips hold NaN"):
            recall_at_1(text, video, clips)
