from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import VISION_TYPES, make_vision_config
from torch import nn
from transformers import (
    AutoModel,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    SiglipConfig,
    SiglipModel,
    SiglipTextConfig,
    ViTConfig,
)

from cora.errors import CheckpointError, ConfigError
from cora.model.vision_encoder import VisionBackbone, view_defaults

PREFIX_TOKENS = {"siglip": 0, "clip": 1, "dinov2": 1, "dinov2_with_registers": 4}
TEXT_TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}


def make_backbone(kind: str) -> VisionBackbone:
    torch.manual_seed(0)
    return VisionBackbone(make_vision_config(kind)).eval()


@pytest.mark.parametrize("kind", VISION_TYPES)
def test_patch_tokens_are_what_the_tower_makes_of_the_patches(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = AutoModel.from_config(make_vision_config(kind)).eval()
    whole.save_pretrained(tmp_path)
    backbone = VisionBackbone.from_pretrained(str(tmp_path)).eval()
    views = torch.randn(2, 3, 32, 32)
    tokens = backbone(views)
    assert tokens.shape == (2, 16, backbone.hidden_size)
    torch.testing.assert_close(tokens, whole(views).last_hidden_state[:, PREFIX_TOKENS[kind] :])
    assert backbone.num_prefix_tokens == PREFIX_TOKENS[kind]


@pytest.mark.parametrize("kind", VISION_TYPES)
@pytest.mark.parametrize("size", [(48, 64), (16, 16), (64, 64)])
def test_position_embeddings_follow_the_size_of_the_views(kind: str, size: tuple[int, int]) -> None:
    backbone = make_backbone(kind)
    assert backbone(torch.randn(1, 3, *size)).shape == (1, size[0] // 8 * size[1] // 8, 32)


@pytest.mark.parametrize("kind", VISION_TYPES)
def test_every_parameter_serves_the_patch_tokens(kind: str) -> None:
    backbone = make_backbone(kind)
    backbone.set_trainable_blocks("all")
    backbone(torch.randn(1, 3, 32, 32)).square().sum().backward()
    idle = [name for name, parameter in backbone.named_parameters() if parameter.grad is None]
    assert idle == []


@pytest.mark.parametrize("kind", VISION_TYPES)
def test_the_last_blocks_can_be_trained(kind: str) -> None:
    backbone = make_backbone(kind)
    assert len(backbone.blocks) == 2

    def trained() -> set[str]:
        return {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}

    backbone.set_trainable_blocks(0)
    assert trained() == set()
    backbone.set_trainable_blocks(1)
    one = trained()
    assert {id(p) for p in backbone.blocks[1].parameters()} <= {id(p) for p in backbone.parameters() if p.requires_grad}
    assert not any(parameter.requires_grad for parameter in backbone.blocks[0].parameters())
    backbone.set_trainable_blocks(2)
    assert one < trained()
    backbone.set_trainable_blocks("all")
    assert trained() == {name for name, _ in backbone.named_parameters()}
    with pytest.raises(ConfigError, match="the tower has 2"):
        backbone.set_trainable_blocks(3)
    with pytest.raises(ConfigError, match="the tower has 2"):
        backbone.set_trainable_blocks(-1)


def write_two_towers(kind: str, directory: Path) -> nn.Module:
    torch.manual_seed(0)
    vision = make_vision_config(kind).to_dict()
    if kind == "siglip":
        text = SiglipTextConfig(vocab_size=60, bos_token_id=0, eos_token_id=1, pad_token_id=2, **TEXT_TOWER).to_dict()
        model: nn.Module = SiglipModel(SiglipConfig(vision_config=vision, text_config=text))
    else:
        text = CLIPTextConfig(vocab_size=60, bos_token_id=0, eos_token_id=1, pad_token_id=2, **TEXT_TOWER).to_dict()
        model = CLIPModel(CLIPConfig(vision_config=vision, text_config=text))
    model.save_pretrained(directory)
    return model.eval()


@pytest.mark.parametrize("kind", ["siglip", "clip"])
def test_the_vision_tower_of_a_two_tower_model_is_found(kind: str, tmp_path: Path) -> None:
    whole = write_two_towers(kind, tmp_path)
    backbone = VisionBackbone.from_pretrained(str(tmp_path)).eval()
    views = torch.randn(1, 3, 32, 32)
    expected = whole.vision_model(views).last_hidden_state[:, PREFIX_TOKENS[kind] :]
    torch.testing.assert_close(backbone(views), expected)
    assert not any(part in name for name, _ in backbone.named_parameters() for part in ("text", "head", "logit"))


def test_a_tower_with_missing_weights_is_refused(tmp_path: Path) -> None:
    AutoModel.from_config(make_vision_config("siglip")).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    gone = next(name for name in weights if "layers.1.mlp.fc1.weight" in name)
    del weights[gone]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 weights of the vision tower are missing, first: .*fc1\.weight"):
        VisionBackbone.from_pretrained(str(tmp_path))


def test_unsupported_tower_is_named_with_what_is_supported() -> None:
    with pytest.raises(ConfigError, match=r"'vit' is not supported; supported: clip_vision_model, dinov2"):
        VisionBackbone(ViTConfig())


def test_defaults_are_those_the_family_is_trained_with() -> None:
    assert view_defaults(make_vision_config("siglip")) == {
        "image_size": [32, 32],
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    assert view_defaults(make_vision_config("dinov2"))["image_mean"] == [0.485, 0.456, 0.406]
    assert view_defaults(make_vision_config("clip"))["image_std"][0] == pytest.approx(0.2686, abs=1e-4)
