import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from m2raap.adapt.batches import BatchSampler, ListSource, clip_images, frames_digest, reverse_frames, swap_halves
from m2raap.adapt.texts import text_table
from m2raap.core.errors import M2raapError
from m2raap.models.backbone import Backbone
from m2raap.models.images import images_from_jpegs
from tests.adapt.world import ordered


class Letters:
    """Token ids are the letters' numbers."""

    can_shorten = False

    def tokenize(self, texts: list[str], text_length: int | None = None) -> torch.Tensor:
        return torch.tensor([[ord(letter) for letter in text[: text_length or 2].ljust(2)] for text in texts])

    def count_truncated(self, texts: list[str], text_length: int | None = None) -> int:
        return sum(len(text) > (text_length or 2) for text in texts)


@given(st.integers(1, 40), st.integers(2, 12), st.integers(0, 5))
def test_an_epoch_has_every_clip_at_most_once(num_clips: int, batch_size: int, seed: int) -> None:
    sampler = BatchSampler(num_clips, batch_size, seed)
    per_epoch = sampler.steps_per_epoch
    for epoch in range(2):
        seen = np.concatenate([sampler.clips(epoch * per_epoch + step) for step in range(1, per_epoch + 1)])
        assert len(set(seen.tolist())) == len(seen) == per_epoch * sampler.size > num_clips - sampler.size
    assert sampler.clips(1).tolist() == BatchSampler(num_clips, batch_size, seed).clips(1).tolist()


def test_epochs_and_seeds_differ() -> None:
    orders = [tuple(BatchSampler(30, 30, seed).clips(step)) for seed in (0, 1) for step in (1, 2)]
    assert len(set(orders)) == 4


@given(st.integers(4, 60), st.integers(2, 6), st.integers(0, 3))
def test_groups_are_a_permutation_too(num_clips: int, group_size: int, seed: int) -> None:
    looks = np.random.default_rng(seed).standard_normal((num_clips, 4))
    sampler = BatchSampler(num_clips, num_clips, seed, group_size, looks)
    assert sorted(sampler.clips(1)) == sorted(sampler.clips(2)) == list(range(num_clips))


def test_groups_look_alike() -> None:
    """Twelve clips of three looks, groups of four: every group is one look."""
    looks = np.eye(3)[np.arange(12) % 3]
    sampler = BatchSampler(12, 4, 0, 4, looks)
    assert all(len(set((sampler.clips(step) % 3).tolist())) == 1 for step in range(1, 7))
    assert {tuple(sorted(sampler.clips(step))) for step in (1, 2, 3)} == {
        tuple(range(look, 12, 3)) for look in range(3)
    }


def source_of(texts: list[tuple[str, str, str]]) -> ListSource:
    return ListSource(["a"], [[b""]], [texts])


def test_draws_follow_the_odds() -> None:
    texts = [("en", "r", "raw"), ("en", "w", "rewrite"), ("en", "x", "aux"), ("zh", "z", "raw"), ("fr", "f", "raw")]
    odds = {"raw": 1.0, "rewrite": 3.0, "aux": 0.0}
    table = text_table(source_of(texts), Letters(), ("en", "zh"), {"zh": 0.25}, odds)
    assert table.texts == ["r", "w", "z"] and table.num_truncated == 0
    drawn = [table.texts[table.draw(np.array([0]), 1, 7, step)[0, 0]] for step in range(4000)]
    share = {text: drawn.count(text) / 4000 for text in "rwz"}
    assert share == pytest.approx({"r": 0.8 * 0.25, "w": 0.8 * 0.75, "z": 0.2}, abs=0.03)


def test_two_texts_of_a_clip_are_of_two_languages() -> None:
    texts = [("en", "r", "raw"), ("en", "w", "raw"), ("zh", "z", "raw")]
    table = text_table(source_of(texts), Letters(), ("en", "zh"), {}, {})
    for step in range(20):
        drawn = table.draw(np.array([0, 0]), 3, 0, step)
        assert drawn.shape == (3, 2)
        for clip in range(2):
            assert {row == 2 for row in drawn[:2, clip]} == {True, False}
    assert table.draw(np.array([0]), 1, 0, 5).tolist() == table.draw(np.array([0]), 1, 0, 5).tolist()


def test_a_clip_draws_the_same_whatever_stands_beside_it() -> None:
    source = ordered(4, 0, frames=1)
    source.pairs = [[("en", f"{i}{j}", "raw") for j in range(9)] for i in range(4)]
    table = text_table(source, Letters(), ("en",), {}, {})
    assert table.draw(np.array([3, 1]), 1, 0, 1)[0, 1] == table.draw(np.array([1, 2]), 1, 0, 1)[0, 0]


def test_validation_takes_the_first_text_of_a_language() -> None:
    source = ListSource(["a", "b"], [[], []], [[("zh", "z", "raw")], [("en", "long", "raw"), ("en", "e", "raw")]])
    table = text_table(source, Letters(), ("en", "zh"), {}, {})
    assert [a.tolist() for a in table.queries_of("en")] == [[1], [1]]
    assert [a.tolist() for a in table.queries_of("zh")] == [[0], [0]]
    assert table.num_truncated == 1


def test_captions_of_frames_are_no_queries_of_validation() -> None:
    """Their ids sort first, and ACG would find them by themselves."""
    of_all_origins = [("en", "f", "aux"), ("en", "t", "translation"), ("en", "w", "rewrite"), ("en", "r", "raw")]
    texts = [of_all_origins, of_all_origins[:3], [*of_all_origins[:1], ("zh", "z", "raw")], of_all_origins[:1]]
    table = text_table(ListSource(list("abcd"), [[]] * 4, texts), Letters(), ("en", "zh"), {}, {"aux": 0.25})
    clips, rows = table.queries_of("en")
    assert clips.tolist() == [0, 1] and [table.texts[row] for row in rows] == ["r", "w"]
    nothing_else = text_table(source_of(of_all_origins[:1]), Letters(), ("en",), {}, {})
    assert nothing_else.queries_of("en")[0].tolist() == [0]


def test_an_origin_has_its_odds_however_many_texts_it_has() -> None:
    texts = [("en", str(i), "aux") for i in range(8)] + [("en", "w", "rewrite")]
    table = text_table(source_of(texts), Letters(), ("en",), {}, {"aux": 0.25})
    drawn = [table.texts[table.draw(np.array([0]), 1, 7, step)[0, 0]] for step in range(4000)]
    assert drawn.count("w") / 4000 == pytest.approx(0.8, abs=0.03)


def test_who_owns_a_text_is_known_whatever_was_drawn() -> None:
    texts = [[("en", "a", "raw"), ("zh", "b", "raw")], [("en", "b", "raw")], [("en", "a", "raw"), ("en", "a", "aux")]]
    table = text_table(ListSource(list("xyz"), [[]] * 3, texts), Letters(), ("en", "zh"), {}, {})
    assert table.owners(np.array([2, 0, 1])) == {"a": [0, 1], "b": [1, 2]}


def test_a_clip_without_a_text_is_named() -> None:
    with pytest.raises(M2raapError, match="clip 'a' has no text in zh"):
        text_table(source_of([("en", "r", "raw")]), Letters(), ("zh",), {}, {})


def test_more_frames_are_thinned_and_fewer_masked(backbone: Backbone) -> None:
    source = ordered(1, 0, frames=6)
    images, mask = clip_images(source, 0, 3, backbone.preprocess)
    assert (
        torch.equal(images, images_from_jpegs([source.jpegs[0][t] for t in (1, 3, 5)], backbone.preprocess))
        and mask.all()
    )
    images, mask = clip_images(source, 0, 8, backbone.preprocess)
    assert mask.tolist() == [True] * 6 + [False] * 2 and images.shape[0] == 8 and not images[6:].any()
    source.jpegs[0][2] = b"GIF89a"
    with pytest.raises(M2raapError, match=r"clip 'clip0': picture 2 of 6"):
        clip_images(source, 0, 8, backbone.preprocess)


def test_the_digest_knows_frames_and_not_texts() -> None:
    assert len({frames_digest(ordered(3, seed)) for seed in (0, 0, 1)}) == 2
    other = ordered(3, 0)
    other.pairs[2][0] = ("en", "else", "raw")
    assert frames_digest(other) == frames_digest(ordered(3, 0))
    other.jpegs[2].reverse()
    assert frames_digest(other) != frames_digest(ordered(3, 0))


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
