import torch

from m2raap.adapt.frame_order import reverse_frames, swap_halves


def test_reversed_frames_keep_padding_behind_and_come_back() -> None:
    inputs = torch.arange(2 * 3 * 4).float().reshape(2, 3, 4)  # (B, V, T)
    mask = torch.tensor([[True, True, True, True], [True, True, False, False]])
    backwards = reverse_frames(inputs, mask, 2)
    assert backwards[0, 0].tolist() == [3, 2, 1, 0]
    assert backwards[1, 0].tolist() == [13, 12, 14, 15]
    assert torch.equal(reverse_frames(backwards, mask, 2), inputs)


def test_swapped_halves_keep_padding_behind_and_the_order_inside_of_each_half() -> None:
    inputs = torch.arange(3 * 3 * 5).float().reshape(3, 3, 5)  # (B, V, T)
    mask = torch.tensor([[True] * 5, [True] * 4 + [False], [True] + [False] * 4])
    swapped = swap_halves(inputs, mask, 2)
    assert (swapped[:, 0] - inputs[:, :1, 0]).tolist() == [[2, 3, 4, 0, 1], [2, 3, 0, 1, 4], [0, 1, 2, 3, 4]]
    assert torch.equal(swap_halves(swapped, mask, 2)[1], inputs[1])
    assert torch.equal(swap_halves(inputs.transpose(1, 2), mask, 1), swapped.transpose(1, 2))
