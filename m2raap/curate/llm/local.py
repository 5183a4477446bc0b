"""A transformers text-generation model in this process: the same requests, prompts, cache and outcomes as an endpoint."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from m2raap.core.config import HOW, Config
from m2raap.core.engine import device
from m2raap.core.errors import M2raapError
from m2raap.curate.llm.budget import Budget, BudgetConfig
from m2raap.curate.llm.cache import Cache
from m2raap.curate.llm.schema import Completion, Request
from m2raap.models.foreign_code import no_foreign_code

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class LocalModelConfig(Config):
    """A text-generation model of transformers. Weights are read as safetensors; code that comes with a model is never run."""

    model: str = Field(min_length=1, description="The model: a name on the Hugging Face hub, or a folder.")
    revision: str | None = Field(default=None, description="Commit or tag of a model on the hub; null: main.")
    max_tokens: int = Field(
        default=256, ge=8, le=8192, description="Most tokens of one answer; a longer one is cut off."
    )
    dtype: Dtype = Field(default="auto", description="Number type of the weights; auto: as they are stored.")
    budget: BudgetConfig = Field(
        default_factory=BudgetConfig, description="What the stage may spend in all its runs.", json_schema_extra=HOW
    )


def weights_name(model: str, revision: str | None) -> str:
    """model@digest of a folder (over its configurations, and the sizes and ends of its weights), else model@revision."""
    folder = Path(model)
    if not folder.is_dir():
        return f"{model}@{revision or 'main'}"
    import hashlib

    state = hashlib.sha256()
    for path in sorted(folder.glob("*.json")):
        state.update(path.name.encode() + path.read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        with open(path, "rb") as source:
            state.update(f"{path.name}{path.stat().st_size}".encode() + source.read(1 << 20))
            source.seek(max(0, path.stat().st_size - (1 << 20)))
            state.update(source.read())
    return f"{folder.name}@{state.hexdigest()[:12]}"


def load_pretrained(kind: Any, model: str, revision: str | None, **more: Any) -> Any:
    """`kind.from_pretrained` without remote code. Raises M2raapError if the model cannot be loaded."""
    try:
        with no_foreign_code(f"model '{model}'"):
            return kind.from_pretrained(model, revision=revision or "main", trust_remote_code=False, **more)
    except M2raapError:
        raise
    except Exception as error:  # the hub clients raise a dozen unrelated types
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise M2raapError(
            f"model '{model}' cannot be loaded ({reason}). It has to be of a family that transformers knows, with "
            "safetensors weights; if the hub cannot be reached, give a folder"
        ) from error


class LocalBackend:
    """Answers one request at a time by greedy decoding, so that no answer depends on other requests."""

    server = ""

    def __init__(self, cfg: LocalModelConfig) -> None:
        self.cfg = cfg

    def run(self, requests: list[Request], cache: Cache, budget: Budget) -> dict[str, str]:
        """See Backend."""
        failed = {}
        for request in requests:
            if not budget.reserve(request):
                failed[request.key] = ""
                continue
            completion = self.complete(request)
            cache.put(request, completion)
            budget.settle(request, completion)
        return failed

    def complete(self, request: Request) -> Completion:
        """The completion of one request; an empty one if prompt and answer do not fit into the model's context."""
        import torch

        model, tokenizer = _load(self.cfg.model_dump_json())
        ids_1L = _prompt_ids(tokenizer, request.body["messages"]).to(model.device)
        longest = getattr(model.config, "max_position_embeddings", None) or 1 << 30
        if ids_1L.shape[1] + self.cfg.max_tokens > longest:
            return Completion("", "length", None, ids_1L.shape[1], 0)
        # A model's configuration may name its own code for `generate`.
        with torch.inference_mode(), no_foreign_code(f"model '{self.cfg.model}'"):
            out_1L = model.generate(
                input_ids=ids_1L,
                attention_mask=torch.ones_like(ids_1L),
                max_new_tokens=self.cfg.max_tokens,
                do_sample=False,
                num_beams=1,
                pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
            )
        new_L = out_1L[0, ids_1L.shape[1] :].tolist()
        text = tokenizer.decode(new_L, skip_special_tokens=True)
        finish = "length" if len(new_L) >= self.cfg.max_tokens else "stop"
        return Completion(text, finish, None, ids_1L.shape[1], len(new_L))


def _prompt_ids(tokenizer: Any, messages: list[dict[str, str]]) -> Any:
    if tokenizer.chat_template:
        inputs = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        return inputs["input_ids"]
    text = "\n\n".join(message["content"] for message in messages) + "\n\nAnswer: "
    return tokenizer(text, return_tensors="pt")["input_ids"]


@lru_cache(maxsize=1)
def _load(settings: str) -> tuple[Any, Any]:
    import transformers

    cfg = LocalModelConfig.model_validate_json(settings)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    tokenizer = load_pretrained(transformers.AutoTokenizer, cfg.model, cfg.revision)
    kind = transformers.AutoModelForCausalLM
    model = load_pretrained(kind, cfg.model, cfg.revision, dtype=cfg.dtype, use_safetensors=True)
    return model.to(device()).eval(), tokenizer
