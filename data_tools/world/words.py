"""English and Chinese captions of scenes: natural paraphrases, the same for the same generator state."""

from __future__ import annotations

import numpy as np

from data_tools.world.grammar import Event, Obj, Scene

LANGS = ("en", "zh")
EN_SHAPE = {
    "circle": ("circle",), "square": ("square",), "triangle": ("triangle",), "star": ("star",), "ring": ("ring",),
    "cross": ("cross",), "heart": ("heart",), "diamond": ("diamond",), "crescent": ("crescent", "crescent moon"),
    "hourglass": ("hourglass",),
}  # fmt: skip
ZH_SHAPE = {
    "circle": ("圆形",), "square": ("方块", "正方形"), "triangle": ("三角形",), "star": ("星星", "五角星"),
    "ring": ("圆环",), "cross": ("十字", "十字形"), "heart": ("心形", "爱心"), "diamond": ("菱形",),
    "crescent": ("月牙", "月牙形"), "hourglass": ("沙漏", "沙漏形"),
}  # fmt: skip
ZH_COLOUR = {
    "red": "红色", "orange": "橙色", "yellow": "黄色", "green": "绿色", "cyan": "青色", "blue": "蓝色",
    "purple": "紫色", "pink": "粉色", "white": "白色", "black": "黑色",
}  # fmt: skip
EN_BACKGROUND = {
    "plain": "plain", "gradient": "shaded", "stripes": "striped", "checker": "checkered", "grain": "grainy",
    "dots": "dotted", "waves": "wavy",
}  # fmt: skip
ZH_BACKGROUND = {
    "plain": "纯色", "gradient": "渐变", "stripes": "条纹", "checker": "格子", "grain": "颗粒", "dots": "圆点",
    "waves": "波浪",
}  # fmt: skip
# (singular, plural, rest)
EN_VERB: dict[str, tuple[tuple[str, str, str], ...]] = {
    "left": (("moves", "move", "left"), ("moves", "move", "to the left"), ("slides", "slide", "left"),
             ("drifts", "drift", "to the left"), ("is", "are", "moving left")),
    "right": (("moves", "move", "right"), ("moves", "move", "to the right"), ("slides", "slide", "right"),
              ("drifts", "drift", "to the right"), ("is", "are", "moving right")),
    "up": (("moves", "move", "up"), ("rises", "rise", ""), ("moves", "move", "upwards"), ("floats", "float", "up"),
           ("is", "are", "moving up")),
    "down": (("moves", "move", "down"), ("sinks", "sink", ""), ("moves", "move", "downwards"),
             ("drops", "drop", "down"), ("is", "are", "moving down")),
    "grow": (("grows", "grow", ""), ("gets", "get", "bigger"), ("becomes", "become", "larger"),
             ("is", "are", "growing")),
    "shrink": (("shrinks", "shrink", ""), ("gets", "get", "smaller"), ("is", "are", "shrinking"),
               ("becomes", "become", "smaller")),
    "rotate": (("rotates", "rotate", ""), ("spins", "spin", ""), ("turns", "turn", "around"),
               ("is", "are", "rotating")),
    "appear": (("appears", "appear", ""), ("shows", "show", "up"), ("suddenly appears", "suddenly appear", ""),
               ("pops", "pop", "into view")),
    "vanish": (("vanishes", "vanish", ""), ("disappears", "disappear", ""),
               ("suddenly disappears", "suddenly disappear", ""), ("goes", "go", "away")),
}  # fmt: skip
ZH_VERB: dict[str, tuple[str, ...]] = {
    "left": ("向左移动", "往左边移动", "向左滑动", "移到左边", "正在向左移动"),
    "right": ("向右移动", "往右边移动", "向右滑动", "移到右边", "正在向右移动"),
    "up": ("向上移动", "往上升", "上升", "向上飘", "正在向上移动"),
    "down": ("向下移动", "往下降", "下降", "向下落", "正在向下移动"),
    "grow": ("变大", "逐渐变大", "慢慢放大", "越来越大"),
    "shrink": ("变小", "逐渐缩小", "慢慢缩小", "越来越小"),
    "rotate": ("旋转", "原地转动", "不停地旋转", "转圈"),
    "appear": ("出现", "突然出现", "出现了", "显现出来"),
    "vanish": ("消失", "突然消失", "消失了", "不见了"),
}
EN_ORDER = (
    "{a}, then {b}", "first {a}, then {b}", "{a} and after that {b}", "{a} before {b}", "{a}; next, {b}",
    "after {a}, {b}",
)  # fmt: skip
ZH_ORDER = ("{a}，然后{b}", "先是{a}，接着{b}", "{a}之后，{b}", "首先{a}，随后{b}", "{a}，再后来{b}")
EN_MOTION = ("{a}", "{a}", "{n} that {v}", "a clip in which {a}", "here {a}")
ZH_MOTION = ("{a}", "{a}", "画面中{a}", "可以看到{a}", "视频里{a}")
EN_PAN = (
    "the camera pans {d} past {n}", "{n} while the camera pans {d}", "the camera turns {d} over {n}",
    "a pan to the {d} across {n}", "panning {d} past {n}",
)  # fmt: skip
ZH_PAN = ("镜头向{d}摇过{n}", "镜头向{d}平移，画面里有{n}", "摄像机向{d}摇，拍到{n}", "画面向{d}平移，扫过{n}")
EN_STATIC = ("{n}", "a still view of {n}", "there {be} {n}", "a picture of {n}", "{n} standing still")
ZH_STATIC = ("{n}", "画面中有{n}", "一张{n}的图片", "这里有{n}", "{n}静止不动")
_EN_NUMBER = {2: "two", 3: "three"}
_ZH_NUMBER = {1: "一个", 2: "两个", 3: "三个"}


def _pick(options: tuple, rng: np.random.Generator):
    return options[int(rng.integers(len(options)))]


def _en_plural(word: str) -> str:
    return word + ("es" if word.endswith("s") else "s")


def colour_and_shape(obj: Obj, lang: str, rng: np.random.Generator) -> str:
    """'red circle' / '红色圆形': a tag, without article and number."""
    if lang == "zh":
        return ZH_COLOUR[obj.colour] + _pick(ZH_SHAPE[obj.shape], rng)
    return f"{obj.colour} {_pick(EN_SHAPE[obj.shape], rng)}"


def noun_phrase(obj: Obj, lang: str, rng: np.random.Generator, size: bool = False) -> str:
    """'two small red circles' / '两个小红色圆形'; the size only when `size`."""
    name = colour_and_shape(obj, lang, rng)
    if lang == "zh":
        size_word = {"small": "小的", "large": "大的"}[obj.size] if size else ""
        return f"{_ZH_NUMBER[obj.count]}{size_word}{name}"
    if size:
        name = f"{obj.size} {name}"
    if obj.count > 1:
        return f"{_EN_NUMBER[obj.count]} {_en_plural(name)}"
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def background_phrase(background: str, lang: str, rng: np.random.Generator) -> str:
    """'on a striped background' / '条纹背景'."""
    if lang == "zh":
        return f"{ZH_BACKGROUND[background]}背景"
    word = EN_BACKGROUND[background]
    return f"{_pick(('on', 'against', 'in front of'), rng)} a {word} background"


def _clause(event: Event, lang: str, rng: np.random.Generator) -> tuple[str, str]:
    """Noun phrase and verb phrase of an event."""
    size = event.motion not in ("grow", "shrink") and rng.random() < 0.3
    noun = noun_phrase(event.obj, lang, rng, size)
    if lang == "zh":
        return noun, _pick(ZH_VERB[event.motion], rng)
    singular, plural, rest = _pick(EN_VERB[event.motion], rng)
    return noun, f"{plural if event.obj.count > 1 else singular} {rest}".strip()


def _join(noun: str, verb: str, lang: str) -> str:
    return f"{noun} {verb}" if lang == "en" else f"{noun}{verb}"


def describe(scene: Scene, lang: str, rng: np.random.Generator) -> str:
    """One caption of the scene's main shot in 'en' or 'zh': always colour, shape, count and motion; size and
    background sometimes."""
    assert lang in LANGS, lang
    english = lang == "en"
    events = scene.main.events
    if len(events) == 2:
        first, second = (_join(*_clause(e, lang, rng), lang) for e in events)
        text = _pick(EN_ORDER if english else ZH_ORDER, rng).format(a=first, b=second)
    elif events[0].motion != "still":
        noun, verb = _clause(events[0], lang, rng)
        text = _pick(EN_MOTION if english else ZH_MOTION, rng).format(a=_join(noun, verb, lang), n=noun, v=verb)
    else:
        obj = events[0].obj
        noun = noun_phrase(obj, lang, rng, size=bool(rng.random() < 0.3))
        if scene.main.camera.startswith("pan"):
            left = scene.main.camera == "pan_left"
            direction = ("left" if left else "right") if english else ("左" if left else "右")
            text = _pick(EN_PAN if english else ZH_PAN, rng).format(d=direction, n=noun)
        else:
            be = "is" if obj.count == 1 else "are"
            text = _pick(EN_STATIC if english else ZH_STATIC, rng).format(n=noun, be=be)
    if rng.random() < (0.6 if scene.kind == "static" else 0.25):
        where = background_phrase(scene.main.background, lang, rng)
        if not english:
            return f"{where}下，{text}" if rng.random() < 0.5 else f"{where}上，{text}"
        return f"{text} {where}" if len(events) == 1 else f"{where}, {text}"
    return text


def all_words() -> list[str]:
    """Every phrase that captions are built from, for a tokenizer to learn (words, not their meaning)."""
    phrases: list[str] = []
    for table in (EN_SHAPE, ZH_SHAPE, ZH_VERB):
        phrases += [word for words in table.values() for word in words]
    phrases += [" ".join(forms) for verbs in EN_VERB.values() for forms in verbs]
    for names in (ZH_COLOUR, EN_BACKGROUND, ZH_BACKGROUND):
        phrases += names.values()
    phrases += [*ZH_COLOUR, "small large", "小的 大的", *_EN_NUMBER.values(), *_ZH_NUMBER.values()]
    for templates in (EN_ORDER, ZH_ORDER, EN_MOTION, ZH_MOTION, EN_PAN, ZH_PAN, EN_STATIC, ZH_STATIC):
        phrases += [t.format(a=" ", b=" ", n=" ", v=" ", d=" ", be="is are") for t in templates]
    phrases += [f"{_en_plural(word)}" for words in EN_SHAPE.values() for word in words]
    return [
        *phrases,
        "on a background, against a background, in front of a background",
        "背景下 背景上",
        "左 右 left right",
    ]
