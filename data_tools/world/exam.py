"""How well an open_clip model names stills of the world's objects."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_tools.world.grammar import ALL_PAIRS
from data_tools.world.stills import mirrored, prompt, sample_shot, take


def wilson(hits: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95% interval of a share (Wilson 1927)."""
    p = hits / n
    middle, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return float((middle - half) / (1 + z * z / n)), float((middle + half) / (1 + z * z / n))


def evaluate(folder: Path, n: int, seed: int) -> dict[str, dict[str, dict[str, float]]]:
    """Two questions about stills of other seeds, through open_clip's own loading and preprocessing.

    `named`: `n` stills of one object, named among all 100 combinations. `order`: a still of two objects and its mirror
    image, `n` pictures, each of which chooses between 'A and B' and 'B and A' (chance 50%, ties count half).

    Returns {question: {lang: {accuracy, low, high, n}}}, the interval being 95%; of `order` also `cosine`, the mean
    cosine between the two texts.
    """
    import open_clip
    import torch
    from PIL import Image

    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{folder}", trust_remote_code=False)
    model.eval()

    def of_images(stills) -> np.ndarray:
        pixels = torch.stack([preprocess(Image.fromarray(s.image)) for s in stills])  # type: ignore[operator]  # open_clip has no types
        with torch.no_grad():
            parts = [model.encode_image(part, normalize=True) for part in pixels.split(256)]  # type: ignore  # as above
        return torch.cat(parts).numpy()

    def of_texts(texts: list[str]) -> np.ndarray:
        with torch.no_grad():
            parts = [model.encode_text(tokenize(texts[i : i + 256]), normalize=True) for i in range(0, len(texts), 256)]  # type: ignore  # as above
        return torch.cat(parts).numpy()

    rng = np.random.default_rng([seed, 424242])
    ones = [take(sample_shot(rng, two=False, count=1), rng) for _ in range(n)]
    truth = np.array([ALL_PAIRS.index(s.shot.events[0].obj.pair) for s in ones])
    twos = [take(sample_shot(rng, two=True, count=1), rng) for _ in range(n // 2)]
    image_NE = of_images(ones)
    left_NE, right_NE = of_images(twos), of_images([mirrored(s) for s in twos])
    result: dict[str, dict[str, dict[str, float]]] = {"named": {}, "order": {}}
    for lang, joiner in (("en", " and "), ("zh", "和")):
        names = of_texts([prompt(p, lang) for p in ALL_PAIRS])
        result["named"][lang] = _share(float(((image_NE @ names.T).argmax(axis=1) == truth).sum()), n)
        nouns = [[prompt(e.obj.pair, lang) for e in s.shot.events] for s in twos]
        forward, backward = of_texts([joiner.join(n) for n in nouns]), of_texts([joiner.join(n[::-1]) for n in nouns])
        hits = order_hits(left_NE, right_NE, forward, backward)
        result["order"][lang] = _share(hits, 2 * len(twos)) | {"cosine": float((forward * backward).sum(1).mean())}
    return result


def order_hits(picture_NE: np.ndarray, mirror_NE: np.ndarray, text_NE: np.ndarray, swapped_NE: np.ndarray) -> float:
    """How many of 2 N pictures, N with their mirror images, are nearer to their own text than to the one with the nouns
    swapped; ties count half."""
    gaps = np.concatenate([(picture_NE * (text_NE - swapped_NE)).sum(1), (mirror_NE * (swapped_NE - text_NE)).sum(1)])
    return float((gaps > 0).sum() + (gaps == 0).sum() / 2)


def _share(hits: float, n: int) -> dict[str, float]:
    low, high = wilson(hits, n)
    return {"accuracy": hits / n, "low": low, "high": high, "n": n}


def write_card(out: Path, how: str, accuracy: dict[str, dict[str, dict[str, float]]]) -> None:
    """Writes CARD.md of the tiny CLIP in `out`: what it is, how it was trained (`how`), and its accuracy by `evaluate`."""
    named, order = (
        "\n".join(
            f"- {lang}: {r['accuracy']:.1%} of n = {int(r['n'])} stills (95% interval {r['low']:.1%} to {r['high']:.1%})"
            + (f"; cosine of the two texts {r['cosine']:.3f}" if "cosine" in r else "")
            for lang, r in accuracy[question].items()
        )
        for question in ("named", "order")
    )
    size = (out / "open_clip_model.safetensors").stat().st_size / 1e6
    text = f"""# Tiny bilingual CLIP

Licence: Apache-2.0. An open_clip `local-dir` of {size:.1f} MB (fp16): ViT of 48 px, patch 8, width 128, 6 layers; text
tower of width 128, 3 layers, 40 tokens; embedding 128; its own byte-level BPE for English and Chinese.

{how}

## What it has seen

Only stills that `data_tools/world` draws: one or two kinds of objects of 10 shapes in 10 colours (all 100 pairs), one
to three of a kind, two sizes, 7 backgrounds, half of them through JPEG; with captions in English and Chinese of what
they look like. Two kinds of objects are always named from left to right, and their pictures come with the mirror image.
No photographs, no videos, no caption that speaks of motion or of an order in time: those words are in its vocabulary but
untrained. A quarter of the captions had random other words around them. It is for tests, demonstrations and offline
runs; it knows nothing of the real world.

## How good it is

Stills of seeds that the training did not use, one object each, named among all 100 colour x shape pairs with
"a red circle" / "一个红色圆形":

{named}

Stills of two objects, each choosing between "a red circle and a blue star" / "一个红色圆形和一个蓝色星星" and the same with
the nouns swapped (chance 50%):

{order}
"""
    (out / "CARD.md").write_text(text, encoding="utf-8")
