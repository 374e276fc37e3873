"""LanguageModel: any causal language model of transformers, with LoRA and room for the vision token."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, PreTrainedModel

from cora.errors import CheckpointError, ConfigError
from cora.model.language_source import find_language_model

__all__ = ["DEFAULT_LORA_TARGETS", "LanguageModel"]

logger = logging.getLogger(__name__)

DEFAULT_LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class LanguageModel(nn.Module):
    """A causal language model; the transformers (or, with LoRA, PEFT) model itself is at ``.model``.

    Args:
        model: A causal LM of transformers.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model: Any = model
        self.config: PretrainedConfig = model.config
        # A serving engine finds its own implementation of the language model by this name.
        self.config.architectures = [type(model).__name__]

    @classmethod
    def from_config(cls, config: PretrainedConfig) -> LanguageModel:
        """Return a language model with random weights."""
        return cls(AutoModelForCausalLM.from_config(config))

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        *,
        dtype: torch.dtype = torch.float32,
        attn_implementation: str = "sdpa",
        trust_remote_code: bool = False,
    ) -> LanguageModel:
        """Return the language model of a hub id, local directory or GGUF file (see `find_language_model`).

        Weights that a GGUF file keeps in fewer bits become numbers of `dtype`, and stay so.

        Raises:
            CheckpointError: The file is not there, or weights are missing from the checkpoint.
            BackendUnavailable: Something that reads this kind of file is not installed.
        """
        place, where = find_language_model(name)
        with _reads_gguf(name) if where else nullcontext():
            model, report = AutoModelForCausalLM.from_pretrained(
                place,
                dtype=dtype,
                attn_implementation=attn_implementation,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
                **where,
            )
        missing = sorted(report["missing_keys"])
        if missing:
            raise CheckpointError(f"{name}: {len(missing)} weights are missing, first: {missing[0]}")
        if where:
            _forget_quantization(model)
        return cls(model)

    @staticmethod
    def tokenizer_of(name: str, *, trust_remote_code: bool = False) -> Any:
        """Return the tokenizer that comes with a language model; arguments and errors as for `from_pretrained`."""
        place, where = find_language_model(name)
        with _reads_gguf(name) if where else nullcontext():
            return AutoTokenizer.from_pretrained(place, trust_remote_code=trust_remote_code, **where)

    @property
    def all_tied_weights_keys(self) -> dict[str, str]:
        """Tied parameter -> its source, as transformers asks every child of a composite model."""
        tied = getattr(self.model, "all_tied_weights_keys", {})
        return {f"model.{target}": f"model.{source}" for target, source in tied.items()}

    @property
    def hidden_size(self) -> int:
        """Width of the embeddings."""
        size: int = self.config.get_text_config().hidden_size
        return size

    @property
    def embeddings(self) -> nn.Embedding:
        """The input embedding module."""
        module: nn.Embedding = self.model.get_input_embeddings()
        return module

    @property
    def has_lora(self) -> bool:
        """Whether LoRA adapters are attached and not merged."""
        return hasattr(self.model, "merge_and_unload")

    def make_room_for(self, num_tokens: int) -> None:
        """Grow the embeddings so that ids below `num_tokens` exist; new rows are the mean of the old ones.

        Models that come with spare rows are left as they are.
        """
        num_rows = self.embeddings.weight.shape[0]
        if num_tokens <= num_rows:
            return
        self.model.resize_token_embeddings(num_tokens, mean_resizing=False)
        output = self.model.get_output_embeddings()
        tables = [self.embeddings.weight] + ([] if output is None else [output.weight])
        with torch.no_grad():
            for table in tables:
                table[num_rows:] = table[:num_rows].mean(dim=0)

    def add_lora(
        self,
        *,
        rank: int,
        alpha: int,
        dropout: float = 0.0,
        target_modules: Sequence[str] = DEFAULT_LORA_TARGETS,
    ) -> None:
        """Attach LoRA adapters and freeze everything else in the language model.

        Raises:
            ConfigError: Adapters are attached already, or a target module does not exist.
        """
        # Imported here because it takes seconds, and answering questions needs none of it.
        from peft import LoraConfig, get_peft_model

        if self.has_lora:
            raise ConfigError("the language model has LoRA adapters already; merge them first")
        leaf_names = {name.rpartition(".")[2] for name, _ in self.model.named_modules()}
        unknown = [target for target in target_modules if target.rpartition(".")[2] not in leaf_names]
        if unknown or not target_modules:
            linear = sorted(n for n in leaf_names if n.endswith(("proj", "_attn", "fc", "fc1", "fc2", "dense")))
            raise ConfigError(
                f"lora.target_modules {unknown} are not in {type(self.model).__name__}; it has: {', '.join(linear)}"
            )
        options = LoraConfig(
            r=rank,
            lora_alpha=alpha,
            lora_dropout=dropout,
            target_modules=list(target_modules),
            bias="none",
            task_type="CAUSAL_LM",
        )
        self.model = get_peft_model(self.model, options)
        trainable, total = self.model.get_nb_trainable_parameters()
        logger.info("LoRA rank %d: %d of %d parameters of the language model are trained", rank, trainable, total)

    def merge_lora(self) -> None:
        """Add the adapters to the weights and leave a plain model.

        Raises:
            ConfigError: There are no adapters.
        """
        if not self.has_lora:
            raise ConfigError("the language model has no LoRA adapters to merge")
        self.model = self.model.merge_and_unload()

    def embed(self, input_ids: Tensor) -> Tensor:
        """Return token embeddings float[B, L, D] for ids int64[B, L]."""
        embeddings: Tensor = self.embeddings(input_ids)
        return embeddings

    def forward(self, **inputs: Any) -> Any:
        """Return the causal LM's output; arguments as in transformers."""
        return self.model(**inputs)


@contextmanager
def _reads_gguf(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a damaged file or an unknown architecture raises many types
        raise CheckpointError(f"{name}: this GGUF file cannot be read: {error}") from error


def _forget_quantization(model: Any) -> None:
    """Make a model read from a GGUF file an ordinary one: its weights are plain numbers by now, whatever it says."""
    for name in ("hf_quantizer", "quantization_method", "is_quantized"):
        if hasattr(model, name):
            delattr(model, name)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
