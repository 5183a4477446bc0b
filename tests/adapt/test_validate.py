import torch

from m2raap.adapt.validate import recall_at_1


def test_recall_by_hand() -> None:
    video = torch.eye(3)
    text = torch.tensor([[0.9, 0.1, 0.0], [0.9, 0.2, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]])
    # found; beaten by clip 0; a tie of two counts half; a second query of clip 2 found
    assert recall_at_1(text, video, torch.tensor([0, 1, 2, 2])) == (1 + 0 + 0.5 + 1) / 4


def test_equal_vectors_are_chance() -> None:
    assert abs(recall_at_1(torch.ones(5, 2), torch.ones(5, 2), torch.arange(5)) - 0.2) < 1e-12
