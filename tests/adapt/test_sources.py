from tests.adapt.world import ordered


def test_the_digest_knows_frames_and_not_texts() -> None:
    assert len({ordered(3, seed).frames_digest for seed in (0, 0, 1)}) == 2
    other = ordered(3, 0)
    other.pairs[2][0] = ("en", "else", "raw")
    assert other.frames_digest == ordered(3, 0).frames_digest and other.digest != ordered(3, 0).digest
    other = ordered(3, 0)
    other.jpegs[2].reverse()
    assert other.frames_digest != ordered(3, 0).frames_digest
