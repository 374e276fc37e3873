from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cora.errors import ConfigError, GeometryError, ImageError, RegistryError
from cora.ops.erp_to_views import erp_to_views
from cora.processors.images import PanoramaImageProcessor
from cora.processors.strategies import STRATEGIES

COUNTS = {"anyres": 10, "anyres_e2p": 9, "anyres_max": 10, "cubemap": 4, "e2p": 8, "resize": 1, "sliding_window": 8}


def noise(height: int = 32, width: int = 64, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("strategy", STRATEGIES.names())
def test_every_strategy_gives_normalised_views(strategy: str) -> None:
    processor = PanoramaImageProcessor(crop_strategy=strategy, image_size=(24, 16))
    assert processor.num_views == len(processor.views) == COUNTS[strategy]
    pixel_values = processor(noise())["pixel_values"]
    assert pixel_values.shape == (1, COUNTS[strategy], 3, 24, 16)
    assert pixel_values.dtype == torch.float32
    assert -1 <= float(pixel_values.min()) < -0.2
    assert 0.2 < float(pixel_values.max()) <= 1


def test_crop_is_the_operation_on_the_views() -> None:
    options: dict[str, Any] = {"image_mean": (0.4, 0.5, 0.6), "image_std": (0.2, 0.3, 0.4), "antialias": False}
    processor = PanoramaImageProcessor(image_size=20, **options)
    expected = erp_to_views(
        noise(), processor.views, size=(20, 20), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), antialias=False
    )
    torch.testing.assert_close(processor.crop(noise()), expected)
    assert not torch.allclose(PanoramaImageProcessor(image_size=20).crop(noise()), expected)


def test_lists_may_mix_sources_and_sizes(tmp_path: Path) -> None:
    small, large = noise(), noise(64, 128, seed=1)
    path = tmp_path / "panorama.png"
    Image.fromarray(small.numpy()).save(path)
    processor = PanoramaImageProcessor(image_size=16)
    pixel_values = processor([path, str(path), path.read_bytes(), Image.open(path), small.numpy(), large])[
        "pixel_values"
    ]
    assert pixel_values.shape == (6, 9, 3, 16, 16)
    for position in range(5):
        torch.testing.assert_close(pixel_values[position], processor.crop(small))
    torch.testing.assert_close(pixel_values[5], processor.crop(large))


def test_the_letterboxed_view_has_black_bars() -> None:
    white = torch.full((32, 64, 3), 255, dtype=torch.uint8)
    first = PanoramaImageProcessor(image_size=16, image_mean=(0, 0, 0), image_std=(1, 1, 1)).crop(white)[0]
    assert first[:, :4].unique().tolist() == [0]
    assert first[:, 4:12].min().item() == pytest.approx(1)


def test_dictionary_round_trip_decides_equality() -> None:
    processor = PanoramaImageProcessor(image_size=(32, 48), fov_deg=60, pitch_min_deg=-60, pitch_max_deg=60)
    options = processor.to_dict()
    again = PanoramaImageProcessor.from_dict(json.loads(json.dumps(options)))
    assert again == processor
    assert hash(again) == hash(processor)
    assert again.views == processor.views
    assert PanoramaImageProcessor(fov_deg=90) == PanoramaImageProcessor(fov_deg=90.0, image_size=[224, 224])
    for key, value in {"fov_deg": 61.0, "antialias": False, "image_mean": [0, 0, 0], "image_size": [48, 32]}.items():
        assert PanoramaImageProcessor.from_dict({**options, key: value}) != processor


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"fov": 90}, ConfigError, "'fov'.*did you mean 'fov_deg'"),
        ({"crop_strategy": "e2c"}, RegistryError, "did you mean 'e2p'"),
        ({"image_size": 0}, ConfigError, "image_size"),
        ({"image_size": (1, 2, 3)}, ConfigError, "image_size"),
        ({"image_mean": (0.5,)}, ConfigError, "image_mean"),
        ({"image_std": (0.5, 0.5, 0)}, ConfigError, "image_std"),
        ({"overlap_ratio": 1}, GeometryError, "overlap_ratio"),
        ({"crop_strategy": "e2p", "fov_deg": 200}, GeometryError, "fov_deg"),
        ({"crop_strategy": "cubemap", "pitch_max_deg": 30}, GeometryError, "pitch.*anyres_e2p.*cubemap"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        PanoramaImageProcessor.from_dict(options)


def test_limits_reach_the_loader() -> None:
    with pytest.raises(ImageError, match="max_pixels = 100"):
        PanoramaImageProcessor(max_pixels=100)(noise())
    with pytest.raises(ImageError, match="no panorama"):
        PanoramaImageProcessor()(noise(32, 32))
    assert PanoramaImageProcessor(accept_flat=True, image_size=8)(noise(32, 32))["pixel_values"].shape[1] == 9


def test_wrong_calls_are_refused() -> None:
    processor = PanoramaImageProcessor(image_size=8)
    with pytest.raises(ConfigError, match="return_tensors"):
        processor(noise(), return_tensors="np")
    with pytest.raises(ConfigError, match="empty"):
        processor([])


def test_views_come_back_with_the_pictures() -> None:
    processor = PanoramaImageProcessor(image_size=8)
    batch = processor([noise(), noise()], return_views=True)
    assert batch["pixel_values"].shape[1] == len(batch["views"]) == processor.num_views
    assert [view.index for view in batch["views"]] == list(range(processor.num_views))
    assert [view.is_global for view in batch["views"]] == [True] + [False] * 8
    assert (batch["views"][3].yaw_deg, batch["views"][3].pitch_deg, batch["views"][3].hfov_deg) == (90, 0, 90)
    assert "views" not in processor(noise())


@pytest.mark.parametrize("strategy", ["e2p", "anyres_e2p", "resize", "sliding_window"])
def test_a_large_jpeg_gives_the_views_of_the_whole_picture(strategy: str) -> None:
    y, x = np.mgrid[0:1024, 0:2048] / 1024
    waves = sum(np.sin(2 * np.pi * (3**k * (x + y / 2) + k)) / 1.6**k for k in range(5))
    buffer = io.BytesIO()
    Image.fromarray((waves * 45 + 127).clip(0, 255).astype(np.uint8)).convert("RGB").save(buffer, "JPEG", quality=95)
    processor = PanoramaImageProcessor(crop_strategy=strategy, image_size=48)
    small = processor.load(buffer.getvalue())
    assert 256 <= small.shape[1] < 2048
    whole = PanoramaImageProcessor(crop_strategy=strategy, image_size=48, antialias=False).load(buffer.getvalue())
    assert whole.shape == (1024, 2048, 3)
    error = float(((processor.crop(small) - processor.crop(whole)) / 2).square().mean())
    assert -10 * math.log10(error) > 45
    # Cutting again what was loaded, as an engine in another process does, changes nothing.
    assert torch.equal(processor(Image.fromarray(small.numpy()))["pixel_values"][0], processor.crop(small))


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("strategy", ["e2p", "anyres_e2p", "cubemap"])
def test_views_of_a_jpeg_do_not_depend_on_rows_that_are_not_decoded(strategy: str, antialias: bool) -> None:
    y, x = np.mgrid[0:512, 0:1024] / 512
    waves = sum(np.sin(2 * np.pi * (3**k * (x + y / 2) + k)) / 1.6**k for k in range(5))
    buffer = io.BytesIO()
    Image.fromarray((waves * 45 + 127).clip(0, 255).astype(np.uint8)).convert("RGB").save(buffer, "JPEG", quality=95)
    processor = PanoramaImageProcessor(crop_strategy=strategy, image_size=56, antialias=antialias)
    part, whole = processor.load(buffer.getvalue()), processor.load(buffer.getvalue(), whole=True)
    assert torch.equal(processor.crop(part), processor.crop(whole))
    looks_down = any(view.is_global or view.pitch_deg < 0 for view in processor.views)
    assert torch.equal(part, whole) == looks_down


@pytest.mark.parametrize("strategy", STRATEGIES.names())
@pytest.mark.parametrize(("height", "expected"), [(63, 63), (100, 100), (512, 64)])
def test_a_shrunk_panorama_gives_the_same_views(strategy: str, height: int, expected: int) -> None:
    processor = PanoramaImageProcessor(crop_strategy=strategy, image_size=16)
    panorama = noise(height, 2 * height)
    shrunk = processor.shrink(panorama)
    # The one view of `resize` is coarser than those of the others.
    assert shrunk.shape[0] == (expected if strategy != "resize" or height == 63 else expected // 2)
    assert torch.equal(processor.crop(shrunk), processor.crop(panorama))


def test_without_antialiasing_nothing_is_shrunk() -> None:
    panorama = noise(512, 1024)
    assert PanoramaImageProcessor(image_size=16, antialias=False).shrink(panorama) is panorama
