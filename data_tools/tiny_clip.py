"""Trains the tiny bilingual CLIP that the package carries, on stills of the world's objects.

    python -m data_tools.tiny_clip --out DIR --steps N --seed S --threads 2

The captions describe appearance (colour, shape, number, size, background) in English and Chinese, and never motion: that
is left to the temporal model. Two objects are named from left to right, and pictures of two objects come with their mirror
image, so that the embedding of a text depends on the order of its nouns.

Shapes: B pictures of a batch, K patches of a picture, L tokens of a text, E dimensions of the embedding.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.world.exam import evaluate, write_card
from data_tools.world.patches import cosines, outlines, patches_to_keep, places
from data_tools.world.stills import Still, caption, facts, looks, mirrored, sample_shot, take, true_of
from data_tools.world.tokenizer import build_tokenizer, motion_token_ids

IMAGE_PX = 48
CONTEXT_LENGTH = 40
MODEL_CFG: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": IMAGE_PX, "layers": 6, "width": 128, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": CONTEXT_LENGTH, "width": 128, "heads": 4, "layers": 3, "hf_tokenizer_name": "."},
}
AGREE_FROM = 0.6  # share of the steps after which the text tower is trained too
WHOLE_FROM = 0.3  # share of the steps after which the image tower gets all patches of a picture
KEEP_PATCHES = 20  # number of patches before that: those with objects, and random others
MASK_LAYER = 2  # number of the layer whose tokens predict the outlines of objects
SIDE = IMAGE_PX // MODEL_CFG["vision_cfg"]["patch_size"]  # number of patches in a row of the picture
PREPROCESS_CFG = {
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


def encode_text(model, ids_BL):
    """open_clip's CLIP.encode_text without the padding: (B, L) -> (B, E), not normalised.

    Padding follows the end token and the mask is causal, so leaving it out changes nothing.
    """
    import torch

    length = int(ids_BL.argmax(dim=-1).max()) + 1
    ids = ids_BL[:, :length]
    x = model.token_embedding(ids) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    return x[torch.arange(len(ids)), ids.argmax(dim=-1)] @ model.text_projection


def shrink(images: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """uint8 (H, W, 3) pictures -> uint8 (B, 48, 48, 3), each by a random interpolation."""
    import cv2

    ways = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC)
    size = (IMAGE_PX, IMAGE_PX)
    return np.stack([cv2.resize(image, size, interpolation=ways[int(rng.integers(3))]) for image in images])


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
    """InfoNCE in both directions; a caption that is also true of another picture is not used as a negative for that picture.

    true_BB[i, j]: whether caption i is true of picture j.
    """
    import torch
    from torch.nn import functional as F

    logits = scale * text_BE @ image_BE.T
    diagonal = torch.eye(len(logits), dtype=torch.bool)
    logits = logits.masked_fill(true_BB & ~diagonal, float("-inf"))
    target = torch.arange(len(logits))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def encode_tokens(visual, pixels, keep_BK=None):
    """open_clip's VisionTransformer on the class token and the patches `keep_BK` (None: all).

    Returns (B, 1 + K, E), the first of which is what open_clip returns, and the tokens (B, 1 + K, width) after MASK_LAYER.
    """
    import torch

    x = visual.conv1(pixels).flatten(2).transpose(1, 2)
    x = x + visual.positional_embedding[1:]
    if keep_BK is not None:
        x = x.gather(1, keep_BK[..., None].expand(-1, -1, x.shape[-1]))
    first = (visual.class_embedding + visual.positional_embedding[0]).expand(len(x), 1, -1)
    x = inner = visual.ln_pre(torch.cat([first.to(x.dtype), x], dim=1))
    for number, block in enumerate(visual.transformer.resblocks, start=1):
        x = block(x)
        if number == MASK_LAYER:
            inner = x
    return visual.ln_post(x) @ visual.proj, inner


@dataclass
class Batch:
    """What one step learns from. claims and facts: (B, 5), see stills.py."""

    images: np.ndarray  # uint8 (B, 48, 48, 3)
    objects: np.ndarray  # bool (B, 96, 96)
    texts: list[str]  # each in English or Chinese by chance
    claims: np.ndarray
    facts: np.ndarray


def make_batch(batch: int, two: float, seed: list[int]) -> Batch:
    """`two` is the share of drawings with two kinds of objects; each of them is followed by its mirror image."""
    rng = np.random.default_rng(seed)
    stills: list[Still] = []
    while len(stills) < batch:
        still = take(sample_shot(rng, two=bool(rng.random() < two)), rng)
        stills += [still, mirrored(still)] if len(still.shot.events) == 2 else [still]
    del stills[batch:]
    pairs = [caption(s.shot, "en" if rng.random() < 0.5 else "zh", rng) for s in stills]
    return Batch(
        shrink([s.image for s in stills], rng),
        np.stack([s.objects for s in stills]),
        [text for text, _ in pairs],
        np.stack([claims for _, claims in pairs]),
        np.stack([facts(s.shot) for s in stills]),
    )


def produce(queue, steps: int, agree_step: int, batch: int, seed: int) -> None:
    """Puts the batch of every step into the queue; runs in a process of its own, ahead of the training."""
    for step in range(steps):
        image_only = step < agree_step
        queue.put(make_batch(batch // 2 if image_only else batch, 0.12 if image_only else 0.25, [seed, 1, step]))


def write_config(out: Path) -> None:
    """Writes open_clip's configuration of the model into `out`."""
    cfg = {"model_cfg": MODEL_CFG, "preprocess_cfg": PREPROCESS_CFG}
    (out / "open_clip_config.json").write_text(json.dumps(cfg, indent=2) + "\n", encoding="utf-8")


def save(model, out: Path) -> None:
    """Writes the weights in fp16 into `out`, for open_clip's `local-dir`, which also needs the file of `write_config`."""
    import torch
    from safetensors.torch import save_file

    weights = {k: v.detach().to(torch.float16).contiguous() for k, v in model.state_dict().items() if k != "attn_mask"}
    save_file(weights, str(out / "open_clip_model.safetensors"))


def history(seed: int, step: int, steps: int, batch: int, threads: int, minutes: float) -> str:
    """How the model was made, for its card; `step`: that after which it was saved."""
    early = f", saved on the way after step {step}" if step < steps else ""
    return f"""Made by `python -m data_tools.tiny_clip --steps {steps} --batch {batch} --seed {seed} --threads {threads}`{early},
in {minutes:.0f} minutes on CPU cores that had other work, too. First the image tower learned to name colour, shape, number
and the left object, and to outline objects (its heads are not saved), on {KEEP_PATCHES} of the 36 patches for the first
{WHOLE_FROM:.0%} of the steps; after {AGREE_FROM:.0%} both towers learned to agree by InfoNCE. The saved weights are an
exponential moving average."""


def name_parts(heads, tokens, inner, claims: np.ndarray, objects: np.ndarray | None, keep: np.ndarray | None):
    """Loss of the heads that predict pairs, the left pair, colour, shape and number from the first token; for a picture also
    the shape from every patch that shows an object, and from `inner` the outline of the objects in every patch."""
    import torch
    from torch.nn import functional as F

    share = {name: torch.from_numpy(rows) for name, rows in looks(claims).items()}
    loss = torch.stack([F.cross_entropy(heads[name](tokens[:, 0]), rows) for name, rows in share.items()]).sum()
    if objects is not None and keep is not None:
        outline = torch.from_numpy(np.take_along_axis(outlines(objects, SIDE), keep[..., None], axis=1))
        on = outline.sum(dim=-1) > 0
        shape = share["shape"][:, None].expand(-1, keep.shape[1], -1)[on]
        loss = loss + F.cross_entropy(heads["shape"](tokens[:, 1:][on]), shape)
        loss = loss + 2 * F.binary_cross_entropy_with_logits(heads["outline"](inner[:, 1:]), outline)
    return loss


def optimisers(model, heads) -> list[tuple[Any, str]]:
    """Muon for the matrices inside the towers, AdamW for the rest, each with the tower whose learning rate it follows."""
    import torch

    by_tower: list[tuple[Any, str]] = []
    visual = {id(p) for p in model.visual.parameters()}
    named = list(model.named_parameters())
    for tower in ("image", "text"):
        of_tower = [(n, p) for n, p in named if (id(p) in visual) == (tower == "image")]
        inside = [p for n, p in of_tower if p.ndim == 2 and "resblocks" in n]
        rest = [p for n, p in of_tower if not (p.ndim == 2 and "resblocks" in n)]
        rest += list(heads.parameters()) if tower == "image" else []
        muon = torch.optim.Muon(inside, lr=2e-3, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
        by_tower += [(muon, tower), (torch.optim.AdamW(rest, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01), tower)]
    return by_tower


def rate(step: int, begin: int, fall: int, end: int) -> float:
    """Share of the peak learning rate: 40 steps up from `begin`, level to `fall`, then straight down to 2% at `end`."""
    return min(1.0, max(step - begin + 1, 0) / 40, max(0.02, (end - step) / (end - fall)))


def train(out: Path, work: Path, steps: int, seed: int, threads: int, batch: int = 128) -> None:
    """Trains in the folder `work` and copies the model to `out`, several times on the way.

    First the image tower alone learns to name what a picture shows, from some patches and half the batch; then both towers
    are trained with InfoNCE.
    """
    import open_clip
    import torch
    from torch.nn import functional as F

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    MODEL_CFG["text_cfg"]["vocab_size"] = build_tokenizer(work)
    write_config(work)
    tokenize = open_clip.get_tokenizer(f"local-dir:{work}", trust_remote_code=False)
    model: Any = open_clip.CLIP(**MODEL_CFG)
    average: Any = open_clip.CLIP(**MODEL_CFG)
    with torch.no_grad():
        model.visual.conv1.weight.copy_(torch.from_numpy(cosines(*model.visual.conv1.weight.shape[::3])))
        model.visual.positional_embedding[1:] = torch.from_numpy(places(SIDE, MODEL_CFG["vision_cfg"]["width"]))
    average.load_state_dict(model.state_dict())
    motion = motion_token_ids(tokenize)
    plain = np.array([i for i in range(300, MODEL_CFG["text_cfg"]["vocab_size"] - 1) if i not in motion])
    sizes = {"pair": 100, "first": 100, "colour": 10, "shape": 10, "count": 3}
    heads = torch.nn.ModuleDict({k: torch.nn.Linear(MODEL_CFG["embed_dim"], n) for k, n in sizes.items()})
    heads["outline"] = torch.nn.Linear(MODEL_CFG["vision_cfg"]["width"], 16)
    optims = optimisers(model, heads)
    rng = np.random.default_rng([seed, 2])
    agree_step = round(AGREE_FROM * steps)
    saves = {agree_step + round(share * (steps - agree_step)) for share in (0.15, 0.3, 0.5, 0.75, 1)}
    spawn = multiprocessing.get_context("spawn")
    queue = spawn.Queue(maxsize=8)
    spawn.Process(target=produce, args=(queue, steps, agree_step, batch, seed), daemon=True).start()
    begin_s, shape_accuracy = time.monotonic(), 0.0
    for step in range(steps):
        rate_of_tower = {
            "image": rate(step, 0, steps // 2, steps),
            "text": rate(step, agree_step, agree_step + (steps - agree_step) // 4, steps),
        }
        for optim, tower in optims:
            for group in optim.param_groups:
                group.setdefault("peak", group["lr"])
                group["lr"] = group["peak"] * rate_of_tower[tower]
        image_only = step < agree_step
        examples = queue.get(timeout=300)
        num_patches = KEEP_PATCHES if step < round(WHOLE_FROM * steps) else SIDE * SIDE
        keep = patches_to_keep(examples.objects, SIDE, num_patches, rng)
        pixels = torch.from_numpy(examples.images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            tokens, inner = encode_tokens(model.visual, pixels, torch.from_numpy(keep))
            text = None if image_only else encode_text(model, with_noise(tokenize(examples.texts), plain, rng)).float()
        tokens = tokens.float()
        loss = name_parts(heads, tokens, inner.float(), examples.facts, examples.objects, keep) * (
            1.0 if image_only else 0.3
        )
        agreement = 0.0
        if text is not None:
            loss = loss + 0.3 * name_parts(heads, text[:, None], None, examples.claims, None, None)
            scale = model.logit_scale.exp().clamp(max=100)
            true = torch.from_numpy(true_of(examples.claims, examples.facts))
            match = contrast(F.normalize(tokens[:, 0], dim=-1), F.normalize(text, dim=-1), scale, true)
            agreement = match.item()
            loss = loss + match
        for optim, _ in optims:
            optim.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optim, tower in optims:
            if tower == "image" or not image_only:
                optim.step()
        with torch.no_grad():
            decay = min(0.985, (step + 1) / (step + 20))
            for averaged, current in zip(average.parameters(), model.parameters(), strict=True):
                averaged.lerp_(current, 1 - decay)
            hits = heads["shape"](tokens[:, 0]).argmax(dim=1).numpy() == (examples.facts[:, 0] // 3) % 10
            shape_accuracy += (float(hits.mean()) - shape_accuracy) * 0.03
        minutes = (time.monotonic() - begin_s) / 60
        if (step + 1) % 50 == 0:
            line = (
                f"step {step + 1}: loss {loss.item():.3f}, InfoNCE {agreement:.3f}, accuracy of shapes "
                f"{shape_accuracy:.3f}, {minutes:.1f} minutes"
            )
            print(line, file=sys.stderr, flush=True)
        if step + 1 in saves:
            save(average, work)
            accuracy = evaluate(work, 2000 if step + 1 == steps else 500, seed)
            write_card(work, history(seed, step + 1, steps, batch, threads, minutes), accuracy)
            out.mkdir(parents=True, exist_ok=True)
            for file in sorted(work.iterdir()):
                shutil.copyfile(file, out / file.name)
            print(f"step {step + 1}: saved, {accuracy}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model into")
    parser.add_argument("--steps", type=int, default=2200, help="number of training steps")
    parser.add_argument("--batch", type=int, default=128, help="number of pictures in a step of InfoNCE")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and pictures")
    parser.add_argument("--threads", type=int, default=2, help="number of CPU threads of torch")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        train(args.out, Path(work), args.steps, args.seed, args.threads, args.batch)


if __name__ == "__main__":
    main()
