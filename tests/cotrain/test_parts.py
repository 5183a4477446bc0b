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
from m2raap.cotrain.labels import Labels, centred, cluster_window, label
from m2raap.cotrain.windows import window_rows


def rounds_of_a_cycle(num_clips: int, window: int, stride: float) -> int:
    """After which every clip was in a window."""
    if window >= num_clips:
        return 1
    return 1 + math.ceil((num_clips - window) / max(1, round(stride * window)))


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


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 9)), min_size=1, max_size=25))
def test_pmi_leaves_the_clip_itself_out(rows: list[tuple[int, int, int]]) -> None:
    expected = []
    for a, b, clip in rows:
        others = [row for row in rows if row[2] != clip]
        both = sum(row[:2] == (a, b) for row in others) + SMOOTHING
        of_a, of_b = sum(row[0] == a for row in others) + SMOOTHING, sum(row[1] == b for row in others) + SMOOTHING
        expected.append(math.log(len(others) * both / (of_a * of_b)) if others else 0.0)
    first, second, clip_N = np.array(rows).T
    np.testing.assert_allclose(cluster_pmi(first, second, clip_N), expected)
    one_a_clip = np.arange(len(rows))
    np.testing.assert_array_equal(cluster_pmi(first, second), cluster_pmi(first, second, one_a_clip))
    absent = np.full(3, -1)
    with_absent = cluster_pmi(np.concatenate([first, absent]), np.concatenate([second, absent]))
    np.testing.assert_array_equal(with_absent[: len(first)], cluster_pmi(first, second))
    assert np.isnan(with_absent[len(first) :]).all()


def test_wrong_captions_of_a_clip_do_not_speak_for_each_other() -> None:
    rng = np.random.default_rng(0)
    of_clip = rng.integers(0, 64, 1000)
    clip_N = np.repeat(np.arange(1000), 5)
    of_caption, wrong = of_clip[clip_N], clip_N < 100
    of_caption[wrong] = np.repeat((of_clip[:100] + rng.integers(1, 64, 100)) % 64, 5)
    assert (cluster_pmi(of_caption, of_clip[clip_N], clip_N)[wrong] < 0).mean() > 0.95


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
    sound[::4] = np.nan
    sound[5] = 0  # which is a value
    clusters = cluster_window({"frames": frames, "sound": sound}, 3, 2, 0, {})
    labels = label({"frames": frames, "sound": sound}, clusters)
    assert (labels.coarse["sound"][::4] == -1).all() and (labels.fine["sound"][1::4] >= 0).all()
    assert (
        np.isnan(labels.agreement_of_frames()["sound"][::4]).all()
        and not np.isnan(labels.agreement_of_frames()["sound"][1]).any()
    )
    full, rows = sound, np.flatnonzero(labels.coarse["sound"] >= 0)
    assert len(rows) == 30
    sound = centred(sound[rows], sound[rows].mean(0))
    expected = coarse_to_fine(sound, 3, 2, 0)
    np.testing.assert_array_equal(expected.assign(sound)[1], labels.fine["sound"][rows])
    np.testing.assert_array_equal(clusters["sound"].centres.fine_CE, expected.fine_CE)
    assert set(labels.mutual_information()) == {"frames-sound"}
    halves = [label({"frames": frames[part], "sound": full[part]}, clusters) for part in (slice(25), slice(25, None))]
    for kind in ("coarse", "fine"):
        for name, clusters_N in getattr(Labels.joined(halves), kind).items():
            np.testing.assert_array_equal(clusters_N, getattr(labels, kind)[name])


def test_centres_that_are_too_few_for_a_larger_window_start_anew() -> None:
    rng = np.random.default_rng(0)
    few, many = ({"sound": rng.normal(size=(count, 4)).astype(np.float32)} for count in (3, 200))
    before = cluster_window(few, 8, 2, 0, {})
    after = cluster_window(many, 8, 2, 0, before)
    assert not after["sound"].continues(before["sound"])
    np.testing.assert_array_equal(
        after["sound"].centres.fine_CE, cluster_window(many, 8, 2, 0, {})["sound"].centres.fine_CE
    )
    again = cluster_window(many, 8, 2, 1, after)
    assert again["sound"].continues(after["sound"]) and len(again["sound"].centres.fine_CE) == 16


@pytest.mark.parametrize("present", [0, 1, 3])
def test_a_modality_of_too_few_or_equal_clips_has_no_clusters(present: int) -> None:
    frames = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
    sound = np.full((8, 4), np.nan, np.float32)
    sound[:present] = 0.5
    vectors = {"frames": frames, "sound": sound}
    clusters = cluster_window(vectors, 2, 2, 0, {})
    labels = label(vectors, clusters)
    assert list(clusters) == ["frames"] and (labels.coarse["sound"] == -1).all() and (labels.fine["sound"] == -1).all()
    assert labels.mutual_information() == {}
