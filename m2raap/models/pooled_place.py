"""Checks that a text tower takes its feature where its tokenizer puts the end (or start) token.

Towers find that place by a rule of their own: the highest id, a fixed id, the first or the last place. With another
tokenizer than the tower was trained with, the rule points at an ordinary word, and every text feature is wrong in silence.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from m2raap.core.errors import M2raapError
from m2raap.models.text import OpenClipText, TransformersText

# Other words, lengths, capitals and scripts, so that a word cannot be at the pooled place of all of them.
PROBES = ("a dog runs in the park", "Zebra, 7 VANS! over the mountain river", "一个人在公园里跑步")

# Names of the marks in transformers' tokenizers, and in open_clip's own BPE.
_ENDS = ("eos_token_id", "sep_token_id", "eot_token_id")
_STARTS = ("bos_token_id", "cls_token_id", "sot_token_id")


def check_pooled_place(subject: str, text: OpenClipText | TransformersText) -> None:
    """Raises M2raapError where the pooled token of a probe text is a part of the text itself.

    Also where the tower takes another id for padding than the tokenizer, and would read the padding as words. `subject` begins
    the message. A tower that averages over tokens has no such place, and passes.
    """
    if text.masked_id is not None and text.masked_id != text.pad_id:
        raise M2raapError(
            f"{subject}: the text tower takes the id {text.masked_id} for padding, and the tokenizer pads with the id "
            f"{text.pad_id}, so that its text features would be wrong. Give the folder the tokenizer that the model was "
            "trained with"
        )
    rule = _rule(text)
    if rule is None:
        return
    probes = (*PROBES, "a bird sings " * text.context_length)  # the last one is cut, and has to keep its mark
    tokens_BL = text.tokenize(probes)
    in_words, place_B, names = rule(tokens_BL)
    inner = getattr(text.tokenizer, "tokenizer", text.tokenizer)
    marks = {int(number) for name in names if (number := getattr(inner, name, None)) is not None}
    pooled_B = tokens_BL[torch.arange(len(probes)), place_B]
    for probe, token in zip(probes, pooled_B.tolist(), strict=True):
        if token not in marks:
            end = getattr(inner, "eos_token", None)
            end_name = f" '{end}' (id {inner.eos_token_id})" if end else ""
            raise M2raapError(
                f"{subject}: the text tower takes its feature at {in_words}. In '{probe[:60]}' that is the token with id "
                f"{token}, and not the end token{end_name} of the tokenizer, so that its text features would be wrong. Give the "
                "folder the tokenizer that the model was trained with, or, where the model was trained with this one, set "
                "text_cfg.pool_type to 'eos' and text_cfg.eos_id to the id of its end token"
            )


Pooled = tuple[str, Tensor, tuple[str, ...]]


def _rule(text: OpenClipText | TransformersText) -> Callable[[Tensor], Pooled] | None:
    """From tokens (B, L) to the rule in words, the pooled places (B,), and the tokenizer's names of the marks that fit there.

    None where the tower has no such place.
    """
    if isinstance(text, TransformersText):
        if text.end_id is not None:
            return partial(_fixed_end, text.end_id)
        return _first if text.has_mask else _last
    tower = text.tower
    if hasattr(tower, "pooler"):  # a transformers encoder within open_clip
        return _first if type(tower.pooler).__name__.startswith("Cls") else None
    if getattr(tower, "cls_emb", None) is not None:  # CoCa appends a class token of its own
        return None
    pool_type = getattr(tower, "text_pool_type", getattr(tower, "pool_type", None))
    if pool_type == "eos":
        return partial(_fixed_end, int(getattr(text.clip, "text_eos_id", getattr(tower, "eos_id", 2))))
    return {"argmax": _highest, "first": _first, "last": _last}.get(str(pool_type))


def _highest(tokens_BL: Tensor) -> Pooled:
    return "the highest id", tokens_BL.argmax(-1), _ENDS


def _fixed_end(eos_id: int, tokens_BL: Tensor) -> Pooled:
    return f"the first token with id {eos_id}", (tokens_BL == eos_id).int().argmax(-1), _ENDS


def _first(tokens_BL: Tensor) -> Pooled:
    return "the first place", torch.zeros(len(tokens_BL), dtype=torch.long), _STARTS


def _last(tokens_BL: Tensor) -> Pooled:
    return "the last place", torch.full((len(tokens_BL),), -1), (*_ENDS, "pad_token_id")
