"""Faults that are planted on purpose, and light dirt, as captions and files from the web have them.

Every fault is in the truth table. Light dirt is not, because it is no fault: a rewriter should remove it and the clip
should stay.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field, model_validator

from data_tools.world.grammar import MOTIONS, Event, Obj, Scene, Shot, meaning, motions_of
from data_tools.world.words import ZH_COLOUR, ZH_SHAPE
from m2raap.core.config import Config

CLIP_FAULTS = ("duplicate_clip", "black", "frozen", "truncated", "not_media")
TEXT_FAULTS = (
    "mismatch", "mismatch_motion", "boilerplate", "duplicate_text", "wrong_language", "mojibake", "text_too_short",
    "machine_tags",
)  # fmt: skip


class FaultConfig(Config):
    """Share of the training clips that get each fault. A clip gets at most one; the shares add up to at most 0.9."""

    mismatch: float = Field(default=0.10, ge=0, le=1, description="Share of clips with captions of another clip.")
    mismatch_motion: float = Field(
        default=0.02,
        ge=0,
        le=1,
        description="Share of clips with captions of the right objects and a wrong motion or order.",
    )
    boilerplate: float = Field(
        default=0.04, ge=0, le=1, description="Share of clips with phrases of stock sites or channels as captions."
    )
    duplicate_text: float = Field(
        default=0.04, ge=0, le=1, description="Share of clips with one of a few captions that fit every video."
    )
    wrong_language: float = Field(
        default=0.03, ge=0, le=1, description="Share of clips with captions in another language than the stated one."
    )
    mojibake: float = Field(
        default=0.03, ge=0, le=1, description="Share of clips with captions that a wrong encoding broke."
    )
    text_too_short: float = Field(
        default=0.03, ge=0, le=1, description="Share of clips with a colour or a shape alone as caption."
    )
    machine_tags: float = Field(
        default=0.03, ge=0, le=1, description="Share of clips with file names or lists of tags as captions."
    )
    duplicate_clip: float = Field(
        default=0.04, ge=0, le=1, description="Share of clips that are re-encoded copies of another clip."
    )
    black: float = Field(default=0.02, ge=0, le=1, description="Share of clips that are almost black.")
    frozen: float = Field(default=0.02, ge=0, le=1, description="Share of clips that repeat one frame.")
    truncated: float = Field(default=0.02, ge=0, le=1, description="Share of clips whose file ends too early.")
    not_media: float = Field(default=0.02, ge=0, le=1, description="Share of clips whose file is no video.")
    light_dirt: float = Field(
        default=0.25,
        ge=0,
        le=1,
        description="Share of the captions without a fault that get noise which a rewriter can remove: a stock phrase or hash "
        "tags at the end, capitals, odd blanks or punctuation.",
    )

    @model_validator(mode="after")
    def _below_one(self) -> FaultConfig:
        total = sum(getattr(self, name) for name in (*TEXT_FAULTS, *CLIP_FAULTS))
        if total > 0.9:
            raise ValueError(f"the faults add up to {total:.2f}; leave at least a tenth of the clips good (sum <= 0.9)")
        return self


def assign(num_clips: int, cfg: FaultConfig, rng: np.random.Generator) -> list[str]:
    """One fault name per clip, '' for none. The number of each fault is its share, rounded; which clips get it is drawn."""
    names = [name for name in (*TEXT_FAULTS, *CLIP_FAULTS) for _ in range(round(getattr(cfg, name) * num_clips))]
    names = (names + [""] * num_clips)[:num_clips]
    return [names[i] for i in rng.permutation(num_clips)]


def languages_hit(rng: np.random.Generator) -> tuple[str, ...]:
    """The languages of a clip's faulty texts: both in three of five cases."""
    return (("en", "zh"), ("en", "zh"), ("en", "zh"), ("en",), ("zh",))[int(rng.integers(5))]


def other_motion(scene: Scene, rng: np.random.Generator) -> Scene:
    """The same objects with another motion: the reversed order of an order clip, else the opposite motion."""
    main = scene.main
    if len(main.events) == 2:
        return Scene(scene.kind, Shot(main.events[::-1], main.background, main.camera))
    event = main.events[0]
    opposite = {"left": "right", "up": "down", "grow": "shrink", "appear": "vanish"}
    opposite |= {v: k for k, v in opposite.items()}
    options = [m for m in motions_of(event.obj.shape) if m not in (event.motion, "rotate")]
    motion = opposite.get(event.motion) or options[int(rng.integers(len(options)))]
    assert motion in MOTIONS
    return Scene("motion", Shot((Event(event.obj, motion),), main.background))


def is_other_looks(a: Scene, b: Scene) -> bool:
    """Whether the captions of `a` and `b` cannot be confused: they have no (colour, shape) pair in common."""
    pairs = {e.obj.pair for e in a.main.events} & {e.obj.pair for e in b.main.events}
    return not pairs and meaning(a) != meaning(b)


_BOILERPLATE = {
    "en": (
        "Royalty free stock footage, 4K, clip {n:05d}, license available for commercial use",
        "Stock video footage {n:05d} - royalty free HD clip, download now",
        "Please like, comment and subscribe to my channel for more videos",
        "4K stock footage no. {n:05d}, royalty-free, for editorial and commercial use only",
        "Thanks for watching! Don't forget to like and subscribe, link in the description",
        "High quality royalty free motion background loop, stock clip {n:05d}, all rights reserved",
    ),
    "zh": (
        "高清视频素材，编号{n:05d}，版权所有，可商用",
        "4K实拍视频素材下载，编号{n:05d}，免版税",
        "点赞关注不迷路，更多精彩视频请订阅本频道",
        "版权归原作者所有，如有侵权请联系删除",
        "正版商用高清视频素材{n:05d}，立即下载",
    ),
}
_GENERIC = {
    "en": ("a video clip of a scene", "a funny moment caught on camera"),
    "zh": ("一段有趣的视频片段", "精彩瞬间视频"),
}
_FOREIGN = {
    "en": (
        "une forme colorée se déplace lentement sur le fond de l'image",
        "deux objets apparaissent l'un après l'autre devant un mur gris",
        "маленькая фигура медленно движется по экрану слева направо",
        "на сером фоне появляется большой цветной предмет",
        "色のついた図形が画面の中をゆっくりと動いています",
        "una figura pequeña se mueve despacio hacia la derecha de la pantalla",
        "ein großer Gegenstand dreht sich langsam vor einem grauen Hintergrund",
        "一个彩色的物体在画面里慢慢移动，然后不见了",
    ),
    "zh": (
        "une forme colorée se déplace lentement sur le fond de l'image",
        "маленькая фигура медленно движется по экрану слева направо",
        "色のついた図形が画面の中をゆっくりと動いています",
        "小さな形が現れて、それから右へ動きます",
        "작은 도형이 화면 오른쪽으로 천천히 움직입니다",
        "a coloured object is moving slowly over the screen and then it goes away",
        "there are some shapes on a background and one of them is turning",
    ),
}
_TAGS = {
    "en": (
        "shape_{s}, {c}, 4k, hd", "IMG_{n:04d}.mov", "{c}#a {s}#n", "{c},{s},vector,loop,background,abstract",
        "VID_2021{n:04d}_{n:06d}.mp4", "tags: {c}; {s}; animation; motion; {n}",
    ),
    "zh": (
        "IMG_{n:04d}.mov", "形状_{s},{c},4k,高清", "{c}/a {s}/n", "标签：{c}；{s}；动画；素材", "DSC{n:05d}.MP4",
    ),
}  # fmt: skip


def zh_colour(obj: Obj) -> str:
    return ZH_COLOUR[obj.colour]


def zh_shape(obj: Obj) -> str:
    return ZH_SHAPE[obj.shape][0]


def boilerplate(lang: str, rng: np.random.Generator) -> str:
    """A phrase of a stock site or a channel that says nothing about the video."""
    options = _BOILERPLATE[lang]
    return options[int(rng.integers(len(options)))].format(n=int(rng.integers(100000)))


def generic(lang: str, rng: np.random.Generator) -> str:
    """One of two texts that many clips get."""
    return _GENERIC[lang][int(rng.integers(len(_GENERIC[lang])))]


def foreign(lang: str, rng: np.random.Generator) -> str:
    """A sentence that is in another language than `lang`."""
    return _FOREIGN[lang][int(rng.integers(len(_FOREIGN[lang])))]


def too_short(colour: str, shape: str, rng: np.random.Generator) -> str:
    """One word (or one or two Chinese characters) of the caption."""
    return (colour, shape)[int(rng.integers(2))]


def machine_tags(lang: str, colour: str, shape: str, rng: np.random.Generator) -> str:
    """A file name, a tag list or the residue of a part-of-speech tagger."""
    options = _TAGS[lang]
    return options[int(rng.integers(len(options)))].format(c=colour, s=shape, n=int(rng.integers(10000)))


def mojibake(text: str, lang: str, rng: np.random.Generator) -> tuple[str, bool]:
    """`text` read with a wrong encoding, and whether no byte was lost, so that it can be repaired.

    English gets typographic quotes first, because a wrong encoding does not change plain ASCII.
    """
    if lang == "en":
        words = text.split(" ")
        i = int(rng.integers(len(words)))
        words[i] = f"\u201c{words[i]}\u201d" if rng.random() < 0.5 else f"\u2018{words[i]}\u2019"
        quoted = " ".join(words)
        if rng.random() < 0.5:
            quoted += " \u2014 caf\u00e9 d\u00e9cor"
        broken = quoted.encode().decode("cp1252" if "\u201d" not in quoted else "latin-1")
        return broken, True
    way = int(rng.integers(3))
    if way == 0:
        return text.encode().decode("latin-1"), True
    broken = text.encode().decode("cp1252" if way == 1 else "gbk", errors="replace")
    return broken, "\ufffd" not in broken


def light_dirt(text: str, lang: str, rng: np.random.Generator) -> str:
    """A good caption with some noise that a rewriter should remove."""
    way = int(rng.integers(5))
    if way == 0:
        tails = (", royalty free stock footage 4k", " - HD stock video", " | 4K royalty-free clip")
        if lang == "zh":
            tails = ("，高清视频素材", "，4K视频素材下载", "｜正版商用素材")
        return text + tails[int(rng.integers(len(tails)))]
    if way == 1:
        tails = (" #shorts #fyp", " #video #viral", " #4k #loop")
        if lang == "zh":
            tails = (" #短视频 #热门", " #抖音 #推荐", "#素材#")
        return text + tails[int(rng.integers(len(tails)))]
    if way == 2:
        return text.upper() if lang == "en" else text.replace("，", ",") + "。。。"
    if way == 3:
        gap = int(rng.integers(1, max(2, len(text) - 1)))
        return text.replace(" ", "  ") if lang == "en" else text[:gap] + "  " + text[gap:]
    wide = {code: code + 0xFEE0 for code in range(0x21, 0x7F)} | {0x20: 0x3000}
    return text.translate(wide) if lang == "en" else f"\u3000{text}！！"


def not_media(rng: np.random.Generator) -> bytes:
    """The bytes of something that is no video."""
    way = int(rng.integers(3))
    if way == 0:
        page = (
            "<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head><body><h1>Not Found</h1></body></html>\n"
        )
        return page.encode()
    if way == 1:
        return b"This video is no longer available in your country.\n" * 20
    import cv2

    good, data = cv2.imencode(".png", rng.integers(0, 255, (32, 32, 3), dtype=np.uint8))
    assert good
    return data.tobytes()


def cut_short(data: bytes, rng: np.random.Generator) -> bytes:
    """The first 30-60% of a file."""
    return data[: int(len(data) * rng.uniform(0.3, 0.6))]


def reworked(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A copy (T, H, W, 3) like that of a re-upload: 1-3 px cut off at each side and scaled back, a little brighter or
    darker."""
    import cv2

    height, width = frames.shape[1:3]
    top, left, bottom, right = (int(v) for v in rng.integers(1, 4, 4))
    gain = float(rng.choice([rng.uniform(0.9, 0.96), rng.uniform(1.04, 1.1)]))
    copies = []
    for frame in frames:
        part = frame[top : height - bottom, left : width - right]
        back = cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.float32)
        copies.append(np.clip(back * gain + 0.5, 0, 255).astype(np.uint8))
    return np.stack(copies)
