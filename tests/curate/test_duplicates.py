from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from m2raap.curate.duplicates import (
    DuplicateClipsConfig,
    common_texts,
    matching_share,
    near_duplicate_clips,
    text_key,
    text_sketch,
)

CFG = DuplicateClipsConfig()


def random_clips(num: int, k: int, seed: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return rng.integers(-(2**63), 2**63 - 1, (num, k)).tolist()


def flip(row: list[int], bits: int, rng: np.random.Generator) -> list[int]:
    """Each hash with `bits` random bits turned over, as signed 64-bit numbers."""
    result = []
    for value in row:
        for bit in rng.choice(64, bits, replace=False):
            value ^= 1 << int(bit)
        value &= 2**64 - 1
        result.append(value - 2**64 if value >= 2**63 else value)
    return result


def test_copies_are_found_and_the_smallest_id_is_kept() -> None:
    rng = np.random.default_rng(0)
    base = random_clips(50, 8, 1)
    hashes = [*base, flip(base[3], 4, rng), flip(base[3], 2, rng), flip(base[7], 5, rng)]
    ids = [f"c{i:03d}" for i in range(50)] + ["a", "z", "y"]
    found = near_duplicate_clips(ids, hashes, [3.0] * 53)
    assert found == {"c003": "a"} or found == {"c003": "a", "z": "a"}
    assert "y" not in found  # five bits are one too many


def test_order_and_duration_matter() -> None:
    row = random_clips(1, 8, 2)[0]
    assert near_duplicate_clips(["a", "b"], [row, row], [3.0, 3.1]) == {"b": "a"}
    assert near_duplicate_clips(["a", "b"], [row, row[::-1]], [3.0, 3.0]) == {}
    assert near_duplicate_clips(["a", "b"], [row, row], [3.0, 4.0]) == {}


def test_flat_frames_never_match() -> None:
    for value in (0, -1, 1, 1 << 62, ~3):
        assert near_duplicate_clips(["a", "b"], [[value] * 8] * 2, [3.0, 3.0]) == {}
    row = random_clips(1, 8, 3)[0]
    mostly_black = [0] * 6 + row[:2]
    assert near_duplicate_clips(["a", "b"], [mostly_black] * 2, [3.0, 3.0]) == {}


def test_shorter_copies_align_by_position_and_empty_clips_match_nothing() -> None:
    row = random_clips(1, 8, 4)[0]
    held = [row[0], row[0], row[2], row[2], row[4], row[4], row[6], row[6]]
    assert (
        matching_share(np.array(held, np.int64).view(np.uint64), np.array(held[::2], np.int64).view(np.uint64), CFG)
        >= 0.5
    )
    assert near_duplicate_clips(["a", "b", "c"], [[], [], row], [1.0, 1.0, 1.0]) == {}


def test_verify_can_save_a_clip() -> None:
    row = random_clips(1, 8, 5)[0]
    assert near_duplicate_clips(["a", "b"], [row, row], [3.0, 3.0], verify=lambda kept, dropped: False) == {}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.permutations(range(12)))
def test_same_as_brute_force_in_any_order(seed: int, order: list[int]) -> None:
    rng = np.random.default_rng(seed)
    base = random_clips(4, 4, seed)
    hashes = base + [flip(base[int(rng.integers(4))], int(rng.integers(0, 7)), rng) for _ in range(8)]
    ids = [f"c{i:02d}" for i in rng.permutation(12)]
    durations = [3.0 + 0.25 * float(rng.integers(2)) for _ in range(12)]
    cfg = DuplicateClipsConfig(min_share=0.5)
    planes = [np.array(row, np.int64).view(np.uint64) for row in hashes]
    expected: dict[str, str] = {}
    for i in sorted(range(12), key=lambda i: ids[i]):
        for j in sorted(range(12), key=lambda j: ids[j]):
            close = abs(durations[i] - durations[j]) <= cfg.max_duration_gap * max(durations[i], durations[j])
            if (
                ids[j] < ids[i]
                and ids[j] not in expected
                and close
                and matching_share(planes[j], planes[i], cfg) >= 0.5
            ):
                expected[ids[i]] = ids[j]
                break
    pick = list(itertools.chain(order))
    got = near_duplicate_clips([ids[i] for i in pick], [hashes[i] for i in pick], [durations[i] for i in pick], cfg)
    assert got == expected
    assert list(got) == sorted(got)


def test_text_sketches_add_up_over_parts() -> None:
    rows = [(f"c{i}", "en", f"Video clip {i}!") for i in range(6)] + [
        ("c0", "en", "video CLIP 9"),
        ("c1", "en", "a dog"),
    ]
    whole = text_sketch(rows)
    parts = [text_sketch([r for r in rows if int(r[0][1:]) % 2 == p]) for p in (0, 1)]
    assert common_texts([whole], 5) == common_texts(parts, 5) == {text_key("video clip 0", "en"): 6}
    assert common_texts(parts, 6) == {}
    assert text_key("video clip 0", "zh") != text_key("video clip 0", "en")
    assert text_key("ＶＩＤＥＯ  clip 7.", "en") == text_key("video clip 1", "en")
    assert text_key("no dog", "en") != text_key("dog", "en")
