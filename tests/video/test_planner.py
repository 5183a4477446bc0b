from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2raap.video.choose import middles
from m2raap.video.clip import KeyframeConfig
from m2raap.video.planner import DECODER_DELAY_FRAMES, IFRAMES_PER_PICK, Packets, SeekRead, seek_reads


def packets_of(groups: list[int], tick_s: float = 0.04) -> Packets:
    """Groups of pictures of the given lengths; in each the second and third packet are displayed in reverse order."""
    packets = Packets()
    start = 0
    for length in groups:
        order = list(range(start, start + length))
        if length >= 3:
            order[1], order[2] = order[2], order[1]
        for place, shown in enumerate(order):
            packets.add(shown * tick_s, tick_s, (shown, start + place) if place == 0 else None)
        start += length
    return packets.close(packets.end_s)


groups_of_pictures = st.lists(st.integers(1, 60), min_size=1, max_size=40)


@pytest.mark.parametrize("strategy", ["keyframe", "uniform", "iframe"])
@given(groups_of_pictures, st.integers(1, 16), st.booleans())
def test_enough_is_decoded_and_no_more_than_there_is(strategy: str, groups: list[int], k: int, fill: bool) -> None:
    packets = packets_of(groups)
    cfg = KeyframeConfig.model_validate({"strategy": strategy, "k": k, "fill": fill})
    seeks = seek_reads(packets, cfg, packets.end_s)
    targets = [packet for seek in seeks for packet in seek.targets]
    assert len(targets) == len(set(targets)) and set(targets) <= set(range(sum(groups)))
    if strategy == "iframe" and not fill:
        assert len(targets) == min(k, len(groups)) and set(targets) <= set(packets.keys)
    else:
        assert min(k, sum(groups)) <= len(targets) <= max(k, IFRAMES_PER_PICK * k)
    assert all(a.key < b.key for a, b in pairwise(seeks))
    for seek in seeks:
        assert seek.key in packets.keys and seek.key <= seek.targets[0]
        # No target is decoded from an earlier I-frame than necessary.
        later = [key for key in packets.keys if seek.key < key]
        assert not later or seek.targets[-1] < later[0] + 1
        assert seek.frames == (
            1 if seek.targets == (seek.key,) else seek.targets[-1] - seek.key + 1 + DECODER_DELAY_FRAMES
        )


@given(groups_of_pictures, st.integers(1, 16))
def test_uniform_takes_the_frames_displayed_at_the_middles(groups: list[int], k: int) -> None:
    packets = packets_of(groups)
    targets = {
        p for seek in seek_reads(packets, KeyframeConfig(strategy="uniform", k=k), packets.end_s) for p in seek.targets
    }
    for middle_s in middles(packets.end_s, k):
        seen = packets.seen_at(middle_s)
        assert seen in targets
        assert packets.times_s[seen] <= middle_s + 1e-6 < packets.times_s[seen] + 0.04 + 2e-6


def test_frames_of_a_plan() -> None:
    """With an I-frame every 2 s, three I-frames per pick are decoded; with a single one, most of the clip for uniform."""
    packets = packets_of([50] * 300)
    seeks = seek_reads(packets, KeyframeConfig(), packets.end_s)
    assert sum(seek.frames for seek in seeks) == 8 * IFRAMES_PER_PICK and all(
        seek.targets == (seek.key,) for seek in seeks
    )
    single = packets_of([1000])
    (seek,) = seek_reads(single, KeyframeConfig(strategy="uniform"), single.end_s)
    assert seek == SeekRead(0, tuple(sorted(single.seen_at(m) for m in middles(single.end_s, 8))))
    assert 900 < seek.frames <= 1000


def test_a_frame_displayed_before_its_i_frame_needs_the_one_before() -> None:
    """An open group of pictures: packet 4 is stored after the I-frame 3, but displayed before it."""
    packets = Packets()
    for index, (time_s, is_key) in enumerate([(0.0, True), (0.1, False), (0.2, False), (0.4, True), (0.3, False)]):
        packets.add(time_s, 0.1, (index, index) if is_key else None)
    packets.close(1.0)
    assert packets.key_before(4) == 0 and packets.key_before(3) == 3


def test_no_i_frame() -> None:
    packets = Packets()
    packets.add(0.0, 0.04, None)
    assert seek_reads(packets.close(1.0), KeyframeConfig(), 1.0) == ()
    assert seek_reads(Packets().close(1.0), KeyframeConfig(), 1.0) == ()


def test_the_network_is_refused_with_a_sparse_reading() -> None:
    with pytest.raises(ValueError, match="transnetv2"):
        KeyframeConfig(reading="sparse", detector="transnetv2")
