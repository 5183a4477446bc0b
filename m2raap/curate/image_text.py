"""Auxiliary captions from an image-to-text model in this process: the BLIP, BLIP-2 and Florence-2 families of transformers.

K: frames of all clips together.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Literal

from pydantic import Field

from m2raap.core.config import Config
from m2raap.core.engine import device
from m2raap.core.errors import M2raapError
from m2raap.curate.llm.cache import Cache
from m2raap.curate.llm.local import Dtype, load_pretrained, weights_name
from m2raap.curate.llm.schema import Completion, Request, is_endless
from m2raap.models.foreign_code import no_foreign_code

FAMILIES: dict[str, str | None] = {"blip": None, "blip-2": None, "instructblip": None, "florence2": "<CAPTION>"}


class ImageTextConfig(Config):
    """An image-to-text model of one of the FAMILIES of transformers. Code that comes with a model is never run.

    Hub examples: Salesforce/blip-image-captioning-base, Salesforce/blip2-opt-2.7b, florence-community/Florence-2-base.
    """

    model: str = Field(min_length=1, description="The model: a name on the Hugging Face hub, or a folder.")
    revision: str | None = Field(default=None, description="Commit or tag of a model on the hub; null: main.")
    lang: Literal["en", "zh"] = Field(default="en", description="The language that the model writes.")
    prompt: str | None = Field(
        default=None,
        description="Text that the caption continues or answers; null: the default of the model's family (<CAPTION> for "
        "Florence-2, none for the others).",
    )
    max_tokens: int = Field(
        default=48, ge=4, le=1024, description="Most tokens of one caption; a longer one is cut off."
    )
    batch_size: int = Field(default=8, ge=1, description="Number of pictures in a forward pass.")
    dtype: Dtype = Field(default="auto", description="Number type of the weights; auto: as they are stored.")


class ImageText:
    """Writes one caption for each picture, by greedy decoding. All batches have the same shape, so a caption does not depend on
    its neighbours."""

    def __init__(self, cfg: ImageTextConfig, cache: Callable[[], Cache]) -> None:
        from m2raap.models.batches import Batches

        self.cfg = cfg
        self.name = weights_name(cfg.model, cfg.revision)
        self._cache = cache
        self._batches = Batches(cfg.batch_size, "pictures")

    def describe(self, pictures: Sequence[tuple[str, bytes]]) -> list[Completion]:
        """(clip_id, JPEG) of K frames -> K completions. Equal pictures are described once; cached answers are used."""
        cache = self._cache()
        requests = [self._request(clip_id, jpeg) for clip_id, jpeg in pictures]
        missing: dict[str, tuple[Request, bytes]] = {}
        for request, (_, jpeg) in zip(requests, pictures, strict=True):
            if request.key not in missing and cache.get(request) is None:
                missing[request.key] = request, jpeg

        def described(batch: list[tuple[Request, bytes]]) -> list[tuple[Request, Completion]]:
            completions = self._generate([jpeg for _, jpeg in batch])
            return [(request, completion) for (request, _), completion in zip(batch, completions, strict=True)]

        for answered in self._batches(described, missing.values()):
            cache.put_all(answered)
        completions = [cache.get(request) for request in requests]
        assert all(completions), "every picture has an answer now"
        return [completion for completion in completions if completion]

    def _request(self, clip_id: str, jpeg: bytes) -> Request:
        cfg = self.cfg
        body = {"model": self.name, "prompt": cfg.prompt, "max_tokens": cfg.max_tokens, "dtype": cfg.dtype}
        return Request(body | {"picture": hashlib.sha256(jpeg).hexdigest()}, "image_text", (cfg.lang,), clip_id)

    def _generate(self, jpegs: list[bytes]) -> list[Completion]:
        import torch
        from PIL import Image

        model, processor = load_captioner(self.cfg.model_dump_json())
        prompt = self.cfg.prompt or FAMILIES[model.config.model_type]
        pictures = [Image.open(io.BytesIO(jpeg)).convert("RGB") for jpeg in jpegs]
        filled = pictures + [pictures[-1]] * (self._batches.size - len(pictures))
        texts = {"text": [prompt] * len(filled)} if prompt else {}
        inputs = processor(images=filled, return_tensors="pt", **texts).to(device())
        inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
        # A model's configuration may name its own code for `generate`.
        with torch.inference_mode(), no_foreign_code(f"model '{self.cfg.model}'"):
            out_KL = model.generate(**inputs, max_new_tokens=self.cfg.max_tokens, do_sample=False, num_beams=1)
        ends = _end_ids(model)
        completions = []
        for row in out_KL[: len(pictures)].tolist():
            new = row[-self.cfg.max_tokens :]
            text = " ".join(processor.tokenizer.decode(row, skip_special_tokens=True).split())
            text = text.removeprefix(prompt).strip() if prompt else text
            whole = bool(ends & set(new[1:])) and not is_endless(text)
            completions.append(Completion(text, "stop" if whole else "length", None, 0, len(new)))
        return completions


def _end_ids(model: Any) -> set[int]:
    ids = model.generation_config.eos_token_id
    if ids is None:
        text = model.config.get_text_config()
        ids = getattr(text, "sep_token_id", None) or getattr(text, "eos_token_id", None)
    return set(ids) if isinstance(ids, list) else set() if ids is None else {ids}


@lru_cache(maxsize=1)
def load_captioner(settings: str) -> tuple[Any, Any]:
    """The model and the processor of an ImageTextConfig written as JSON; the last pair stays in memory."""
    import transformers

    cfg = ImageTextConfig.model_validate_json(settings)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model_config = load_pretrained(transformers.AutoConfig, cfg.model, cfg.revision)
    if model_config.model_type not in FAMILIES:
        raise M2raapError(
            f"model '{cfg.model}' is of the family '{model_config.model_type}'; the captioner runs {', '.join(FAMILIES)}. "
            "To use a chat model that sees pictures, serve it and set caption.name: endpoint"
        )
    processor = load_pretrained(transformers.AutoProcessor, cfg.model, cfg.revision)
    kind = transformers.AutoModelForImageTextToText
    model = load_pretrained(kind, cfg.model, cfg.revision, dtype=cfg.dtype, use_safetensors=True)
    return model.to(device()).eval(), processor
