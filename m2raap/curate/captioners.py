"""Auxiliary captions of key-frames: from a list of captions, from an image-to-text model in this process, or from an endpoint.

Every captioner gives one row for each frame and language, with an outcome: ok, truncated, refused, error, skipped.
Shapes: K frames, C candidate captions, E dimensions.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import yaml
from pydantic import Field, model_validator

from m2raap.core.config import HOW, Config, build
from m2raap.core.errors import M2raapError
from m2raap.core.extension import OrExtension, create, is_extension, load
from m2raap.curate import language
from m2raap.curate.echo import echoes
from m2raap.curate.image_text import ImageText, ImageTextConfig
from m2raap.curate.llm.ask import ask
from m2raap.curate.llm.budget import Budget
from m2raap.curate.llm.cache import Cache
from m2raap.curate.llm.client import HttpBackend
from m2raap.curate.llm.endpoint import EndpointConfig, request_body
from m2raap.curate.llm.prompts import as_data, load_prompt
from m2raap.curate.llm.schema import Request

CAPTION_PROMPTS = ("describe", "repair")
MIN_LANG_SHARE = 0.5  # language.lang_share under which a generated caption is not in its language
Row = dict[str, Any]
_KEY = "caption.name"  # by which messages name an extension


class CaptionerConfig(Config):
    """Which captioner is used, and when it gives no caption."""

    name: Annotated[Literal["retrieval", "transformers", "endpoint"], OrExtension()] = Field(
        default="retrieval",
        description="The captioner: retrieval takes the nearest caption of a list, transformers runs an image-to-text "
        "model in this process, endpoint asks a chat model that sees pictures; or python:module:class.",
    )
    min_score: float | None = Field(
        default=None,
        description="Cosine under which the retrieval captioner gives a frame no caption; null: every frame gets one.",
    )
    prompts: str | None = Field(
        default=None,
        description="Folder with prompt files of your own; null: the prompts of the package. The digests of stages depend on "
        "the contents of the files, not on their path.",
        json_schema_extra=HOW,
    )
    transformers: ImageTextConfig | None = Field(
        default=None, description="The image-to-text model of the transformers captioner."
    )
    endpoint: EndpointConfig | None = Field(default=None, description="The server of the endpoint captioner.")
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="Options of a captioner python:module:class; a class with a Config checks them by it.",
    )

    @model_validator(mode="after")
    def _of_one_kind(self) -> CaptionerConfig:
        for kind in ("transformers", "endpoint"):
            if (getattr(self, kind) is not None) != (self.name == kind):
                raise ValueError(f"the key '{kind}' has to be set with name: {kind}, and with no other name")
        if self.options and not is_extension(self.name):
            raise ValueError(f"the key 'options' is for a captioner python:module:class, and name is {self.name}")
        return self


@dataclass(frozen=True)
class ClipFrames:
    """The key-frames of one clip, as JPEGs in time order, and their times in s from the start of the clip ((): not known)."""

    clip_id: str
    jpegs: Sequence[bytes]
    times_s: Sequence[float] = ()


@dataclass(frozen=True)
class Tools:
    """What captioners may use. The encoders (texts, or JPEGs, -> (N, E) features) are of one backbone; `encode_clips` takes the
    JPEGs of many clips at once, which fill a GPU better. `cache` opens the file of answers at first use."""

    encode_images: Callable[[Sequence[bytes]], np.ndarray]
    encode_texts: Callable[[list[str]], np.ndarray]
    cache: Callable[[], Cache]
    encode_clips: Callable[[Sequence[Sequence[bytes]]], list[np.ndarray]]


class Captioner(Protocol):
    """Captions the frames of clips. A row has frame_index, lang, text (None unless ok), score (None if the captioner gives
    none), outcome, note and sent_to; rows are sorted by frame, then language."""

    producer: str

    def caption_many(self, clips: Sequence[ClipFrames], langs: Sequence[str]) -> list[list[Row]]:
        """One list of rows for each clip."""
        ...


@lru_cache(maxsize=1)
def candidates() -> dict[str, tuple[str, ...]]:
    """lang -> candidate captions; number i in English and number i in Chinese mean the same."""
    raw = resources.files("m2raap").joinpath("assets/words/concepts.yaml").read_text(encoding="utf-8")
    tree = yaml.safe_load(raw)
    pairs = [tuple(pair) for group in tree["captions"].values() for pair in group]
    result = {}
    for column, lang in enumerate(language.LANGS):
        composed = [
            template.format(colour=colour[column], shape=shape[column])
            for template in tree["templates"][lang]
            for colour in tree["colours"]
            for shape in tree["shapes"]
        ]
        result[lang] = (*composed, *(pair[column] for pair in pairs))
        assert len(set(result[lang])) == len(result[lang]), f"concepts.yaml holds a {lang} caption twice"
    return result


class RetrievalCaptioner:
    """Takes the candidate caption nearest to the frame. The candidates of a language are encoded at first use."""

    producer = "retrieval"

    def __init__(self, cfg: CaptionerConfig, tools: Tools) -> None:
        self.cfg = cfg
        self._tools = tools
        self._features_CE: dict[str, np.ndarray] = {}

    def caption_many(self, clips: Sequence[ClipFrames], langs: Sequence[str]) -> list[list[Row]]:
        """See Captioner; clips without frames get no rows."""
        features = self._tools.encode_clips([clip.jpegs for clip in clips if clip.jpegs])
        rows = iter(self.nearest(features, langs))
        return [next(rows) if clip.jpegs else [] for clip in clips]

    def nearest(self, clips: Sequence[np.ndarray], langs: Sequence[str]) -> list[list[Row]]:
        """As `caption_many`, from frame features (K, E) of each clip. Outcomes: ok, skipped.

        Raises M2raapError for features that are not finite or of another width than the text features.
        """
        if not clips:
            return []
        frames_KE = np.concatenate([np.asarray(clip, np.float32) for clip in clips])
        if not np.isfinite(frames_KE).all():
            raise M2raapError("frame features hold NaN or infinity: check the backbone's precision and weights")
        best: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for lang in langs:
            texts_CE = self._text_features(lang)
            if frames_KE.shape[-1] != texts_CE.shape[-1]:
                raise M2raapError(
                    f"frame features have {frames_KE.shape[-1]} dimensions, text features {texts_CE.shape[-1]}: "
                    "both must come from one backbone"
                )
            sims_KC = frames_KE @ texts_CE.T
            best[lang] = sims_KC.argmax(axis=1), sims_KC.max(axis=1)
        result, first = [], 0
        for clip in clips:
            rows = []
            for frame_index in range(len(clip)):
                for lang in langs:
                    choice, score = int(best[lang][0][first + frame_index]), float(best[lang][1][first + frame_index])
                    good = self.cfg.min_score is None or score >= self.cfg.min_score
                    rows.append(
                        {
                            "frame_index": frame_index,
                            "lang": lang,
                            "text": candidates()[lang][choice] if good else None,
                            "score": score,
                            "outcome": "ok" if good else "skipped",
                            "note": "" if good else "min_score",
                            "sent_to": "",
                        }
                    )
            result.append(rows)
            first += len(clip)
        return result

    def _text_features(self, lang: str) -> np.ndarray:
        language.check_lang(lang)
        if lang not in self._features_CE:
            features = np.asarray(self._tools.encode_texts(list(candidates()[lang])), np.float32)
            self._features_CE[lang] = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
        return self._features_CE[lang]


class ImageTextCaptioner:
    """Runs a model of image_text.py. It writes one language; frames get no caption in others."""

    def __init__(self, cfg: CaptionerConfig, tools: Tools) -> None:
        assert cfg.transformers is not None, "CaptionerConfig checks it"
        self.cfg = cfg.transformers
        self._model = ImageText(cfg.transformers, tools.cache)
        self.producer = self._model.name + (f" prompt:{self.cfg.prompt}" if self.cfg.prompt else "")

    def caption_many(self, clips: Sequence[ClipFrames], langs: Sequence[str]) -> list[list[Row]]:
        """See Captioner. Raises M2raapError if the model's language is not among `langs`."""
        lang = self.cfg.lang
        if lang not in langs:
            raise M2raapError(
                f"caption.transformers.lang is '{lang}', and the recipe's langs are {', '.join(langs)}: set it to the "
                "language that the model writes, or use a captioner for all of them (caption.name: endpoint)"
            )
        completions = iter(self._model.describe([(clip.clip_id, jpeg) for clip in clips for jpeg in clip.jpegs]))
        rows: list[list[Row]] = []
        for clip in clips:
            rows.append([])
            for index in range(len(clip.jpegs)):
                completion = next(completions)
                if completion.finish == "stop":
                    rows[-1].append(_judged(index, lang, completion.content, ""))
                else:
                    detail = f"cut after {completion.tokens_out} tokens"
                    rows[-1].append(_row(index, lang, None, "truncated", detail, ""))
        return rows


class EndpointCaptioner:
    """Asks a chat model: one key-frame in each request, and captions in all languages in its answer."""

    def __init__(self, cfg: CaptionerConfig, tools: Tools) -> None:
        assert cfg.endpoint is not None, "CaptionerConfig checks it"
        self.cfg = cfg.endpoint
        self._cache = tools.cache
        self._prompts = {name: load_prompt(name, cfg.prompts) for name in CAPTION_PROMPTS}
        self.producer = f"{self.cfg.model} describe:{self._prompts['describe'].digest[:12]}"

    def caption_many(self, clips: Sequence[ClipFrames], langs: Sequence[str]) -> list[list[Row]]:
        """See Captioner. Raises M2raapError if the server cannot be used at all."""
        requests = self.requests(clips, langs)
        if not requests:
            return [[] for _ in clips]
        cache = self._cache()
        budget = Budget(cache, "caption", self.cfg.budget)
        answers = iter(ask(requests, HttpBackend(self.cfg), cache, budget, self._prompts["repair"]))
        result: list[list[Row]] = []
        for clip in clips:
            rows: list[Row] = []
            for index in range(len(clip.jpegs)):
                answer = next(answers)
                for lang in langs:
                    if answer.captions:
                        rows.append(_judged(index, lang, answer.captions[lang], answer.server))
                    else:
                        rows.append(_row(index, lang, None, answer.outcome, answer.detail, answer.server))
            result.append(rows)
        return result

    def requests(self, clips: Sequence[ClipFrames], langs: Sequence[str]) -> list[Request]:
        """One request for each frame."""
        return [self._request(clip.clip_id, jpeg, tuple(langs)) for clip in clips for jpeg in clip.jpegs]

    def _request(self, clip_id: str, jpeg: bytes, langs: tuple[str, ...]) -> Request:
        picture = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
        messages = [
            {"role": "system", "content": self._prompts["describe"].text},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": as_data({"languages": list(langs)})},
                    {"type": "image_url", "image_url": {"url": picture}},
                ],
            },
        ]
        return Request(request_body(self.cfg, messages, langs), self._prompts["describe"].digest, langs, clip_id)


def _judged(index: int, lang: str, text: str, server: str) -> Row:
    """The row of a generated caption. It is refused if it holds an order read off the screen or talk about the task, or is in
    another language."""
    kinds = echoes(text)
    if kinds:
        return _row(index, lang, None, "refused", f"the answer holds: {', '.join(kinds)}", server)
    if not text or language.lang_share(text, lang) < MIN_LANG_SHARE:
        return _row(index, lang, None, "refused", f"the answer is not in {lang}" if text else "empty", server)
    return _row(index, lang, text, "ok", "", server)


def _row(index: int, lang: str, text: str | None, outcome: str, note: str, server: str) -> Row:
    ids = {"frame_index": index, "lang": lang, "text": text, "score": None}
    return ids | {"outcome": outcome, "note": note, "sent_to": server}


CAPTIONERS: dict[str, Callable[[CaptionerConfig, Tools], Captioner]] = {
    "retrieval": RetrievalCaptioner,
    "transformers": ImageTextCaptioner,
    "endpoint": EndpointCaptioner,
}


def build_captioner(cfg: CaptionerConfig, tools: Tools) -> Captioner:
    """The captioner that `cfg` names. Raises M2raapError where it cannot be used."""
    if is_extension(cfg.name):
        return create(cfg.name, _KEY, ("producer", "caption_many"), _options(cfg), tools)
    return CAPTIONERS[cfg.name](cfg, tools)


def extension_dependencies(cfg: CaptionerConfig) -> Any:
    """What the captions of an extension depend on besides its settings: the result of the `dependencies` of its class, which
    is called with what the class itself is called with; None where it has none. Raises UsageError as `load`."""
    dependencies = getattr(load(cfg.name, _KEY), "dependencies", None)
    return dependencies(_options(cfg)) if dependencies else None


def _options(cfg: CaptionerConfig) -> Any:
    """The first argument of an extension's class: its own Config, where it has one, or else the settings of the stage."""
    config = getattr(load(cfg.name, _KEY), "Config", None)
    return build(config, cfg.options, "caption.options") if config else cfg
