"""Rewrites the raw texts of a clip, with its auxiliary captions, as faithful captions in the recipe's languages.

'rules' only cleans; in a language without any text it takes an auxiliary caption, and it never translates. 'endpoint' and
'local' ask a language model for a rewrite of every text, and for a translation into each language in which the clip has no
text; a clip without texts gets captions from its auxiliary ones alone. A model's text is a candidate: fidelity_rules.py
decides whether it replaces anything.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from pydantic import Field, model_validator

from m2raap.core.config import HOW, Config
from m2raap.curate import language
from m2raap.curate.clean import clean
from m2raap.curate.echo import is_hostile
from m2raap.curate.fidelity import compare
from m2raap.curate.llm.ask import Backend, ask
from m2raap.curate.llm.budget import Budget
from m2raap.curate.llm.cache import Cache
from m2raap.curate.llm.client import HttpBackend
from m2raap.curate.llm.endpoint import EndpointConfig, request_body
from m2raap.curate.llm.local import LocalBackend, LocalModelConfig, weights_name
from m2raap.curate.llm.prompts import as_data, load_prompt
from m2raap.curate.llm.schema import Answer, Request

Row = Mapping[str, Any]
MODEL_PROMPTS = ("rewrite", "from_frames", "repair")
_MAX_AUX, _MAX_AUX_CHARS, _MAX_RAW_CHARS = 16, 300, 2000


class RewriterConfig(Config):
    """Which rewriter is used, and what it may do."""

    name: Literal["rules", "none", "endpoint", "local"] = Field(
        default="rules",
        description="The rewriter: rules cleans without a model, none changes no text, endpoint asks a server, local runs a "
        "transformers model in this process.",
    )
    simplified: bool = Field(
        default=False, description="Whether traditional characters are turned into simplified ones (OpenCC)."
    )
    fill_missing: bool = Field(
        default=True, description="Whether a clip without a text in a language gets an auxiliary caption as one."
    )
    translate: bool = Field(
        default=True, description="Whether models translate a text into each language in which its clip has no text."
    )
    min_words_en: int = Field(
        default=3,
        ge=1,
        description="Least words of a cleaned English text; an auxiliary caption replaces a shorter one.",
    )
    min_words_zh: int = Field(
        default=4,
        ge=1,
        description="Least Han characters of a cleaned Chinese text; an auxiliary caption replaces a shorter one.",
    )
    prompts: str | None = Field(
        default=None,
        description="Folder with prompt files of your own; null: the prompts of the package. The digests of stages depend on "
        "the contents of the files, not on their path.",
        json_schema_extra=HOW,
    )
    endpoint: EndpointConfig | None = Field(default=None, description="The server of the endpoint rewriter.")
    local: LocalModelConfig | None = Field(default=None, description="The model of the local rewriter.")

    @model_validator(mode="after")
    def _of_one_kind(self) -> RewriterConfig:
        for kind in ("endpoint", "local"):
            if (getattr(self, kind) is not None) != (self.name == kind):
                raise ValueError(f"the key '{kind}' has to be set with name: {kind}, and with no other name")
        return self

    @property
    def fills_missing(self) -> bool:
        """Whether a clip without texts can get one from its auxiliary captions."""
        return self.fill_missing and self.name != "none"

    @property
    def asks_a_model(self) -> bool:
        """Whether the texts come from a language model."""
        return self.name in ("endpoint", "local")


@dataclass
class Rewrite:
    """`new`: rows with lang, text, origin 'rewrite' | 'translation', parent_text_id (None: there was no raw text) and note; from
    a model also `aux`, the auxiliary captions that it saw as (lang, text), and for an auxiliary caption that no model has
    rewritten `caption_fit`, its mean score (None: it has none). `kept`: raw texts that stay as they are, rows with
    text_id (None: of the clip), reason (an outcome) and detail. `sent_to`: text_id (None: no raw text) -> the server."""

    new: list[dict[str, Any]] = field(default_factory=list)
    kept: list[dict[str, Any]] = field(default_factory=list)
    sent_to: dict[str | None, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ClipTexts:
    """Raw texts: rows with text_id, lang, text. Auxiliary captions: rows with lang, text and score, in frame order."""

    clip_id: str
    raw: Sequence[Row]
    aux: Sequence[Row]


class Rewriter(Protocol):
    """Rewrites texts. `producer` names model and prompt; `checked`: its texts have to pass the fidelity rules."""

    producer: str
    checked: bool

    def rewrite_many(self, clips: Sequence[ClipTexts], langs: Sequence[str]) -> list[Rewrite]:
        """One result for each clip, in order."""
        ...


class NoRewriter:
    """Leaves every text as it is."""

    producer, checked = "none", False

    def __init__(self, cfg: RewriterConfig | None = None, cache: Callable[[], Cache] | None = None) -> None:
        self.cfg = cfg or RewriterConfig(name="none")

    def rewrite_many(self, clips: Sequence[ClipTexts], langs: Sequence[str]) -> list[Rewrite]:
        """See Rewriter; nothing is new."""
        return [Rewrite() for _ in clips]


class RulesRewriter:
    """Cleans texts by rules (clean.py) and checks the results (fidelity.py), without a model. Where nothing is left of a text,
    an auxiliary caption replaces it."""

    producer, checked = "rules", False

    def __init__(self, cfg: RewriterConfig | None = None, cache: Callable[[], Cache] | None = None) -> None:
        self.cfg = cfg or RewriterConfig()

    def rewrite_many(self, clips: Sequence[ClipTexts], langs: Sequence[str]) -> list[Rewrite]:
        """See Rewriter."""
        return [self.rewrite(clip.raw, clip.aux, langs) for clip in clips]

    def rewrite(self, raw: Sequence[Row], aux: Sequence[Row], langs: Sequence[str]) -> Rewrite:
        """Texts in languages outside `langs` stay unchanged. Raises M2raapError for a language that is not supported."""
        result = Rewrite()
        for lang in langs:
            language.check_lang(lang)
            best = best_auxiliary(aux, lang)
            texts = [row for row in raw if row["lang"] == lang]
            for row in texts:
                self._rewrite_one(row, best, result)
            if not texts and best is not None and self.cfg.fill_missing:
                row = _row(lang, best[0], None, "no raw text: auxiliary caption")
                result.new.append(row | {"caption_fit": best[1]})
        return result

    def _rewrite_one(self, row: Row, best_aux: tuple[str, float | None] | None, result: Rewrite) -> None:
        lang, text, text_id = row["lang"], row["text"], row["text_id"]
        cleaned, steps = clean(text, lang, self.cfg.simplified)
        if cleaned == text:
            return
        if language.num_words(cleaned, lang) < getattr(self.cfg, f"min_words_{lang}"):
            if best_aux is None:
                result.kept.append(
                    {
                        "text_id": text_id,
                        "reason": "nothing_left",
                        "detail": f"after {', '.join(steps)}; no auxiliary caption",
                    }
                )
                return
            new = _row(lang, best_aux[0], text_id, f"nothing left after {', '.join(steps)}: auxiliary caption")
            result.new.append(new | {"caption_fit": best_aux[1]})
            return
        fidelity = compare(text, cleaned, lang, self.cfg.simplified)
        if not fidelity.kept:
            detail = f"lost: {' '.join(fidelity.lost) or '-'}; invented: {' '.join(fidelity.invented) or '-'}"
            result.kept.append({"text_id": text_id, "reason": "unfaithful", "detail": detail})
            return
        result.new.append(_row(lang, cleaned, text_id, ", ".join(steps)))


def _row(lang: str, text: str, parent_text_id: str | None, note: str, origin: str = "rewrite") -> dict[str, Any]:
    return {"lang": lang, "text": text, "origin": origin, "parent_text_id": parent_text_id, "note": note}


def best_auxiliary(aux: Sequence[Row], lang: str) -> tuple[str, float | None] | None:
    """The auxiliary caption that most key-frames have, with its mean score there (None: the captioner gives no scores). Ties are
    decided by the higher sum of scores, then by the alphabet. None: there is no caption."""
    votes: dict[str, list[float | None]] = defaultdict(list)
    for row in aux:
        if row["lang"] == lang and row["text"]:
            votes[row["text"]].append(row.get("score"))
    scores = {text: [score for score in of_text if score is not None] for text, of_text in votes.items()}
    if not votes:
        return None
    best = min(votes, key=lambda text: (-len(votes[text]), -sum(scores[text]), text))
    return best, math.fsum(scores[best]) / len(scores[best]) if scores[best] else None


# -- language models ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    """One request about a clip: the raw text (None: there is none), and the languages of the answer."""

    parent: Row | None
    langs: tuple[str, ...]
    aux: tuple[tuple[str, str], ...]
    request: Request


class ModelRewriter:
    """Asks a language model, by an endpoint or in this process. `cache` opens the file of answers at first use."""

    checked = True

    def __init__(self, cfg: RewriterConfig, cache: Callable[[], Cache]) -> None:
        self.cfg = cfg
        self._cache = cache
        self._prompts = {name: load_prompt(name, cfg.prompts) for name in MODEL_PROMPTS}
        model = cfg.endpoint or cfg.local
        assert model is not None, "RewriterConfig checks it"
        self._model = model
        self._name = model.model if cfg.endpoint else weights_name(model.model, getattr(model, "revision", None))
        self.producer = f"{self._name} rewrite:{self._prompts['rewrite'].digest[:12]}"
        self.aux_producer = f"{self._name} from_frames:{self._prompts['from_frames'].digest[:12]}"

    def rewrite_many(self, clips: Sequence[ClipTexts], langs: Sequence[str]) -> list[Rewrite]:
        """See Rewriter. Raises M2raapError if the model or the server cannot be used at all."""
        results = [Rewrite() for _ in clips]
        jobs: list[tuple[Rewrite, _Job]] = []
        for result, clip in zip(results, clips, strict=True):
            for row in clip.raw:
                if is_hostile(row["text"]):
                    detail = "the text gives instructions: it is not shown to a model"
                    result.kept.append({"text_id": row["text_id"], "reason": "skipped", "detail": detail})
            jobs += [(result, job) for job in self.jobs(clip, langs)]
        if jobs:
            cache = self._cache()
            budget = Budget(cache, "rewrite", self._model.budget)
            requests = [job.request for _, job in jobs]
            answers = ask(requests, self._backend(), cache, budget, self._prompts["repair"])
            for (result, job), answer in zip(jobs, answers, strict=True):
                self._take(result, job, answer)
        return results

    def requests(self, clips: Sequence[ClipTexts], langs: Sequence[str]) -> list[Request]:
        """All requests about the clips, for a Batch file."""
        return [job.request for clip in clips for job in self.jobs(clip, langs)]

    def jobs(self, clip: ClipTexts, langs: Sequence[str]) -> list[_Job]:
        """One request for each raw text in `langs`; for a clip without texts one request about its auxiliary captions.

        Only the first text of a clip is translated, into the languages in which the clip has no raw text.
        """
        seen = [(row["lang"], row["text"][:_MAX_AUX_CHARS]) for row in clip.aux if row["text"]]
        aux = tuple(dict.fromkeys(pair for pair in seen if not is_hostile(pair[1])))[:_MAX_AUX]
        raw = [row for row in clip.raw if row["lang"] in langs]
        present = {row["lang"] for row in raw}
        absent = tuple(lang for lang in langs if lang not in present) if self.cfg.translate else ()
        raw = [row for row in raw if not is_hostile(row["text"])]
        jobs = []
        for number, row in enumerate(raw):
            answer_langs = (row["lang"], *(absent if number == 0 else ()))
            caption = {"lang": row["lang"], "text": row["text"][:_MAX_RAW_CHARS]}
            request = self._request("rewrite", answer_langs, {"caption": caption}, aux, clip.clip_id)
            jobs.append(_Job(row, answer_langs, aux, request))
        if not clip.raw and aux and self.cfg.fill_missing:
            jobs.append(
                _Job(None, tuple(langs), aux, self._request("from_frames", tuple(langs), {}, aux, clip.clip_id))
            )
        return jobs

    def _request(
        self, prompt: str, langs: tuple[str, ...], caption: dict[str, Any], aux: Sequence[tuple[str, str]], clip_id: str
    ) -> Request:
        frames = [{"lang": lang, "text": text} for lang, text in aux]
        payload = {"languages": list(langs), **caption, "frame_captions": frames}
        messages = [
            {"role": "system", "content": self._prompts[prompt].text},
            {"role": "user", "content": as_data(payload)},
        ]
        if self.cfg.endpoint:
            body = request_body(self.cfg.endpoint, messages, langs)
        else:
            body = {"model": self._name, "messages": messages, "max_tokens": self._model.max_tokens}
        return Request(body, self._prompts[prompt].digest, langs, clip_id)

    def _backend(self) -> Backend:
        if self.cfg.endpoint:
            return HttpBackend(self.cfg.endpoint)
        assert self.cfg.local is not None
        return LocalBackend(self.cfg.local)

    def _take(self, result: Rewrite, job: _Job, answer: Answer) -> None:
        text_id = job.parent["text_id"] if job.parent else None
        if answer.server:
            result.sent_to[text_id] = answer.server
        if answer.captions is None:
            result.kept.append({"text_id": text_id, "reason": answer.outcome, "detail": answer.detail})
            return
        for lang in job.langs:
            origin = "rewrite" if job.parent is None or lang == job.parent["lang"] else "translation"
            text = answer.captions[lang]
            if job.parent is not None and origin == "rewrite" and text == job.parent["text"]:
                result.kept.append({"text_id": text_id, "reason": "ok", "detail": "unchanged"})
                continue
            row = _row(lang, text, text_id, "" if job.parent else "no raw text: auxiliary captions alone", origin)
            producer = self.producer if job.parent else self.aux_producer
            result.new.append(row | {"aux": job.aux, "producer": producer})


REWRITERS: dict[str, Callable[[RewriterConfig, Callable[[], Cache]], Rewriter]] = {
    "rules": RulesRewriter,
    "none": NoRewriter,
    "endpoint": ModelRewriter,
    "local": ModelRewriter,
}
