"""The cost of a training, computed from shapes without loading a model: FLOP, hours, and peak GPU memory.

FLOP: 2 per weight and token, and 4 T^2 D for attention. The backward pass costs twice the forward pass, from the last layer
down to the first trained one; gradient caching does the forward pass twice. Cached outputs of frozen layers are computed
once per clip. Memory: 4 bytes per weight; 12 more per trained weight for its gradient and Adam's moments; 2 more per weight
for the copy in 16-bit precision; and the activations that the backward pass needs. A transformer layer keeps 16 values per
token and unit of width (two norms, the inputs of four matrices and of the GELU, q, k, v; Korthikanti et al. 2022, eq. 1,
without dropout and without attention maps, which fused attention does not keep), for `adapt.micro_batch` clips at a time
with gradient caching, else for the whole batch. Logits: 4 copies of B^2 in fp32; an interaction: two of its blocks of 320 MiB.
A term that reads clips in another order of frames is one more pass of the temporal module, and of the vision layers where that
is inside of them; texts of events are counted as if every caption said an order.
Not included: fragmentation in the allocator (10 to 20%).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from m2raap.adapt.config import AdaptConfig
from m2raap.models.config import INTERACTION_BLOCK_BYTES, AdapterConfig, MessageConfig
from m2raap.pipeline.recipe import Recipe
from m2raap.pipeline.shapes import Shape, shape_of
from m2raap.pipeline.this_machine import clock

FLOPS = {
    "fp32": 1.2e13,
    "bf16": 1.2e14,
    "fp16": 1.2e14,
}  # FLOP/s of a GPU with a peak of 300 TFLOP/s in bf16: 40% of the peak; in fp32 a tenth of that
VALUES_A_LAYER = 16
VALUES_A_FROZEN_LAYER = 10  # without the inputs of its matrices, whose gradients are not needed
GPUS = 8  # of the second estimate: the same batch on one node by torchrun


@dataclass(frozen=True)
class Cost:
    """The cost of one training, for one process that holds the whole batch. `chunk`: clips that are encoded at a time.

    `flop` includes that of the `validations` of `val_clips` clips. `decoded`: how often a clip is read and decoded in all,
    `cached`: whether a cache of the frozen layers keeps what they make of it.
    """

    steps: int
    batch_size: int
    pairs_seen: int
    flop: float
    weights: int
    learning: int
    state_bytes: float
    kept_bytes_a_clip: float
    logit_bytes: float
    chunk: int
    val_clips: int
    validations: int
    decoded: int
    cached: bool

    def memory_bytes(self, gpus: int = 1) -> float:
        """Peak memory of one of `gpus` GPUs that share the batch; each holds the model and its rows of the logits."""
        clips = min(self.chunk, -(-self.batch_size // gpus))
        return self.state_bytes + clips * self.kept_bytes_a_clip + self.logit_bytes / gpus


def training_cost(recipe: Recipe, clips: int, val_clips: int = 0) -> Cost:
    """The cost of the recipe's training on at most `clips` clips, chosen on at most `val_clips`."""
    cfg, shape = recipe.adapt, shape_of(recipe.backbone)
    if cfg.train_clips:
        clips = min(clips, cfg.train_clips)
    batch = min(cfg.batch_size, max(clips, 2))
    steps = cfg.steps or max(1, round(cfg.epochs * max(1, clips // batch)))
    seen = steps * batch
    chunk = min(batch, cfg.micro_batch or batch)
    learns = min(shape.layers, cfg.train_vision_layers)
    layer = layer_flop(shape.width, shape.vision_tokens) * cfg.num_frames
    branch = temporal_flop(cfg, shape) * temporal_passes(cfg)
    texts = cfg.texts_per_clip * (1 + texts_of_order(cfg)) + (
        min(cfg.num_frames, recipe.caption.frames or cfg.num_frames) if cfg.wants_captions else 0
    )
    text = layer_flop(shape.text_width, shape.context) * shape.text_layers * texts
    layer *= vision_passes(cfg)
    forward = learns * layer + branch + text
    backward = 2 * (learns * layer + branch + (text if cfg.train_text else 0)) + _passed(cfg, learns) * layer
    if cfg.recompute:
        backward += learns * layer + (branch if cfg.temporal.name == "stan" else 0)
    frozen = (shape.layers - learns) * layer
    cached = cfg.cache != "off" and cfg.pixels_are_fixed and learns < shape.layers
    often = 2 if chunk < batch else 1
    flop = seen * (forward * often + backward) + frozen * (clips if cached else seen * often)
    val_clips = min(val_clips, cfg.val_clips or val_clips)
    validations = (steps // cfg.val_every_steps + 1 + bool(steps % cfg.val_every_steps)) if val_clips else 0
    flop += val_clips * (forward * validations + frozen * (min(1, validations) if cached else validations))
    decoded = clips + val_clips if cached else seen + validations * val_clips

    new = temporal_weights(cfg, shape) + (2 * shape.embed**2 if cfg.loss.clauses.weight else 0)
    weights = shape.vision_weights + shape.text_weights + new
    learning = tower_learning(cfg, shape, learns) + new
    state = weights * (4 + (2 if cfg.precision != "fp32" else 0)) + learning * 12
    logits = 16.0 * batch**2 + (2 * INTERACTION_BLOCK_BYTES if cfg.loss.interaction.weight else 0)
    kept = kept_bytes(cfg, shape, texts)
    work = (val_clips, validations, decoded, cached)
    return Cost(steps, batch, seen, flop, weights, learning, state, kept, logits, chunk, *work)


def kept_bytes(cfg: AdaptConfig, shape: Shape, texts: int = 1) -> float:
    """Bytes of activations of one clip and its `texts` texts (with captions of frames) that the backward pass needs."""
    each = 4 if cfg.precision == "fp32" else 2
    learns = min(shape.layers, cfg.train_vision_layers)
    tokens = cfg.num_frames * shape.vision_tokens * shape.width
    # Layers that are computed again keep their input, and one of them at a time all values.
    of_layers = learns + VALUES_A_LAYER if cfg.recompute and learns else VALUES_A_LAYER * learns
    values = of_layers * tokens * vision_passes(cfg)
    branch = 0
    if cfg.temporal.name == "stan":
        inner = cfg.num_frames * (1 + (shape.vision_tokens - 1) // cfg.temporal.patch_pool**2) * shape.width
        # Spatial: a layer. Temporal: norm, q, k, v, the inputs of two matrices. And the level that is added.
        of_pair, layers = VALUES_A_LAYER + 8, cfg.temporal.layers
        # Computed again it keeps the inputs of its two attentions, its MLP and its last matrix, and one layer in full.
        branch = (4 * layers + VALUES_A_LAYER if cfg.recompute else of_pair * layers) * inner
    elif cfg.temporal.name == "seqtransf":
        branch = cfg.temporal.layers * VALUES_A_LAYER * cfg.num_frames * shape.embed
    elif cfg.temporal.name == "adapter":
        branch = _passed(cfg, learns) * VALUES_A_FROZEN_LAYER * tokens + cfg.temporal.layers * 3 * tokens
    elif cfg.temporal.name == "message":
        maps = 3 * shape.heads * cfg.num_frames * shape.vision_tokens**2  # its attention is not fused
        branch = _passed(cfg, learns) * VALUES_A_FROZEN_LAYER * tokens + cfg.temporal.layers * maps
    values += branch * temporal_passes(cfg)
    if cfg.train_text:
        values += VALUES_A_LAYER * shape.text_layers * texts * shape.context * shape.text_width
    pixels = cfg.num_frames * 3 * shape.patch_px**2 * (shape.vision_tokens - 1) * 4
    return float(values * each + pixels)


def temporal_passes(cfg: AdaptConfig) -> int:
    """How often a step runs the temporal module: once, and once more for each term that reads clips in another order."""
    return 1 + bool(cfg.loss.direction.weight) + bool(cfg.loss.event_order.weight)


def vision_passes(cfg: AdaptConfig) -> int:
    """How often a step runs the vision layers: more than once only where the temporal module works inside of them."""
    return temporal_passes(cfg) if isinstance(cfg.temporal, AdapterConfig | MessageConfig) else 1


def texts_of_order(cfg: AdaptConfig) -> int:
    """Texts that the terms on the order of events encode beside a caption, at most: two clauses, and the exchanged caption."""
    return 2 * bool(cfg.loss.clauses.weight) + bool(cfg.loss.event_order.weight)


def layer_flop(width: int, tokens: int) -> float:
    """FLOP of one transformer layer for one sequence, forward pass only."""
    return tokens * (24.0 * width**2 + 4 * tokens * width)


def temporal_flop(cfg: AdaptConfig, shape: Shape) -> float:
    """FLOP of the temporal module for one clip, forward pass only."""
    temporal, frames, width = cfg.temporal, cfg.num_frames, shape.width
    if temporal.name == "stan":
        patches = (shape.vision_tokens - 1) // temporal.patch_pool**2
        across = 10 * width**2 + 4 * frames * width if temporal.across == "attention" else 4 * width * (width // 8)
        return temporal.layers * frames * (layer_flop(width, 1 + patches) + patches * across)
    if temporal.name == "seqtransf":
        return temporal.layers * layer_flop(shape.embed, frames)
    if temporal.name == "adapter":
        return temporal.layers * frames * shape.vision_tokens * 4.0 * width * (temporal.width or width // 2)
    if temporal.name == "message":
        # A message a frame (2 D^2), attention among the frames (8 D^2), one more key and value in the block (6 D^2).
        return temporal.layers * frames * width * (16.0 * width + 4 * frames + 2 * shape.vision_tokens)
    return 0.0


def temporal_weights(cfg: AdaptConfig, shape: Shape) -> int:
    """Number of weights of the temporal module."""
    temporal, width = cfg.temporal, shape.width
    if temporal.name == "stan":
        across = 5 * width**2 if temporal.across == "attention" else width**2 // 4 + 3 * (width // 8) ** 2
        matrix = width**2 if temporal.start == "matrix" else 0
        return temporal.layers * (12 * width**2 + across) + matrix + temporal.max_frames * width
    if temporal.name == "seqtransf":
        return (12 * temporal.layers + 1) * shape.embed**2
    if temporal.name == "adapter":
        return temporal.layers * 2 * width * (temporal.width or width // 2)
    if temporal.name == "message":
        return temporal.layers * 5 * width**2
    return 0


def tower_learning(cfg: AdaptConfig, shape: Shape, learns: int) -> int:
    """Number of trained weights of the two towers; `learns`: number of trained vision layers.

    With LoRA these are two thin matrices beside each of the two matrices of an MLP; the attention of timm and transformers,
    which LoRA updates too, would add three fifths of that.
    """
    if cfg.lora:
        widths = learns * shape.width + (shape.text_layers * shape.text_width if cfg.train_text else 0)
        return 10 * cfg.lora.rank * widths
    return shape.vision_weights * learns // max(shape.layers, 1) + (shape.text_weights if cfg.train_text else 0)


def _passed(cfg: AdaptConfig, learns: int) -> int:
    """Number of frozen layers that the backward pass goes through, because a temporal module is inside them."""
    if isinstance(cfg.temporal, AdapterConfig | MessageConfig):
        return max(0, cfg.temporal.layers - learns)
    return 0


def as_tree(cost: Cost, recipe: Recipe) -> dict[str, Any]:
    """The cost as `run --dry-run --json` prints it."""
    rate = FLOPS[recipe.adapt.precision]
    return {
        "steps": cost.steps,
        "batch_size": cost.batch_size,
        "micro_batch": cost.chunk,
        "pairs_seen": cost.pairs_seen,
        "val_clips": cost.val_clips,
        "validations": cost.validations,
        "decoded_clips": cost.decoded,
        "peta_flop": cost.flop / 1e15,
        "gpu_hours": cost.flop / rate / 3600,
        "gpu_memory_gb": cost.memory_bytes() / 1e9,
        "gpu_memory_gb_of_8": cost.memory_bytes(GPUS) / 1e9,
        "weights_million": cost.weights / 1e6,
        "learning_million": cost.learning / 1e6,
        "state_gb": cost.state_bytes / 1e9,
        "kept_mb_a_clip": cost.kept_bytes_a_clip / 1e6,
        "logits_gb": cost.logit_bytes / 1e9,
        "from_config": shape_of(recipe.backbone).from_config,
    }


def _gb(value: float) -> str:
    return f"{value:.2g}" if value >= 0.001 else "under 0.001"


def cost_lines(arm: str, tree: dict[str, Any]) -> list[str]:
    """The lines in which `run --dry-run` prints the cost of an arm."""
    chunk = f" in chunks of {tree['micro_batch']}" if tree["micro_batch"] < tree["batch_size"] else ""
    guessed = "" if tree["from_config"] else "; sizes of the backbone are guessed from its name"
    hours, chunk_size = tree["gpu_hours"], min(tree["micro_batch"], tree["batch_size"])
    return [
        f"{arm} trains {tree['steps']:,} steps of {tree['batch_size']:,} pairs{chunk} ({tree['pairs_seen']:,} pairs seen): "
        f"{tree['peta_flop']:.3g} PFLOP, {clock(hours)} on a 300-TFLOP/s GPU, {clock(hours / GPUS)} on {GPUS} of them",
        f"{arm} needs a peak of {tree['gpu_memory_gb']:.3g} GB on one GPU, {tree['gpu_memory_gb_of_8']:.3g} GB on each of "
        f"{GPUS}: weights, gradients and Adam {tree['state_gb']:.3g} GB ({tree['weights_million']:.1f} M weights, "
        f"{tree['learning_million']:.1f} M learn), activations {tree['kept_mb_a_clip']:.3g} MB a clip x {chunk_size}, "
        f"logits {_gb(tree['logits_gb'])} GB{guessed}",
    ]
