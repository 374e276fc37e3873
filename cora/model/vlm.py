"""PanoramaVLM: a language model that sees panoramas.

Shapes: B batch of panoramas, V views, S patch tokens per view, T vision tokens, L sequence, D widths.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from cora._auto_classes import register_loaded_classes
from cora.errors import CheckpointError, ConfigError
from cora.model.configuration import PanoramaVLMConfig
from cora.model.embedder import PanoramaEmbedder
from cora.model.language_fusion import LanguageFusion
from cora.model.language_model import LanguageModel
from cora.model.projectors import PanoramaProjector
from cora.model.resampler.module import ResamplerModule
from cora.model.vision_encoder import VisionBackbone, view_defaults
from cora.processors.images import PanoramaImageProcessor
from cora.processors.processor import PanoramaProcessor
from cora.processors.text import FamilyName, add_vision_token

__all__ = ["PanoramaVLM"]


@contextmanager
def _reads_checkpoint(name: str | Path) -> Iterator[None]:
    """Turn transformers' ways to say that there is no such checkpoint into one of ours."""
    text = str(name)
    # A hub id has one slash at most.
    if (text.count("/") > 1 or text.startswith((".", "/", "~"))) and not Path(name).exists():
        raise CheckpointError(f"{name}: no such checkpoint directory")
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"cannot load a checkpoint from {name}: {error}") from error


class PanoramaVLM(PanoramaEmbedder, PreTrainedModel, GenerationMixin):  # type: ignore[misc]  # transformers is untyped here
    """Vision backbone, resampler, projector and language model, joined at the placeholder token.

    Args:
        config: What to build.
        vision: A tower to use instead of one with random weights.
        language_model: A language model to use instead of one with random weights.
    """

    config_class = PanoramaVLMConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(
        self,
        config: PanoramaVLMConfig,
        *,
        vision: VisionBackbone | None = None,
        language_model: LanguageModel | None = None,
    ) -> None:
        super().__init__(config)
        if config.image_token_id is None:
            raise ConfigError("image_token_id is missing: the id of the placeholder token in the tokenizer")
        # Spelled out, so that a checkpoint does not depend on what the defaults are later.
        config.image_processing = PanoramaImageProcessor.from_dict(config.image_processing).to_dict()
        self.vision = VisionBackbone(config.vision_config) if vision is None else vision
        self.language_model = (
            LanguageModel.from_config(config.text_config) if language_model is None else language_model
        )
        self.resampler = ResamplerModule(
            config.resampler, input_dim=self.vision.hidden_size, latent_dim=config.latent_dim
        )
        self.projector = PanoramaProjector(
            config.token_layout,
            latent_dim=config.latent_dim,
            output_dim=self.language_model.hidden_size,
            positional_encoding=config.projector["positional_encoding"],
        )
        self.fusion = LanguageFusion(config.image_token_id)
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Leave our own modules as their constructors made them; the towers initialise themselves."""

    @classmethod
    def from_pretrained(cls, name: str | Path, *args: Any, **kwargs: Any) -> Any:
        """Return the model of a checkpoint directory or hub id; every weight must be there and none be left over.

        Raises:
            CheckpointError: It is no CORA checkpoint, or its weights do not fit its configuration.
        """
        if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
            raise CheckpointError(f"{name} is no checkpoint directory: it has no config.json")
        wants_report = kwargs.pop("output_loading_info", False)
        # Wrong shapes are let through to the report, where the check below names them.
        options = {**kwargs, "output_loading_info": True, "ignore_mismatched_sizes": True}
        with _reads_checkpoint(name):
            model, report = super().from_pretrained(name, *args, **options)
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            if keys := sorted(report[kind], key=str):
                raise CheckpointError(f"{name}: {len(keys)} weights are {kind.removesuffix('_keys')}, first: {keys[0]}")
        return (model, report) if wants_report else model

    @classmethod
    def from_components(
        cls,
        *,
        vision_name: str,
        language_model_name: str,
        image_processing: Mapping[str, Any] | None = None,
        resampler: Mapping[str, Any] | None = None,
        latent_dim: int = 768,
        projector: Mapping[str, Any] | None = None,
        dtype: torch.dtype = torch.float32,
        attn_implementation: str = "sdpa",
        trust_remote_code: bool = False,
    ) -> tuple[Self, Any]:
        """Return a model of two pretrained towers with new weights between them, and its tokenizer.

        Args:
            vision_name: Hub id or directory of a vision (or two-tower) model.
            language_model_name: Hub id, directory or GGUF file of a causal language model with its tokenizer.
            image_processing: Options of the `PanoramaImageProcessor`; size, mean and std default to the tower's.
            resampler: ``{"type": name, **options}``.
            latent_dim: Width between resampler and projector.
            projector: Options of the projector.
            dtype: Of all weights.
            attn_implementation: Attention of both towers, as in transformers.
            trust_remote_code: Whether code that comes with a checkpoint may run.

        Raises:
            ConfigError: A part is not supported or an option unknown.
            CheckpointError: A tower cannot be loaded.
        """
        options: dict[str, Any] = {
            "dtype": dtype,
            "attn_implementation": attn_implementation,
            "trust_remote_code": trust_remote_code,
        }
        with _reads_checkpoint(vision_name):
            vision = VisionBackbone.from_pretrained(vision_name, **options)
        with _reads_checkpoint(language_model_name):
            language_model = LanguageModel.from_pretrained(language_model_name, **options)
            tokenizer = LanguageModel.tokenizer_of(language_model_name, trust_remote_code=trust_remote_code)
        for part in (vision.config, language_model.config):
            # Where a tower lay on this machine says nothing to whoever loads the model elsewhere.
            part.name_or_path = ""
        image_token_id = add_vision_token(tokenizer)
        language_model.make_room_for(len(tokenizer))
        config = PanoramaVLMConfig(
            vision_config=vision.config,
            text_config=language_model.config,
            image_processing={**view_defaults(vision.config), **(image_processing or {})},
            resampler=dict(resampler or {"type": "bimamba"}),
            latent_dim=latent_dim,
            projector=dict(projector or {}),
            image_token_id=image_token_id,
        )
        model = cls(config, vision=vision, language_model=language_model)
        return model.to(dtype), tokenizer

    def set_image_processing(self, options: Mapping[str, Any], *, stitching: str) -> None:
        """Cut and stitch panoramas in another way from now on; no weight depends on it.

        Args:
            options: Of the `PanoramaImageProcessor`; size, mean and std default to the tower's.
            stitching: Of the projector.

        Raises:
            ConfigError: The views do not suit the tower or the resampler.
        """
        image_processing = {**view_defaults(self.config.vision_config), **options}
        self.config.image_processing = PanoramaImageProcessor.from_dict(image_processing).to_dict()
        self.config.projector = {**self.config.projector, "stitching": stitching}
        self.projector.set_layout(self.config.token_layout)

    def build_processor(
        self, tokenizer: Any, *, system_message: str | None = None, family: FamilyName = "auto"
    ) -> PanoramaProcessor:
        """Return the processor that makes this model's input."""
        return PanoramaProcessor(
            tokenizer,
            image_processing=self.config.image_processing,
            num_vision_tokens=self.config.num_vision_tokens,
            system_message=system_message,
            family=family,
        )

    def export(self, directory: str | Path, processor: PanoramaProcessor) -> None:
        """Write a directory that transformers and vLLM load: weights, processor, tokenizer, generation settings.

        LoRA adapters are merged into this model first. Answers are greedy by default and end where the processor's
        chat template ends a turn.

        Raises:
            ConfigError: The processor was made for another model.
        """
        if processor.num_vision_tokens != self.config.num_vision_tokens:
            raise ConfigError(
                f"the processor expects {processor.num_vision_tokens} vision tokens per panorama, the model makes "
                f"{self.config.num_vision_tokens}"
            )
        if processor.image_processor.to_dict() != self.config.image_processing:
            raise ConfigError("the processor cuts panoramas differently from the model's image_processing")
        if self.language_model.has_lora:
            self.language_model.merge_lora()
        self.generation_config = GenerationConfig(
            do_sample=False,
            bos_token_id=processor.tokenizer.bos_token_id,
            eos_token_id=list(processor.text_formatter.stop_token_ids),
            pad_token_id=processor.tokenizer.pad_token_id,
        )
        self.save_pretrained(directory)
        processor.save_pretrained(directory)

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Write weights and configuration; ConfigError while LoRA adapters are not merged."""
        if self.language_model.has_lora:
            raise ConfigError("merge the LoRA adapters before saving the model (language_model.merge_lora, or export)")
        super().save_pretrained(save_directory, **kwargs)

    def get_input_embeddings(self) -> torch.nn.Module:
        """Return the language model's token embeddings."""
        return self.language_model.embeddings

    def set_input_embeddings(self, value: torch.nn.Module) -> None:
        """Replace the language model's token embeddings."""
        self.language_model.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> torch.nn.Module:
        """Return the language model's output layer."""
        module: torch.nn.Module = self.language_model.model.get_output_embeddings()
        return module

    def _embed_inputs(
        self, input_ids: Tensor, pixel_values: Tensor | None, vision_features: Tensor | None, *, is_continuation: bool
    ) -> Tensor:
        if pixel_values is not None and vision_features is not None:
            raise ValueError("give pixel_values or vision_features, not both")
        embeddings = self.language_model.embed(input_ids)
        if pixel_values is not None:
            vision_tokens = self.embed_panoramas(pixel_values)
        elif vision_features is not None:
            vision_tokens = self.embed_features(vision_features)
        else:
            if not is_continuation and (count := int(self.fusion.placeholders(input_ids).sum())):
                raise ValueError(f"the text has {count} placeholders, but there is no panorama: give pixel_values")
            return embeddings
        fused: Tensor = self.fusion(input_ids, embeddings, vision_tokens)
        return fused

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        vision_features: Tensor | None = None,
        labels: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Return logits float[B, L, vocabulary], and the loss when `labels` are given.

        Args:
            input_ids: int64[B, L] with T placeholders per panorama.
            attention_mask: bool or int [B, L]; or a prepared mask [B, 1, L, L] together with `position_ids`.
            position_ids: int64[B, L].
            pixel_values: Normalised views, float[P, V, 3, height, width], panoramas in the order of the rows.
            vision_features: Instead of `pixel_values`: their `encode_views`, float[P, V, S, D].
            labels: int64[B, L], -100 where nothing is predicted.
            past_key_values: Cache of earlier positions.
            inputs_embeds: Instead of `input_ids`: embeddings with the vision tokens in place, float[B, L, D].
            logits_to_keep: Number of last positions, or positions, to compute logits for; 0 is all.
            **kwargs: Further arguments of the language model.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give input_ids or inputs_embeds, not both and not neither")
        if inputs_embeds is None:
            assert input_ids is not None
            inputs_embeds = self._embed_inputs(
                input_ids,
                pixel_values,
                vision_features,
                is_continuation=past_key_values is not None and past_key_values.get_seq_length() > 0,
            )
        outputs: CausalLMOutputWithPast = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            labels=labels,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )
        return outputs

    def answer_loss(self, labels: Tensor, **inputs: Any) -> Tensor:
        """Return the mean cross-entropy of the labelled tokens, like ``forward(labels=...).loss``, for less memory.

        Logits are computed only at positions that predict a labelled token in some row; with a thousand vision tokens
        before a short answer that is a small part.

        Args:
            labels: int64[B, L], -100 where nothing is predicted.
            **inputs: Further arguments of `forward`, `input_ids` or `inputs_embeds` among them.
        """
        targets = F.pad(labels[:, 1:], (0, 1), value=-100)
        positions = (targets != -100).any(dim=0).nonzero().flatten()
        if len(positions) == 0:
            raise ValueError("no position is labelled")
        logits = self(logits_to_keep=positions, **inputs).logits
        return F.cross_entropy(logits.flatten(0, 1).float(), targets[:, positions].flatten(), ignore_index=-100)

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        is_first_iteration: bool | None = False,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return the inputs of one generation step; panoramas go in with the prompt only.

        `inputs_embeds` must be named here: transformers lets `generate` take embedded prompts only where it is.
        """
        if not is_first_iteration and kwargs.get("use_cache", True):
            kwargs.pop("vision_features", None)
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(
            input_ids, is_first_iteration=is_first_iteration, inputs_embeds=inputs_embeds, **kwargs
        )
        return inputs


register_loaded_classes()
