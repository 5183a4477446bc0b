"""Text towers: texts to token ids, token ids to vectors, pooled and token by token.

B texts, L tokens, D width, E size of the common space.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from m2raap.core.errors import M2raapError


def markup_of(tokens: Iterable[str]) -> re.Pattern[str] | None:
    """A pattern of a tokenizer's special tokens, such as <end_of_text>; a single '!', which some pad with, is none."""
    words = sorted((token for token in tokens if len(token) > 2), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, words)), re.IGNORECASE) if words else None


def as_words(texts: Sequence[str], markup: re.Pattern[str] | None) -> list[str]:
    """The texts with a blank within special tokens that somebody wrote into them.

    Otherwise a tokenizer reads '<end_of_text>' as the end, from which the vector of the text is taken.
    """
    if markup is None:
        return list(texts)
    return [markup.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text) for text in texts]


def _pad_at_end(tokenizer: Any) -> None:
    """Texts are padded and cut at their end, as all towers learnt them, whatever the files of a tokenizer of transformers say.

    Tokenizers of the class of Gemma, to which SigLIP2's belongs, pad on the left where their files do not say so. Raises
    M2raapError for a tokenizer that cannot pad.
    """
    if tokenizer.pad_token is None:
        raise M2raapError(
            "the tokenizer of the model has no padding token, with which texts are brought to one length: give its folder the "
            "tokenizer that the model was trained with (pad_token in tokenizer_config.json)"
        )
    tokenizer.padding_side = tokenizer.truncation_side = "right"


def _without_padding(tokens_BL: Tensor, pad_id: int, tokenizer: Any) -> Tensor:
    """(B, L), False for the padding behind a text, which is the last run of the padding's id.

    Where the padding has the id of the end token, the first of the run is the end token.
    """
    length_B = tokens_BL.shape[1] - (tokens_BL == pad_id).flip(1).cumprod(1).sum(1)
    if pad_id in (getattr(tokenizer, "eos_token_id", None), getattr(tokenizer, "sep_token_id", None)):
        length_B = length_B + 1
    return torch.arange(tokens_BL.shape[1], device=tokens_BL.device) < length_B[:, None]


def _save(tokenizer: Any, folder: Path) -> None:
    # The last call's length is a setting of the tokenizer, too: every call states its own, and the file is that of no call.
    of_transformers = getattr(tokenizer, "tokenizer", tokenizer)  # open_clip's holds it
    if (inner := getattr(of_transformers, "backend_tokenizer", None)) is not None:
        inner.no_truncation()
        inner.no_padding()
    try:
        tokenizer.save_pretrained(str(folder))
    except UnicodeEncodeError:
        raise M2raapError(
            "a setting of the model's tokenizer holds half of a character and cannot be written: its files are damaged; copy the "
            "model again"
        ) from None


@dataclass(frozen=True)
class OpenClipWords:
    """A tokenizer of open_clip. `markup`: what in texts is no special token (`as_words`)."""

    tokenizer: Any
    markup: re.Pattern[str] | None

    def __call__(self, texts: Sequence[str], size: int) -> Tensor:
        """Token ids (B, size)."""
        return self.tokenizer(as_words(texts, self.markup), context_length=size)


@dataclass(frozen=True)
class TransformersWords:
    """A tokenizer of transformers. `markup`: what in texts is no special token (`as_words`)."""

    tokenizer: Any
    markup: re.Pattern[str] | None
    lower_case: bool

    def __call__(self, texts: Sequence[str], size: int) -> Tensor:
        """Token ids (B, size)."""
        texts = as_words([text.lower() for text in texts] if self.lower_case else texts, self.markup)
        return self.tokenizer(texts, padding="max_length", truncation=True, max_length=size, return_tensors="pt")[
            "input_ids"
        ]


class OpenClipText:
    """Any text tower of open_clip, with the tokenizer that belongs to it."""

    def __init__(self, clip: Any, tokenizer: Any) -> None:
        self.clip = clip
        self.tokenizer = tokenizer
        self.context_length = int(self.clip.context_length)
        inner = getattr(tokenizer, "tokenizer", None)  # of transformers; open_clip's own BPE has ids and a decoder
        if inner:
            _pad_at_end(inner)
        decoder, ids = getattr(tokenizer, "decoder", {}), getattr(tokenizer, "all_special_ids", ())
        markup = markup_of(inner.all_special_tokens if inner else (decoder[i] for i in ids if i in decoder))
        self.words = OpenClipWords(tokenizer, markup)

    @property
    def tower(self) -> Any:
        """The module that holds token embedding, transformer, last norm, projection."""
        return getattr(self.clip, "text", self.clip)

    @property
    def pad_id(self) -> int:
        return int(getattr(getattr(self.tokenizer, "tokenizer", None), "pad_token_id", None) or 0)

    @property
    def masked_id(self) -> int | None:
        """The id that the tower takes for padding and leaves out; None where it looks at no ids."""
        tower = self.tower
        if hasattr(tower, "pooler"):  # a transformers encoder within open_clip
            return getattr(tower.config, "pad_token_id", None)
        return int(tower.pad_id) if getattr(tower, "cls_emb", None) is not None else None

    @property
    def num_ids(self) -> int | None:
        """Number of token ids that the tower knows; None where that is not known."""
        table = getattr(self.tower, "token_embedding", None)
        if table is None and hasattr(self.tower, "transformer"):
            table = getattr(self.tower.transformer, "get_input_embeddings", lambda: None)()
        return int(table.num_embeddings) if isinstance(table, nn.Embedding) else None

    def tokenize(self, texts: Sequence[str], context_length: int | None = None) -> Tensor:
        return self.words(texts, context_length or self.context_length)

    @property
    def can_shorten(self) -> bool:
        """Whether padding can be left out: only in the causal CLIP text tower, which pools at the end token."""
        tower = self.clip
        return (
            type(tower).__name__ == "CLIP"
            and tower.attn_mask is not None
            and tower.text_pool_type == "argmax"
            and isinstance(tower.text_projection, nn.Parameter)
        )

    def encode(self, tokens_BL: Tensor) -> Tensor:
        """Text features (B, E), not unit. L may be less than context_length where `can_shorten` says so."""
        length = tokens_BL.shape[1]
        if length == self.context_length:
            return self.clip.encode_text(tokens_BL)
        assert self.can_shorten, f"{length} tokens given, this text tower takes {self.context_length}"
        tower = self.clip
        x = tower.token_embedding(tokens_BL) + tower.positional_embedding[:length]
        x = tower.ln_final(tower.transformer(x, attn_mask=tower.attn_mask[:length, :length]))
        return x[torch.arange(len(x), device=x.device), tokens_BL.argmax(dim=-1)] @ tower.text_projection

    def encode_tokens(self, tokens_BL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Text features (B, E), projected features of all tokens (B, L, E), and a mask (B, L), False for padding.

        Padding begins behind the end token: CLIP's BPE pads with the id of '!', so that ids alone do not tell. Raises
        M2raapError for a tower that has no features of tokens.
        """
        tower, outputs = self.tower, []
        last: Any = tower.ln_final if hasattr(tower, "ln_final") else tower.transformer
        handle = last.register_forward_hook(lambda _module, _inputs, out: outputs.append(out))
        try:
            pooled_BE = self.encode(tokens_BL)
        finally:
            handle.remove()
        hidden_BLD = outputs[0] if isinstance(outputs[0], Tensor) else outputs[0].last_hidden_state
        if hidden_BLD.ndim != 3:  # CoCa norms and projects the pooled vector only
            raise M2raapError(
                "an interaction compares clips with the tokens of a text, and the text tower of this backbone has one vector per "
                "text: take another backbone, or set adapt.interaction and embed.rerank to null"
            )
        project = tower.text_projection if hasattr(tower, "ln_final") else tower.proj
        if isinstance(project, nn.Parameter):
            hidden_BLD = hidden_BLD @ project
        elif project is not None:
            hidden_BLD = project(hidden_BLD)
        if getattr(tower, "text_pool_type", getattr(tower, "pool_type", None)) == "argmax":
            length_B = tokens_BL.argmax(-1) + 1
            mask_BL = torch.arange(tokens_BL.shape[1], device=tokens_BL.device) < length_B[:, None]
        else:
            mask_BL = _without_padding(tokens_BL, self.pad_id, getattr(self.tokenizer, "tokenizer", None))
        return pooled_BE, hidden_BLD, mask_BL

    def save_tokenizer(self, folder: Path) -> None:
        if hasattr(self.tokenizer, "tokenizer"):  # of transformers, with files; open_clip's own BPE has none
            _save(self.tokenizer, folder)


class TransformersText:
    """The text model of a transformers CLIP family, called as the library's own `get_text_features` does."""

    can_shorten = False

    def __init__(self, model: Any, tokenizer: Any, context_length: int, lower_case: bool) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.context_length = context_length
        _pad_at_end(tokenizer)
        self.words = TransformersWords(tokenizer, markup_of(tokenizer.all_special_tokens), lower_case)
        self.has_mask = hasattr(model, "text_projection")  # SigLIP was trained without a mask of the padding
        # MetaCLIP 2 has CLIP's causal tower, whose feature is taken at the end token, by its id.
        self.end_id: int | None = (
            model.config.text_config.eos_token_id if model.config.model_type == "metaclip_2" else None
        )

    @property
    def tower(self) -> Any:
        return self.model.text_model

    @property
    def pad_id(self) -> int:
        return int(self.tokenizer.pad_token_id or 0)

    @property
    def masked_id(self) -> int | None:
        """The id that the tower takes for padding and leaves out; None where it looks at no ids."""
        config = self.model.config  # AltCLIP's XLM-R counts positions without padding
        return config.text_config.pad_token_id if config.model_type == "altclip" else None

    @property
    def num_ids(self) -> int | None:
        """Number of token ids that the tower knows; None where that is not known."""
        table = getattr(self.tower, "get_input_embeddings", lambda: None)()
        return int(table.num_embeddings) if isinstance(table, nn.Embedding) else None

    def tokenize(self, texts: Sequence[str], context_length: int | None = None) -> Tensor:
        return self.words(texts, context_length or self.context_length)

    def encode(self, tokens_BL: Tensor) -> Tensor:
        """Text features (B, E), not unit."""
        return self.encode_tokens(tokens_BL)[0]

    def encode_tokens(self, tokens_BL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Text features (B, E), projected features of all tokens (B, L, E), and a mask (B, L), False for padding."""
        mask_BL = _without_padding(tokens_BL, self.pad_id, self.tokenizer)
        out = self.tower(input_ids=tokens_BL, attention_mask=mask_BL.long() if self.has_mask else None)
        if self.has_mask:
            hidden_BLE = self.model.text_projection(out.last_hidden_state)
            pooled_BE = hidden_BLE[:, 0] if self.end_id is None else self.model.text_projection(out.pooler_output)
            return pooled_BE, hidden_BLE, mask_BL
        return out.pooler_output, self.tower.head(out.last_hidden_state), mask_BL

    def save_tokenizer(self, folder: Path) -> None:
        _save(self.tokenizer, folder)
