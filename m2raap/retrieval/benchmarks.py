"""The declared benchmarks: protocol, counts, source. Evaluation refuses a corpus with other counts."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from m2raap.core.config import Config, build, read_yaml, suggestion
from m2raap.core.errors import M2raapError, UsageError

Count = Annotated[int, Field(ge=1)]


class Benchmark(Config):
    """`num_videos` and `num_texts` (language -> texts) are None where the protocol leaves them free."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="Name of the benchmark.")
    protocol: str = Field(description="One sentence that says which texts are the queries and what is ranked.")
    split: str = Field(default="test", description="Split of the data set that is evaluated.")
    langs: tuple[str, ...] = Field(min_length=1, description="Languages of the texts.")
    num_videos: Count | None = Field(default=None, description="Number of videos; null: not checked.")
    num_texts: dict[str, Count] | None = Field(
        default=None, description="Number of texts by language; null: not checked."
    )
    texts_per_video: Count | None = Field(
        default=None, description="Number of texts that each video has in one language; null: not checked."
    )
    source: str = Field(description="File or address that the list comes from.")
    revision: str = Field(description="Version or digest of the list.")
    citation: str = Field(description="Paper or page to cite.")


_XU_2016 = "Xu et al., MSR-VTT: A Large Video Description Dataset for Bridging Video and Language, CVPR 2016"
_CHEN_2011 = "Chen and Dolan, Collecting Highly Parallel Data for Paraphrase Evaluation, ACL 2011"
_HENDRICKS_2017 = "Hendricks et al., Localizing Moments in Video with Natural Language, ICCV 2017"
_WANG_2019 = (
    "Wang et al., VaTeX: A Large-Scale, High-Quality Multilingual Dataset for Video-and-Language Research, ICCV 2019"
)
_XU_2023 = "Xu et al., Youku-mPLUG: A 10 Million Large-scale Chinese Video-Language Dataset, arXiv 2306.04362"
_EVERY_CAPTION = (
    "every caption is a query; v2t by both rules: rank among the best captions of videos (a), among all captions (b)"
)
_NO_DIGEST = "as published; its digest is not recorded"

_DECLARED = (
    Benchmark(
        name="msrvtt-1ka-jsfusion",
        protocol="the 1k-A list of JSFusion: 1,000 pairs, one sentence a video",
        langs=("en",),
        num_videos=1_000,
        num_texts={"en": 1_000},
        texts_per_video=1,
        source="MSRVTT_JSFUSION_test.csv",
        revision="sha256:e61144b312c8a2fc2126f96504c981f8c23c05b3ba9655a56e2af50ac8a4b16a",
        citation=f"{_XU_2016}; Yu et al., A Joint Sequence Fusion Model for Video QA and Retrieval, ECCV 2018",
    ),
    Benchmark(
        name="msrvtt-full",
        protocol=f"the official test split with 20 captions a video: {_EVERY_CAPTION}",
        langs=("en",),
        num_videos=2_990,
        num_texts={"en": 59_800},
        texts_per_video=20,
        source="msrvtt_caption_test.json",
        revision="sha256:9f14eaa8a715df3d39d5bceffee45c1e6783b07129bda03334434480ac885956",
        citation=_XU_2016,
    ),
    Benchmark(
        name="msrvtt-cn-1ka",
        protocol="the 1k-A list with its sentences in Chinese: 1,000 pairs, one sentence a video",
        langs=("zh",),
        num_videos=1_000,
        num_texts={"zh": 1_000},
        texts_per_video=1,
        source="a list that you give (m2raap data import table); several translations were published: say which one it is",
        revision=_NO_DIGEST,
        citation=f"{_XU_2016}; Chinese texts: the list's authors",
    ),
    Benchmark(
        name="msvd",
        protocol=f"all captions of the 670 test videos: {_EVERY_CAPTION}. zh: the human captions of MSVD-CN",
        langs=("en", "zh"),
        num_videos=670,
        num_texts={"en": 27_763, "zh": 3_980},
        source="captions_msvd.json, test_list.txt, msvd_cn/msvd_cn_captions_release_utf8.csv",
        revision="sha256 of captions_msvd.json 11bc68e8441438121c1c7321526ef1d1fc6553d3b801baef1cca1d3429e306b1, "
        "of test_list.txt 95eacd1fddb1d88cd7144267913ef02d0ecb8cc94a88bc484035433a2d8f9c7a",
        citation=f"{_CHEN_2011}; zh: MSVD-CN, github.com/IDDLab-CTL/MSVD-CN",
    ),
    Benchmark(
        name="msvd-cn",
        protocol=f"the zh half of msvd, the human captions of MSVD-CN of the 670 test videos: {_EVERY_CAPTION}",
        langs=("zh",),
        num_videos=670,
        num_texts={"zh": 3_980},
        source="msvd_cn/msvd_cn_captions_release_utf8.csv (m2raap data import msvd, then embed --set 'langs=[zh]')",
        revision="sha256:80d1d00fbf256920659b54c4c1781c8a6ce6b6ac2c00e67365cd0b0da986c2f4",
        citation=f"MSVD-CN, github.com/IDDLab-CTL/MSVD-CN; videos: {_CHEN_2011}",
    ),
    Benchmark(
        name="msvd-five",
        protocol="five captions drawn for each of the 670 test videos, each a query; the list says which were drawn",
        langs=("en",),
        num_videos=670,
        num_texts={"en": 3_350},
        texts_per_video=5,
        source="a list that you give (m2raap data import table); the lists of the literature were not published",
        revision="the digest in the corpus manifest",
        citation=f"{_CHEN_2011}; Otani et al., Learning Joint Representations of Videos and Sentences with Web Image "
        "Search, 2016; github.com/albanie/collaborative-experts/issues/11",
    ),
    Benchmark(
        name="vatex-val",
        protocol=f"the official validation split with 10 captions a video and language: {_EVERY_CAPTION}. "
        "The Chinese captions are public for training and validation only",
        split="validation",
        langs=("en", "zh"),
        num_videos=3_000,
        num_texts={"en": 30_000, "zh": 30_000},
        texts_per_video=10,
        source="vatex_validation_v1.0.json",
        revision=_NO_DIGEST,
        citation=_WANG_2019,
    ),
    Benchmark(
        name="vatex-public-test",
        protocol=f"the public English test captions, 10 a video: {_EVERY_CAPTION}. Not the 1,500-video split of HGR",
        langs=("en",),
        num_videos=6_000,
        num_texts={"en": 60_000},
        texts_per_video=10,
        source="vatex_public_test_english_v1.1.json",
        revision=_NO_DIGEST,
        citation=_WANG_2019,
    ),
    Benchmark(
        name="didemo-paragraph",
        protocol="all descriptions of a video as one paragraph, one paragraph a video",
        langs=("en",),
        num_videos=1_002,
        num_texts={"en": 1_002},
        texts_per_video=1,
        source="didemo_data_test.jsonl",
        revision="sha256:3150f1b35ccc3a5bdc05fdf8186207f755ded70465a964cd9c5dc0265e2bdfef",
        citation=_HENDRICKS_2017,
    ),
    Benchmark(
        name="didemo-moments",
        protocol=f"each described moment is a clip of its own, several descriptions a moment: {_EVERY_CAPTION}",
        langs=("en",),
        num_videos=2_635,
        num_texts={"en": 4_021},
        source="test_data.json",
        revision="sha256:1891c04ec48b3d364c739594b2b6413806b74bd9027c092d896e7ebb930ff1cd",
        citation=_HENDRICKS_2017,
    ),
    Benchmark(
        name="activitynet-paragraph",
        protocol="val_1: all sentences of a video as one paragraph, one paragraph a video",
        split="val_1",
        langs=("en",),
        num_videos=4_917,
        num_texts={"en": 4_917},
        texts_per_video=1,
        source="actnet_data_val1.jsonl or val_1.json",
        revision="sha256 of actnet_data_val1.jsonl 81705e7728a202b24950446a8f9c41fdfabb88b5202d866348619e26029b8b3e",
        citation="Krishna et al., Dense-Captioning Events in Videos, ICCV 2017",
    ),
    Benchmark(
        name="lsmdc-1k",
        protocol="the 1,000 clips of the LSMDC 2016 challenge's public test, one sentence a clip",
        langs=("en",),
        num_videos=1_000,
        num_texts={"en": 1_000},
        texts_per_video=1,
        source="LSMDC16_challenge_1000_publictect.csv",
        revision=_NO_DIGEST,
        citation="Rohrbach et al., Movie Description, IJCV 2017",
    ),
    Benchmark(
        name="youku",
        protocol=f"the test list of Youku-mPLUG's retrieval task: {_EVERY_CAPTION}. Its size is not checked: none is confirmed",
        langs=("zh",),
        source="retrieval_test.csv",
        revision=_NO_DIGEST,
        citation=_XU_2023,
    ),
    Benchmark(
        name="youku-val",
        protocol=f"the validation list of Youku-mPLUG's retrieval task, on which its publishers print results: {_EVERY_CAPTION}. "
        "Its size is not checked: none is confirmed",
        split="validation",
        langs=("zh",),
        source="retrieval_val.csv",
        revision=_NO_DIGEST,
        citation=_XU_2023,
    ),
    Benchmark(
        name="world-motion",
        protocol="clips of the synthetic bilingual world that differ in motion or order; one text a clip and language",
        langs=("en", "zh"),
        texts_per_video=1,
        source="m2raap data import world",
        revision="the seed in the corpus manifest",
        citation="synthetic: no number from it compares with a number from real video",
    ),
    *(
        Benchmark(
            name=name,
            protocol=f"clips of the synthetic bilingual world {subject}; one text a clip and language",
            langs=("en", "zh"),
            texts_per_video=1,
            source=f"python -m data_tools.world.{source}",
            revision="the seed in the corpus manifest",
            citation="synthetic: no number from it compares with a number from real video",
        )
        for name, source, subject in (
            ("world-one-motion", "benchmark --kind motion", "that show one object, which moves"),
            (
                "world-order",
                "benchmark --kind order",
                "that show two events one after the other, each with a twin in the other order",
            ),
            ("world-offtopic", "benchmark --kind off_topic", "that show more than their texts say"),
            ("world-fine", "fine_grained", "and texts of which a share shows and names the same objects"),
        )
    ),
    Benchmark(
        name="custom",
        protocol="a corpus of the user's own; numbers compare only with others on the very same corpus",
        langs=("en", "zh"),
        source="the corpus",
        revision="the digest in the corpus manifest",
        citation="none",
    ),
)
BENCHMARKS: dict[str, Benchmark] = {benchmark.name: benchmark for benchmark in _DECLARED}
_NEAR = 0.7  # difflib's ratio; 'vatex-test' has 0.74 with 'vatex-public-test', 'kitchen-val' 0.6 with 'vatex-val'
# The names that `data import --holdout` gives, and `data forget` gives to a benchmark from which it removed clips.
_GENERATED = re.compile(r"-(holdout-\d+-seed\d+|minus-\d+)$")


def read_benchmarks(path: Path) -> dict[str, dict[str, Any]]:
    """The benchmarks that a YAML file declares: name -> fields of :class:`Benchmark` without the name.

    Raises UsageError naming the file and the key.
    """
    tree = read_yaml(path)
    for name, fields in tree.items():
        declared(str(name), {str(name): fields}, str(path))
    return tree


def declared(name: str, of_user: Mapping[str, Any], source: str = "benchmarks") -> Benchmark | None:
    """The benchmark of that name, declared by the user or by m2raap; None for an undeclared one.

    Raises UsageError for a declaration that is invalid or takes the name of one of m2raap's, and for an undeclared name that is
    nearly a declared one: if it is a typing error, the counts would go unchecked.
    """
    if name not in of_user:
        benchmark = BENCHMARKS.get(name)
        if not benchmark and (near := _near(name, of_user)):
            raise UsageError(
                f"'{name}' is not a declared benchmark, but nearly '{near}'; give that name, or declare yours under "
                "evaluate.benchmarks, or take a name that is less like it"
            )
        return benchmark
    if name in BENCHMARKS:
        raise UsageError(f"{source}: '{name}' is a declared benchmark of m2raap; give yours another name")
    if not isinstance(of_user[name], dict):
        raise UsageError(f"{source}: {name}: expected the keys of a benchmark (protocol, langs, source ...)")
    return build(Benchmark, {**of_user[name], "name": name}, f"{source}: {name}")


def asked_for(name: str, of_user: Mapping[str, Any], what: str = "protocol") -> str:
    """`name`, which the user gave in place of the protocol of the corpus. Raises UsageError where it is not declared."""
    if name not in BENCHMARKS and name not in of_user:
        raise UsageError(
            f"{what} {name}: no declared benchmark has this name: {suggestion(name, [*BENCHMARKS, *of_user])}"
        )
    return name


def _near(name: str, of_user: Mapping[str, Any]) -> str | None:
    """The declared name that `name` is nearly; None for names that `data import --holdout` or `data forget` made."""
    if _GENERATED.search(name):
        return None
    known = {declared_name.casefold(): declared_name for declared_name in (*BENCHMARKS, *of_user)}
    folded = name.casefold()
    with_prefix = [other for other in known if len(folded) >= 4 and other.startswith(folded)]
    near = with_prefix or difflib.get_close_matches(folded, known, n=1, cutoff=_NEAR)
    return known[near[0]] if near else None


def check_counts(benchmark: Benchmark, videos: Collection[str], owners: Mapping[str, Sequence[str]]) -> None:
    """Raises M2raapError where the number of videos, of texts in a language, or of texts of one video is not the benchmark's;
    in the last case it names the first such video.

    `videos`: every video of the list, also those without an embedding. `owners` maps each language that is evaluated to the
    video of each of its texts; not all languages of the benchmark need be evaluated.
    """
    wrong = []
    if benchmark.num_videos not in (None, len(videos)):
        wrong.append(f"{len(videos):,} videos instead of {benchmark.num_videos:,}")
    for lang, texts in sorted(owners.items()):
        expected = (benchmark.num_texts or {}).get(lang)
        if lang not in benchmark.langs:
            wrong.append(f"texts in '{lang}', which it does not have")
        elif expected is not None and len(texts) != expected:
            wrong.append(f"{len(texts):,} {lang} texts instead of {expected:,}")
        elif each := benchmark.texts_per_video:
            texts_of = Counter(texts)
            odd = sorted(video for video in videos if texts_of[video] != each)
            if odd:
                more = f" and {len(odd) - 1:,} more videos differ" if len(odd) > 1 else ""
                wrong.append(f"{texts_of[odd[0]]:,} {lang} texts of {odd[0]} instead of {each}{more}")
    if wrong:
        raise M2raapError(
            f"benchmark {benchmark.name}: {'; '.join(wrong)}; import the whole list from {benchmark.source} "
            "(unreadable videos stay in it and count as misses), or evaluate as 'custom'"
        )
