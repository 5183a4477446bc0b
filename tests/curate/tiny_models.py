"""Tiny models in the real formats, written to disk: image-to-text of three families, and a chat model that knows one answer."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

WORDS = (
    *(
        "<pad>",
        "<s>",
        "</s>",
        "<unk>",
        "<image>",
        "[DEC]",
        "<|user|>",
        "<|assistant|>",
        "a",
        "red",
        "blue",
        "circle",
        "dog",
    ),
    *("runs", "in", "the", "park", "what", "does", "image", "describe", "a photo of", "?", "."),
)
ANSWER = {"en": "A red circle moves to the right.", "zh": "红色圆形向右移动。"}


def tokenizer(words: tuple[str, ...] = WORDS, bos: str = "<s>", **special: Any) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    base = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    base.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=base, pad_token="<pad>", bos_token=bos, eos_token="</s>", unk_token="<unk>", **special
    )


def image_to_text(family: str, out: Path) -> Path:
    """A seeded random model and its processor."""
    import torch
    import transformers as hf

    torch.manual_seed(3)
    small: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    vision = small | {"image_size": 32, "patch_size": 16}
    pictures: Any = hf.BlipImageProcessor(size={"height": 32, "width": 32})
    if family == "blip":
        text = small | {
            "vocab_size": len(WORDS),
            "encoder_hidden_size": 16,
            "max_position_embeddings": 64,
            "hidden_size": 32,
        }
        text |= {
            "bos_token_id": 5,
            "pad_token_id": 0,
            "eos_token_id": 2,
            "sep_token_id": 2,
            "tie_word_embeddings": False,
        }
        cfg = hf.BlipConfig(vision_config=vision, text_config=text, tie_word_embeddings=False)
        model: Any = hf.BlipForConditionalGeneration(cfg)
        _teach(model.text_decoder, ["[DEC]", "a", "dog", "runs", "in", "the", "park", "</s>"])
        processor: Any = hf.BlipProcessor(pictures, tokenizer(bos="[DEC]"))
    elif family == "blip-2":
        former = small | {"vocab_size": len(WORDS), "encoder_hidden_size": 16, "cross_attention_frequency": 1}
        opt = hf.OPTConfig(
            vocab_size=len(WORDS), hidden_size=16, word_embed_proj_dim=16, ffn_dim=16, num_hidden_layers=1,
            num_attention_heads=2, max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        )  # fmt: skip
        cfg = hf.Blip2Config(
            vision_config=vision, qformer_config=former, text_config=opt, num_query_tokens=4, image_token_index=4
        )
        model = hf.Blip2ForConditionalGeneration(cfg)
        words = tokenizer()
        words.image_token = "<image>"
        processor = hf.Blip2Processor(pictures, words, num_query_tokens=4)
    else:
        assert family == "florence2"
        davit = {
            "embed_dim": [8, 8], "depths": [1, 1], "num_heads": [2, 2], "num_groups": [2, 2], "patch_size": [7, 3],
            "patch_stride": [4, 2], "patch_padding": [3, 1], "patch_prenorm": [False, True], "window_size": 2,
            "projection_dim": 16, "max_temporal_embeddings": 4, "max_position_embeddings": 8,
        }  # fmt: skip
        bart = hf.BartConfig(
            vocab_size=len(WORDS), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=64, pad_token_id=0,
            bos_token_id=1, eos_token_id=2, decoder_start_token_id=2,
        )  # fmt: skip
        model = hf.Florence2ForConditionalGeneration(
            hf.Florence2Config(vision_config=davit, text_config=bart, image_token_id=4)
        )
        side = {"height": 32, "width": 32}
        pictures = hf.CLIPImageProcessor(size=side, crop_size=side)
        pictures.image_seq_length = 17
        processor = hf.Florence2Processor(pictures, tokenizer(extra_special_tokens={"image_token": "<image>"}))
    model.save_pretrained(out)
    processor.save_pretrained(out)
    return out


def _teach(decoder: Any, sentence: list[str]) -> None:
    """A BERT decoder whose next token depends on the last alone, and says the sentence."""
    import torch

    with torch.no_grad():
        for name, weight in decoder.named_parameters():
            if (
                "output.dense" in name
                or "position_embeddings" in name
                or (name.endswith("bias") and "LayerNorm" not in name)
            ):
                weight.zero_()
        decoder.bert.embeddings.word_embeddings.weight.copy_(torch.eye(len(WORDS), 32))
        head = decoder.cls.predictions
        head.transform.dense.weight.copy_(torch.eye(32))
        head.decoder.weight.zero_()
        for last, following in itertools.pairwise(sentence):
            head.decoder.weight[WORDS.index(following), WORDS.index(last)] = 9.0


def chat_model(out: Path, answer: str = json.dumps(ANSWER, ensure_ascii=False), ends: bool = True) -> Path:
    """A Llama whose one layer adds nothing, so that the next token depends on the last alone: after the role tag of the
    assistant comes `answer` (one token of its vocabulary), then the end (or, without `ends`, the answer again)."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    words = (*WORDS, answer)
    cfg = LlamaConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=4096, tie_word_embeddings=False, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model: Any = LlamaForCausalLM(cfg)
    said, end = len(words) - 1, 2 if ends else len(words) - 1
    with torch.no_grad():
        layer = model.model.layers[0]
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(len(words), 32))
        model.lm_head.weight.zero_()
        model.lm_head.weight[said, words.index("<|assistant|>")] = 9.0
        model.lm_head.weight[end, said] = 9.0
    words_of = tokenizer(words, additional_special_tokens=["<|user|>", "<|assistant|>"])
    turns = "{% for m in messages %}<|user|> {{ m.content }} {% endfor %}"
    words_of.chat_template = turns + "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    model.save_pretrained(out)
    words_of.save_pretrained(out)
    return out
