"""Benchmarks are declared data: a protocol, its counts, where it comes from. Evaluation refuses other counts."""

from __future__ import annotations

from m2raap.core.config import Config
from m2raap.core.errors import M2raapError


class Benchmark(Config):
    """`num_videos` and `num_texts` (one language's) are None where the protocol leaves them free."""

    name: str
    protocol: str
    split: str
    langs: tuple[str, ...]
    num_videos: int | None = None
    num_texts: int | None = None
    texts_per_video: int | None = None
    source: str
    revision: str
    citation: str


_XU_2016 = "Xu et al., MSR-VTT: A Large Video Description Dataset for Bridging Video and Language, CVPR 2016"

_DECLARED = (
    Benchmark(
        name="msrvtt-1ka-jsfusion",
        protocol="the 1k-A list of JSFusion: 1,000 pairs, one given sentence a video",
        split="test",
        langs=("en",),
        num_videos=1_000,
        num_texts=1_000,
        texts_per_video=1,
        source="MSRVTT_JSFUSION_test.csv",
        revision="sha256:e61144b312c8a2fc2126f96504c981f8c23c05b3ba9655a56e2af50ac8a4b16a",
        citation=f"{_XU_2016}; Yu et al., A Joint Sequence Fusion Model for Video QA and Retrieval, ECCV 2018",
    ),
    Benchmark(
        name="msrvtt-full",
        protocol="the official test split: every one of 20 captions a query, v2t by the best caption of each video",
        split="test",
        langs=("en",),
        num_videos=2_990,
        num_texts=59_800,
        texts_per_video=20,
        source="msrvtt_caption_test.json",
        revision="sha256:9f14eaa8a715df3d39d5bceffee45c1e6783b07129bda03334434480ac885956",
        citation=_XU_2016,
    ),
    Benchmark(
        name="world-motion",
        protocol="clips of the synthetic bilingual world that differ in motion or order; one text a clip and language",
        split="test",
        langs=("en", "zh"),
        texts_per_video=1,
        source="m2raap data import world",
        revision="the seed in the corpus manifest",
        citation="synthetic: no number from it compares with a number from real video",
    ),
    Benchmark(
        name="custom",
        protocol="a corpus of the user's own; numbers compare only with others on the very same corpus",
        split="test",
        langs=("en", "zh"),
        source="the corpus",
        revision="the digest in the corpus manifest",
        citation="none",
    ),
)
BENCHMARKS: dict[str, Benchmark] = {benchmark.name: benchmark for benchmark in _DECLARED}


def check_counts(benchmark: Benchmark, num_videos: int, num_texts: int) -> None:
    """Raises M2raapError where the videos, or the texts of one language, are not as many as the protocol says.

    `num_videos` counts every video of the list, those without an embedding too.
    """
    wrong = [
        f"{found:,} {what} instead of {declared:,}"
        for what, found, declared in (
            ("videos", num_videos, benchmark.num_videos),
            ("texts", num_texts, benchmark.num_texts),
        )
        if declared is not None and found != declared
    ]
    if not wrong and benchmark.texts_per_video is not None and num_texts != num_videos * benchmark.texts_per_video:
        wrong = [f"{num_texts:,} texts for {num_videos:,} videos instead of {benchmark.texts_per_video} each"]
    if wrong:
        raise M2raapError(
            f"benchmark {benchmark.name}: {' and '.join(wrong)}; import the whole list from {benchmark.source} "
            "(unreadable videos stay in it and count as misses), or evaluate as 'custom'"
        )
