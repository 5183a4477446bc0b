"""Trains the tiny bilingual CLIP that the package carries, on stills of the world's objects.

    python -m data_tools.tiny_clip --out DIR --steps N --seed S --threads 2

It sees what things look like (colour, shape, number, size, background), in English and Chinese, and never a motion:
no caption of its training speaks of one. What moves is left to the temporal model.

B: batch, L: tokens of a text, E: embedding.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

IMAGE_PX = 64
CONTEXT_LENGTH = 40
MODEL_CFG: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": IMAGE_PX, "layers": 6, "width": 160, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": CONTEXT_LENGTH, "width": 128, "heads": 4, "layers": 4, "hf_tokenizer_name": "."},
}
KEEP_PATCHES = 28  # of 64, in the first part of the training: those with objects and some others
WHOLE_FROM = 0.7  # share of the steps after which whole pictures are shown
PREPROCESS_CFG = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic", "resize_mode": "shortest"}


def motion_token_ids(tokenize) -> set[int]:
    """Ids of the words that speak of motion or order; the training never shows them, not even as noise."""
    from data_tools.world.words import EN_ORDER, EN_PAN, EN_VERB, ZH_ORDER, ZH_PAN, ZH_VERB

    phrases = [f" {form}" for verbs in EN_VERB.values() for forms in verbs for form in forms]
    phrases += [form for verbs in EN_VERB.values() for forms in verbs for form in forms]
    phrases += [form for forms in ZH_VERB.values() for form in forms]
    phrases += [t.format(a=" ", b=" ", n=" ", d=" ") for t in (*EN_ORDER, *ZH_ORDER, *EN_PAN, *ZH_PAN)]
    return {int(i) for i in np.unique(tokenize(phrases).numpy())}


def encode_text(model, ids_BL):
    """open_clip's CLIP.encode_text, cut to the tokens that are there: (B, L) -> (B, E), not normalised.

    Padding stands behind the end token and the mask is causal, so leaving it out changes nothing.
    """
    import torch

    length = int(ids_BL.argmax(dim=-1).max()) + 1
    ids = ids_BL[:, :length]
    x = model.token_embedding(ids) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    return x[torch.arange(len(ids)), ids.argmax(dim=-1)] @ model.text_projection


def to_pixels(images: list[np.ndarray], rng: np.random.Generator | None):
    """uint8 (H, W, 3) pictures -> float (B, 3, 64, 64) in -1..1; with `rng` the way of resizing varies."""
    import cv2
    import torch

    ways = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC)
    small = [
        cv2.resize(i, (IMAGE_PX, IMAGE_PX), interpolation=ways[0 if rng is None else int(rng.integers(3))]) for i in images
    ]
    return torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def with_noise(ids_BL, plain_ids: np.ndarray, rng: np.random.Generator, share: float = 0.25):
    """Puts 1-4 random words before or after `share` of the captions, so that a word the model does not know (a motion,
    a stock phrase) does not hide the ones it knows. `plain_ids` leaves the motion words out."""
    ids = ids_BL.numpy().copy()
    for row in ids:
        if rng.random() >= share:
            continue
        end = int(row.argmax())
        extra = rng.choice(plain_ids, int(rng.integers(1, 5)))
        body = row[1:end].copy()
        body = np.concatenate([extra, body] if rng.random() < 0.3 else [body, extra])[: CONTEXT_LENGTH - 2]
        start, stop = int(row[0]), int(row[end])
        row[:] = 0
        row[0], row[1 : 1 + len(body)], row[1 + len(body)] = start, body, stop
    import torch

    return torch.from_numpy(ids)


def contrast(image_BE, text_BE, scale, true_BB):
    """InfoNCE both ways; a caption that is true of another picture is no negative for it (but for its own it counts).

    true_BB[i, j]: caption i is true of picture j.
    """
    import torch
    from torch.nn import functional as F

    logits = scale * text_BE @ image_BE.T
    own = torch.eye(len(logits), dtype=torch.bool)
    logits = logits.masked_fill(true_BB & ~own, float("-inf"))
    target = torch.arange(len(logits))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def encode_image(visual, pixels, keep_BK=None):
    """open_clip's VisionTransformer.forward on the class token and the patches `keep_BK` (K a picture; None is all)."""
    import torch

    x = visual.conv1(pixels).flatten(2).transpose(1, 2)
    x = x + visual.positional_embedding[1:]
    if keep_BK is not None:
        x = x.gather(1, keep_BK[..., None].expand(-1, -1, x.shape[-1]))
    first = (visual.class_embedding + visual.positional_embedding[0]).expand(len(x), 1, -1)
    x = visual.transformer(visual.ln_pre(torch.cat([first.to(x.dtype), x], dim=1)))
    return visual.ln_post(x[:, 0]) @ visual.proj


def patches_to_keep(objects: np.ndarray, keep: int, rng: np.random.Generator) -> np.ndarray:
    """bool (B, H, W) -> (B, keep) patch numbers: all that show an object, the others by chance."""
    side = IMAGE_PX // MODEL_CFG["vision_cfg"]["patch_size"]
    batch, height, width = objects.shape
    on = objects.reshape(batch, side, height // side, side, width // side).any(axis=(2, 4)).reshape(batch, -1)
    order = rng.random(on.shape) - 2 * on
    return np.argsort(order, axis=1)[:, :keep]


def make_batch(batch: int, rng: np.random.Generator):
    """Stills, texts (each in English or Chinese by chance), claims (B, 5) and facts (B, 5)."""
    from data_tools.world.stills import caption, facts, sample_shot, take

    stills = [take(sample_shot(rng, two=bool(rng.random() < 0.35)), rng) for _ in range(batch)]
    pairs = [caption(s.shot, "en" if rng.random() < 0.5 else "zh", rng) for s in stills]
    claims = np.stack([c for _, c in pairs])
    return stills, [text for text, _ in pairs], claims, np.stack([facts(s.shot) for s in stills])


def save(model, out: Path) -> None:
    """Config and fp16 weights, as open_clip's `local-dir` wants them."""
    import torch
    from safetensors.torch import save_file

    cfg = {"model_cfg": MODEL_CFG, "preprocess_cfg": PREPROCESS_CFG}
    (out / "open_clip_config.json").write_text(json.dumps(cfg, indent=2) + "\n", encoding="utf-8")
    weights = {k: v.detach().to(torch.float16).contiguous() for k, v in model.state_dict().items() if k != "attn_mask"}
    part = out / "open_clip_model.safetensors.part"
    save_file(weights, str(part))
    part.chmod(0o644)
    part.replace(out / "open_clip_model.safetensors")


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

    from data_tools.world.stills import ALL_PAIRS, prompt, sample_shot, take

    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{folder}")
    model.eval()
    rng = np.random.default_rng([seed, 424242])
    stills = [take(sample_shot(rng, two=False, count=1), rng) for _ in range(n)]
    truth = np.array([ALL_PAIRS.index(s.shot.events[0].obj.pair) for s in stills])
    found = {}
    with torch.no_grad():
        pixels = torch.stack([preprocess(Image.fromarray(s.image)) for s in stills])  # type: ignore[operator]
        image = torch.cat([model.encode_image(part, normalize=True) for part in pixels.split(256)])  # type: ignore
        for lang in ("en", "zh"):
            text = model.encode_text(tokenize([prompt(p, lang) for p in ALL_PAIRS]), normalize=True)  # type: ignore
            hits = int((np.asarray((image @ text.T).argmax(dim=1)) == truth).sum())
            low, high = wilson(hits, n)
            found[lang] = {"top1": hits / n, "low": low, "high": high, "n": n}
    return found


def write_card(out: Path, seed: int, steps: int, batch: int, minutes: float, found: dict[str, dict[str, float]]) -> None:
    """CARD.md: what the model is, what it saw, how good it is."""
    lines = [
        f"- {lang}: {r['top1']:.1%} top-1 of n = {int(r['n'])} stills (95% interval {r['low']:.1%} to {r['high']:.1%})"
        for lang, r in found.items()
    ]
    size = (out / "open_clip_model.safetensors").stat().st_size / 1e6
    text = f"""# Tiny bilingual CLIP

Licence: Apache-2.0. An open_clip `local-dir` of {size:.1f} MB (fp16): ViT of 64 px, patch 8, width 160, 6 layers; text
tower of width 128, 4 layers, 40 tokens; embedding 128; its own byte-level BPE for English and Chinese.

Made by `python -m data_tools.tiny_clip --steps {steps} --batch {batch} --seed {seed}` in {minutes:.0f} minutes on 2 CPU cores.
The saved weights are an exponential moving average.

## What it has seen

Only stills that `data_tools/world` draws: one or two kinds of objects of 10 shapes in 10 colours (all 100 pairs), one to
three of a kind, two sizes, 7 backgrounds, half of them through JPEG; with captions in English and Chinese of what they
look like. No photographs, no videos, no caption that speaks of motion or order: those words are in its vocabulary but
untrained. A quarter of the captions had random other words around them. It is for tests, demonstrations and offline
runs; it knows nothing of the real world.

## How good it is

Stills of seeds that the training did not use, one object each, named among all 100 colour x shape pairs with
"a red circle" / "一个红色圆形":

{chr(10).join(lines)}
"""
    (out / "CARD.md").write_text(text, encoding="utf-8")


def train(out: Path, steps: int, seed: int, threads: int, batch: int = 128, peak: float = 1.5e-3) -> None:
    """Trains and writes the folder; half-way versions are saved every fifth of the steps."""
    import cv2
    import open_clip
    import torch
    from torch.nn import functional as F

    from data_tools.world.stills import looks, true_of
    from data_tools.world.tokenizer import build_tokenizer

    cv2.setNumThreads(1)
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    MODEL_CFG["text_cfg"]["vocab_size"] = build_tokenizer(out)
    (out / "open_clip_config.json").write_text(json.dumps({"model_cfg": MODEL_CFG, "preprocess_cfg": PREPROCESS_CFG}))
    tokenize = open_clip.get_tokenizer(f"local-dir:{out}")
    model = open_clip.CLIP(**MODEL_CFG)
    average = open_clip.CLIP(**MODEL_CFG)
    average.load_state_dict(model.state_dict())
    motion = motion_token_ids(tokenize)
    vocabulary = MODEL_CFG["text_cfg"]["vocab_size"]
    plain = np.array([i for i in range(300, vocabulary - 1) if i not in motion])
    heads = torch.nn.ModuleDict({k: torch.nn.Linear(128, n) for k, n in (("pair", 100), ("colour", 10), ("shape", 10), ("count", 3))})
    decay = [p for p in (*model.parameters(), *heads.parameters()) if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.98), eps=1e-6)
    rng = np.random.default_rng([seed, 1])
    begin = time.monotonic()
    for step in range(steps):
        warm = min(1.0, (step + 1) / 80)
        rate = peak * warm * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * step / steps)))
        for group in optimiser.param_groups:
            group["lr"] = rate
        stills, texts, claims, shown = make_batch(batch, rng)
        early = step < WHOLE_FROM * steps
        objects = np.stack([s.objects for s in stills])
        keep = torch.from_numpy(patches_to_keep(objects, KEEP_PATCHES, rng)) if early else None
        with torch.autocast("cpu", dtype=torch.bfloat16):
            image = encode_image(model.visual, to_pixels([s.image for s in stills], rng), keep)
            text = encode_text(model, with_noise(tokenize(texts), plain, rng))
        image, text = image.float(), text.float()
        scale = model.logit_scale.exp().clamp(max=100)
        true = torch.from_numpy(true_of(claims, shown))
        loss = contrast(F.normalize(image, dim=-1), F.normalize(text, dim=-1), scale, true)
        shown_loss = loss.item()
        if early:  # naming the parts as well makes the first steps several times as fruitful
            for rows, embedding in ((shown, image), (claims, text)):
                for name, share in looks(rows).items():
                    loss = loss + 0.3 * F.cross_entropy(heads[name](embedding), torch.from_numpy(share))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        pace = min(0.995, (step + 1) / (step + 20))
        with torch.no_grad():
            for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
                slow.lerp_(fast, 1 - pace)
        if (step + 1) % 20 == 0:
            minutes = (time.monotonic() - begin) / 60
            print(f"step {step + 1} loss {shown_loss:.3f} scale {scale.item():.1f} min {minutes:.1f}", file=sys.stderr, flush=True)
        if (step + 1) % max(1, steps // 5) == 0 or step + 1 == steps:
            minutes = (time.monotonic() - begin) / 60
            save(average, out)
            last = step + 1 == steps
            found = evaluate(out, 2000 if last else 500, seed)
            write_card(out, seed, step + 1, batch, minutes, found)
            print(f"step {step + 1} {found}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    train(args.out, args.steps, args.seed, args.threads, args.batch)


if __name__ == "__main__":
    main()
