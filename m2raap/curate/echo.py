"""What a model's answer must not hold: talk about itself or its task, links, role tags, markup, invisible characters.

Each kind has a pattern; `echoes` names those that match. A caption of a video holds none of this.
"""

from __future__ import annotations

import re
import unicodedata

from m2raap.curate.hostile import hostility
from m2raap.curate.patterns import LINK

HOSTILE = 0.5  # score of hostile.py from which a text is no longer shown to a model
_TALK_EN = re.compile(
    r"\bas an? (?:ai|language model|large language|assistant)\b"
    r"|\bi(?:['’]m| am) (?:an? ai|a language model|sorry|unable|not able)"
    r"|^(?:sure|certainly|of course|okay|absolutely)[,!.]|^here(?:['’]s| is| are)\b"
    r"|\b(?:rewritten|revised|improved) (?:caption|version|sentence|text)\b"
    r"|\b(?:this|your|raw|original|given|provided) (?:caption|prompt|json|data|input|instructions?)\b"
    r"|\bthe (?:prompt|json|input)\b"
    r"|\b(?:frame|auxiliary) captions?\b|\b(?:previous|prior|above) (?:instruction|prompt|rule|message)s?\b"
    r"|\bsystem (?:prompt|message|override)\b"
    r"|\bi (?:cannot|can['’]t|won['’]t|will not) (?:help|assist|comply|provide|describe|answer|do)\b"
    r"|\b(?:translation|caption|answer|output|response|english|chinese)\s*[:：]\s"
    r"|\bnew instructions?\b|\bprompt injection\b",
    re.IGNORECASE,
)
_TALK_ZH = re.compile(
    "作为(?:一个|一名|一款)?(?:ai|人工智能|语言模型|大模型|助手)|以下(?:是|为)(?:改写|翻译|描述|重写|修改)"
    "|改写(?:后|为|如下|结果)|重写后|翻译(?:如下|结果|为[：:])"
    "|(?:原始|该|这个|给定|提供)的?(?:描述文本|提示词?|指令|数据|字幕文本)|忽略(?:以上|之前|前面|上述|所有|先前|一切)"
    "|无视(?:以上|之前|前面|上述|所有)|(?:系统|新的?)(?:提示词?|指令)|^(?:好的|当然|没问题)[，,。！!]|^(?:抱歉|对不起)"
    "|我(?:无法|不能)(?:描述|提供|回答|协助|满足)"
    "|(?:译文|中文|英文|答案|输出|回答|描述|标题)[：:]",
    re.IGNORECASE,
)
_ROLE = re.compile(
    r"<\|[^|<>]{0,40}\|>|\[/?(?:INST|SYS|SYSTEM|USER|ASSISTANT)\]|<</?SYS>>|</?s>|</?(?:data|system|user|assistant|tool|think)\b"
    r"|(?:^|[\n.。])\s*#*\s*(?:system|user|assistant|human|ai|系统|用户|助手|人类)\s*[:：]",
    re.IGNORECASE,
)
_MARKUP = re.compile(
    r"```|</?[a-z][a-z0-9]*(?:\s[^<>]{0,200})?/?>|!?\[[^\]]{1,200}\]\([^)]{1,300}\)|\*\*\S"
    r"|(?:^|\n)\s{0,3}(?:#{1,6}|[-*+>]|\d+\.)\s"
    r"|[{}]|\\u[0-9a-f]{4}|&(?:#\d+|[a-z]{2,8});|\$\{|javascript:|data:\w+/",
    re.IGNORECASE,
)
_BREAKS = re.compile(r"[\n\r\t\v\f\u2028\u2029]")
_JOINER = re.compile("(?<=[\u2600-\u27bf\ufe0f\U0001f000-\U0001faff])\u200d")  # of composed emoji
_UNSEEN = frozenset(("Cc", "Cf", "Co", "Cs", "Cn"))


def echoes(text: str) -> list[str]:
    """The kinds of echo in `text`, in a fixed order; empty for a plain caption."""
    kinds = []
    if LINK.search(text):
        kinds.append("link")
    if _TALK_EN.search(text) or _TALK_ZH.search(text):
        kinds.append("talk about the task")
    if _ROLE.search(text):
        kinds.append("role tag")
    if _MARKUP.search(text):
        kinds.append("markup")
    if _BREAKS.search(text):
        kinds.append("line break")
    if any(unicodedata.category(char) in _UNSEEN and char not in "\n\r\t\v\f" for char in _JOINER.sub("", text)):
        kinds.append("invisible character")
    if is_hostile(text):
        kinds.append("orders to a program")
    return kinds


def is_hostile(text: str) -> bool:
    """Whether a text is more likely an order to a program than a caption (hostile.py); then no model may read it."""
    return hostility(text) > HOSTILE
