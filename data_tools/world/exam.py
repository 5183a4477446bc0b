"""How well an open_clip model names stills of the world's objects."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_tools.world.stills import ALL_PAIRS, prompt, sample_shot, take


def wilson(hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95% interval of a share (Wilson 1927)."""
    p = hits / n
    middle, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return float((middle - half) / (1 + z * z / n)), float((middle + half) / (1 + z * z / n))


def evaluate(folder: Path, n: int, seed: int) -> dict[str, dict[str, float]]:
    """Names `n` stills of other seeds among all 100 combinations, through open_clip's own loading and preprocessing.

    Returns {lang: {top1, low, high, n}}, the interval being 95%.
    """
    import open_clip
    import torch
    from PIL import Image

    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{folder}", trust_remote_code=False)
    model.eval()
    rng = np.random.default_rng([seed, 424242])
    stills = [take(sample_shot(rng, two=False, count=1), rng) for _ in range(n)]
    truth = np.array([ALL_PAIRS.index(s.shot.events[0].obj.pair) for s in stills])
    accuracy = {}
    with torch.no_grad():
        pixels = torch.stack([preprocess(Image.fromarray(s.image)) for s in stills])  # type: ignore[operator]  # open_clip has no types
        image = torch.cat([model.encode_image(part, normalize=True) for part in pixels.split(256)])  # type: ignore  # open_clip has no types
        for lang in ("en", "zh"):
            text = model.encode_text(tokenize([prompt(p, lang) for p in ALL_PAIRS]), normalize=True)  # type: ignore  # as above
            hits = int((np.asarray((image @ text.T).argmax(dim=1)) == truth).sum())
            low, high = wilson(hits, n)
            accuracy[lang] = {"top1": hits / n, "low": low, "high": high, "n": n}
    return accuracy


def write_card(out: Path, how: str, accuracy: dict[str, dict[str, float]]) -> None:
    """Writes CARD.md of the tiny CLIP in `out`: what it is, how it was trained (`how`), and its accuracy by `evaluate`."""
    lines = [
        f"- {lang}: {r['top1']:.1%} top-1 of n = {int(r['n'])} stills (95% interval {r['low']:.1%} to {r['high']:.1%})"
        for lang, r in accuracy.items()
    ]
    size = (out / "open_clip_model.safetensors").stat().st_size / 1e6
    text = f"""# Tiny bilingual CLIP

Licence: Apache-2.0. An open_clip `local-dir` of {size:.1f} MB (fp16): ViT of 48 px, patch 8, width 128, 6 layers; text
tower of width 128, 3 layers, 40 tokens; embedding 128; its own byte-level BPE for English and Chinese.

{how}

## What it has seen

Only stills that `data_tools/world` draws: one or two kinds of objects of 10 shapes in 10 colours (all 100 pairs), one
to three of a kind, two sizes, 7 backgrounds, half of them through JPEG; with captions in English and Chinese of what
they look like. No photographs, no videos, no caption that speaks of motion or order: those words are in its vocabulary
but untrained. A quarter of the captions had random other words around them. It is for tests, demonstrations and offline
runs; it knows nothing of the real world.

## How good it is

Stills of seeds that the training did not use, one object each, named among all 100 colour x shape pairs with
"a red circle" / "一个红色圆形":

{chr(10).join(lines)}
"""
    (out / "CARD.md").write_text(text, encoding="utf-8")
