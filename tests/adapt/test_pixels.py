from collections.abc import Iterator

import numpy as np
import pytest
import torch

from m2raap.adapt.pixels import Decoding, JpegFrames, images_of
from m2raap.core.errors import M2raapError
from m2raap.models.backbone import Backbone
from m2raap.models.images import images_from_jpegs
from tests.adapt.world import ordered


@pytest.fixture(scope="module", params=[0, 2], ids=["threads", "processes"])
def decoding(request: pytest.FixtureRequest) -> Iterator[Decoding]:
    decoding = Decoding(request.param)
    yield decoding
    decoding.close()


def test_more_frames_are_thinned_and_fewer_masked(backbone: Backbone, decoding: Decoding) -> None:
    source, preprocess, clips = ordered(9, 0, frames=6), backbone.preprocess, np.arange(9)
    pixels, mask = JpegFrames(source, preprocess, 3, decoding).batch(clips)
    images = images_of(pixels, mask, preprocess)
    for clip in clips:
        expected = images_from_jpegs([source.jpegs[clip][t] for t in (1, 3, 5)], preprocess)
        assert torch.equal(images[clip], expected)
    assert pixels.dtype == torch.uint8 and mask.all()
    pixels, mask = JpegFrames(source, preprocess, 8, decoding).batch(clips[:1])
    images = images_of(pixels, mask, preprocess)
    assert mask[0].tolist() == [True] * 6 + [False] * 2 and images.shape[1] == 8 and not images[0, 6:].any()
    source.jpegs[7][2] = b"GIF89a"
    for decode in ("exact", "fast"):
        with pytest.raises(M2raapError, match=r"clip 'clip7': picture 2 of 6"):
            JpegFrames(source, preprocess, 8, decoding, decode=decode).batch(clips)
    source.jpegs[1] = []
    with pytest.raises(M2raapError, match=r"clip 'clip1' has no frames"):
        JpegFrames(source, preprocess, 8, decoding).batch(clips)
