import torch
import torch.nn.functional as F

from m2raap.adapt.order_heads import OrderHeads


def test_new_heads_give_the_vector_itself_for_both_events() -> None:
    vectors = F.normalize(torch.randn(5, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    torch.testing.assert_close(OrderHeads(8)(vectors), vectors[:, None].expand(5, 2, 8))


def test_each_event_has_its_matrix_and_what_comes_out_is_unit() -> None:
    heads = OrderHeads(3)
    first, second = torch.tensor([[0.0, 2, 0], [1, 0, 0], [0, 0, 1]]), torch.diag(torch.tensor([1.0, -1, 1]))
    heads.weight_2EE.data = torch.stack([first, second])
    vectors = torch.tensor([[0.6, 0.8, 0.0]])
    expected = torch.stack([F.normalize(first @ vectors[0], dim=0), F.normalize(second @ vectors[0], dim=0)])
    torch.testing.assert_close(heads(vectors)[0], expected)
    assert not torch.allclose(expected[0], expected[1])
