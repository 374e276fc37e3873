"""PanoramaLoader: panoramas of a batch are cut together, and nothing shows of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import make_panorama

from cora.data import panoramas
from cora.data.panoramas import LoadedPanorama, PanoramaLoader, Request
from cora.data.skipped import SkippedPanorama
from cora.data.view_memory import ViewMemory
from cora.processors.processor import PanoramaProcessor


@pytest.fixture
def requests(tmp_path: Path) -> list[Request]:
    """Panoramas of two sizes, one of them turned as well and one that cannot be decoded."""
    images = [tmp_path / f"{seed}.png" for seed in range(5)]
    for seed, image in enumerate(images):
        picture = make_panorama(seed)
        (picture.resize((96, 48)) if seed % 2 else picture).save(image)
    images[2].write_bytes(b"no picture")
    return [(image, None) for image in images] + [(images[1], 0.25), (images[0], None)]


@pytest.mark.parametrize("small_bytes", [0, 10**6])
@pytest.mark.parametrize("at_once", [1, 4, 8])
def test_a_batch_is_loaded_as_each_panorama_alone(
    requests: list[Request],
    processor: PanoramaProcessor,
    monkeypatch: pytest.MonkeyPatch,
    at_once: int,
    small_bytes: int,
) -> None:
    loader = PanoramaLoader(processor.image_processor)
    alone = {request: loader.load([request])[request] for request in requests}
    monkeypatch.setattr(panoramas, "_AT_ONCE", at_once)
    monkeypatch.setattr(panoramas, "_SMALL_BYTES", small_bytes)
    together = loader.load(requests)
    assert together.keys() == alone.keys()
    for request, loaded in together.items():
        expected = alone[request]
        if isinstance(expected, SkippedPanorama):
            assert loaded == expected
            assert request == requests[2]
        else:
            assert isinstance(loaded, LoadedPanorama)
            assert torch.equal(loaded.views, expected.views)


def test_small_panoramas_are_cut_in_one_call(
    requests: list[Request], processor: PanoramaProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, crop = [], type(processor.image_processor).crop

    def counted(self: object, panorama: torch.Tensor) -> torch.Tensor:
        sizes.append(len(panorama))
        return crop(processor.image_processor, panorama)

    monkeypatch.setattr(type(processor.image_processor), "crop", counted)
    PanoramaLoader(processor.image_processor).load(requests)
    assert sizes == [2, 3]


def test_large_panoramas_are_in_memory_one_at_a_time(
    requests: list[Request], processor: PanoramaProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panoramas, "_SMALL_BYTES", 0)
    images, calls = processor.image_processor, []
    load, crop = images.load, images.crop
    monkeypatch.setattr(images, "load", lambda *a, **k: (calls.append("load"), load(*a, **k))[1])
    monkeypatch.setattr(images, "crop", lambda *a, **k: (calls.append("crop"), crop(*a, **k))[1])
    # The third cannot be decoded.
    PanoramaLoader(images).load(request for request in requests if request != requests[2])
    assert calls == ["load", "crop"] * 5


def test_what_cannot_be_kept_is_loaded_all_the_same(
    requests: list[Request], processor: PanoramaProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("stale file handle")

    loader = PanoramaLoader(processor.image_processor)
    loader.memory = ViewMemory(10**9)
    monkeypatch.setattr(loader.memory, "keep", refuse)
    assert isinstance(loader.load(requests[:1])[requests[0]], LoadedPanorama)


def test_what_is_remembered_does_not_keep_its_batch(requests: list[Request], processor: PanoramaProcessor) -> None:
    loader = PanoramaLoader(processor.image_processor)
    loader.memory = ViewMemory(10**9)
    loader.load(requests)
    views = loader.memory.get(requests[0][0])
    assert views is not None
    assert views.untyped_storage().nbytes() == views.nbytes
