"""A tiny random model of the family of Qwen3-VL-Embedding, in the form of sentence-transformers, without a network."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# The shape of Qwen's template: a system message for the instruction, then the content, then the start of an answer.
TEMPLATE = """{%- for message in messages -%}
<|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for item in message['content'] %}
{%- if item['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>
{%- elif item['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>
{%- else %}{{ item['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def write(folder: Path) -> None:
    """Writes the model into an empty folder: last-token pooling, unit vectors, a prompt for queries as published ones have."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from tokenizers import pre_tokenizers
    from transformers import (
        Qwen2Tokenizer,
        Qwen2VLImageProcessor,
        Qwen3VLConfig,
        Qwen3VLModel,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Qwen2Tokenizer(
        vocab={letter: i for i, letter in enumerate(letters)}, merges=[], additional_special_tokens=list(SPECIAL[1:]),
        pad_token="<|endoftext|>", eos_token="<|im_end|>",
    )  # fmt: skip
    ids: dict[str, Any] = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}
    size = {"shortest_edge": 32 * 32, "longest_edge": 64 * 64 * 16}
    processor = Qwen3VLProcessor(
        Qwen2VLImageProcessor(patch_size=16, size=size),
        tokenizer,
        Qwen3VLVideoProcessor(size=size),
        chat_template=TEMPLATE,
    )
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]},
    }  # fmt: skip
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32,
        "num_position_embeddings": 64, "deepstack_visual_indexes": [0],
    }  # fmt: skip
    config = Qwen3VLConfig(
        text_config=text, vision_config=vision, image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"], vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )  # fmt: skip
    parts = folder / "parts"
    torch.manual_seed(0)
    Qwen3VLModel(config).save_pretrained(parts)
    processor.save_pretrained(parts)
    transformer = Transformer(str(parts))
    modules = [transformer, Pooling(transformer.get_embedding_dimension(), pooling_mode="lasttoken"), Normalize()]
    SentenceTransformer(modules=modules, prompts={"query": "Find the video.", "document": ""}, device="cpu").save(
        str(folder), create_model_card=False
    )
    shutil.rmtree(parts)
