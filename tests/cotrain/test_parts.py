"""Windows, consistency, towers and heads, against loops."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from m2raap.adapt.sense_towers import SHAPES, new_tower
from m2raap.core.clusters import coarse_to_fine
from m2raap.cotrain.consistency import SMOOTHING, cluster_pmi
from m2raap.cotrain.heads import Heads
from m2raap.cotrain.labels import Labels, centred, label_window, mean_of_present
from m2raap.cotrain.windows import rounds_of_a_cycle, window_rows


@given(st.integers(2, 60), st.integers(2, 60), st.floats(0.1, 1.0), st.integers(0, 5))
def test_a_cycle_of_windows_covers_every_clip(num_clips: int, window: int, stride: float, seed: int) -> None:
    rounds = [
        window_rows(num_clips, window, stride, seed, number)
        for number in range(rounds_of_a_cycle(num_clips, window, stride))
    ]
    assert set(np.concatenate(rounds).tolist()) == set(range(num_clips))
    assert all(len(set(rows.tolist())) == len(rows) == min(window, num_clips) for rows in rounds)
    assert all((np.diff(rows) > 0).all() for rows in rounds)


def test_windows_slide_and_one_of_all_clips_is_all_clips() -> None:
    first, second = (window_rows(100, 20, 0.25, 3, number) for number in (0, 1))
    assert len(np.intersect1d(first, second)) == 15
    for window in (None, 100, 1000):
        assert window_rows(100, window, 0.5, 3, 7).tolist() == list(range(100))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=25))
def test_pmi_leaves_the_clip_itself_out(pairs: list[tuple[int, int]]) -> None:
    expected = []
    for number, (a, b) in enumerate(pairs):
        others = pairs[:number] + pairs[number + 1 :]
        both = sum(pair == (a, b) for pair in others) + SMOOTHING
        of_a, of_b = sum(p[0] == a for p in others) + SMOOTHING, sum(p[1] == b for p in others) + SMOOTHING
        expected.append(math.log(len(others) * both / (of_a * of_b)))
    first, second = np.array(pairs).T
    np.testing.assert_allclose(cluster_pmi(first, second), expected)
    absent = np.full(3, -1)
    with_absent = cluster_pmi(np.concatenate([first, absent]), np.concatenate([second, absent]))
    np.testing.assert_array_equal(with_absent[: len(first)], cluster_pmi(first, second))
    assert np.isnan(with_absent[len(first) :]).all()


def test_pmi_tells_swapped_clips() -> None:
    rng = np.random.default_rng(0)
    first = rng.integers(0, 8, 800)
    second = (first + 3) % 8
    swapped = rng.permutation(800)[:200]
    second[swapped] = rng.permutation(second[swapped])
    score, wrong = cluster_pmi(first, second), second != (first + 3) % 8
    assert score[wrong].max() < score[~wrong].min()


@pytest.mark.parametrize("sense", ["motion", "sound", "text_en"])
def test_towers_give_unit_vectors_and_values_of_any_size_are_safe(sense: str) -> None:
    torch.manual_seed(0)
    values = torch.randn(3, *SHAPES.get(sense, (16,))).half() * 1000
    tower = new_tower(sense, 16)
    vectors = tower(values)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    assert tower.prepared(values).isfinite().all()
    assert not torch.allclose(vectors[0], vectors[1])


def test_the_loss_of_heads_is_the_mean_of_cross_entropies_of_clips_that_have_both() -> None:
    torch.manual_seed(0)
    sizes = {"frames": 6, "motion": 4}
    heads = Heads(sizes, dict.fromkeys(sizes, (2, 4)))
    heads.forget(["frames", "motion"], 0)
    vectors = {name: F.normalize(torch.randn(5, size), dim=1) for name, size in sizes.items()}
    labels = {
        "frames": (torch.tensor([0, 1, 0, 1, -1]), torch.tensor([0, 3, 1, 2, -1])),
        "motion": (torch.tensor([1, -1, 0, 0, 1]), torch.tensor([2, -1, 0, 1, 3])),
    }
    losses = []
    for learner, teacher in (("frames", "motion"), ("motion", "frames")):
        for kind, group in enumerate((heads.coarse, heads.fine)):
            weight = F.normalize(group[f"{learner}<{teacher}"].weight, dim=1)  # type: ignore[arg-type]
            rows = [0, 2, 3]
            each = [
                -(vectors[learner][row] @ weight.T / 0.1).log_softmax(0)[labels[teacher][kind][row]] for row in rows
            ]
            losses.append(sum(each) / 3)
    torch.testing.assert_close(heads.loss(vectors, labels, 0.1), sum(losses) / 2)
    nobody = {name: (torch.full((5,), -1), torch.full((5,), -1)) for name in sizes}
    assert heads.loss(vectors, nobody, 0.1).item() == 0


def test_frames_alone_teach_themselves_and_forgotten_heads_are_those_of_their_teacher() -> None:
    assert list(Heads({"frames": 6}, {"frames": (2, 4)}).coarse) == ["frames<frames"]
    sizes = {"frames": 6, "motion": 4, "sound": 4}
    heads = Heads(sizes, dict.fromkeys(sizes, (2, 4)))
    before = {name: head.weight.clone() for name, head in heads.fine.items()}  # type: ignore[operator]
    heads.forget(["motion"], 1)
    changed = {name for name, head in heads.fine.items() if not torch.equal(head.weight, before[name])}  # type: ignore[arg-type]
    assert changed == {"frames<motion", "sound<motion"}


def test_a_clip_without_a_modality_has_no_cluster_of_it() -> None:
    rng = np.random.default_rng(0)
    frames, sound = rng.normal(size=(40, 5)).astype(np.float32), rng.normal(size=(40, 7)).astype(np.float32)
    sound[::4] = 0
    labels, centres = label_window({"frames": frames, "sound": sound}, 3, 2, 0, {})
    assert (labels.coarse["sound"][::4] == -1).all() and (labels.fine["sound"][1::4] >= 0).all()
    assert (
        np.isnan(labels.agreement_of_frames()["sound"][::4]).all()
        and not np.isnan(labels.agreement_of_frames()["sound"][1]).any()
    )
    rows = np.flatnonzero(labels.coarse["sound"] >= 0)
    sound = centred(sound, mean_of_present(sound))[rows]
    expected = coarse_to_fine(sound, 3, 2, 0)
    np.testing.assert_array_equal(expected.assign(sound)[1], labels.fine["sound"][rows])
    np.testing.assert_array_equal(centres["sound"].fine_CE, expected.fine_CE)
    assert set(Labels(labels.coarse, labels.fine).mutual_information()) == {"frames-sound"}
