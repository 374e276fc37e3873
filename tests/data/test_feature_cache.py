"""FeatureCache: what is kept comes back, what is damaged does not, and the folder stays within its limit."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from cora.data.feature_cache import FeatureCache
from cora.data.skipped import SkippedList, SkippedPanorama
from cora.errors import DataError


def make_features(seed: int) -> torch.Tensor:
    return torch.randn(1, 2, 8, 16, generator=torch.Generator().manual_seed(seed))


def test_what_is_stored_is_read_as_it_was_returned(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, "model", max_bytes=10**6)
    features = make_features(0)
    returned = cache.store(["a"], features)
    found = FeatureCache(tmp_path, "model", max_bytes=10**6).read("a")
    assert found.features is not None
    assert torch.equal(found.features, returned[0])
    torch.testing.assert_close(returned, features, rtol=1e-3, atol=1e-4)
    assert FeatureCache(tmp_path, "other", max_bytes=10**6).read("a") == (None, False)
    assert torch.equal(cache.store([None], features), features)
    # Half precision has no such number.
    assert torch.equal(cache.store(["b"], features + 1e6), features + 1e6)
    assert cache.read("b").features is None


@pytest.mark.parametrize("fault", ["torn", "empty", "flipped", "foreign"])
def test_damaged_entries_are_thrown_away(tmp_path: Path, fault: str) -> None:
    cache = FeatureCache(tmp_path, "model", max_bytes=10**6)
    cache.store(["a"], make_features(0))
    (path,) = cache.folder.iterdir()
    content = bytearray(path.read_bytes())
    content[-9 if fault == "flipped" else 0] ^= 1 if fault == "flipped" else 0
    path.write_bytes({"torn": content[:-40], "empty": b"", "flipped": content, "foreign": b"x" * 300}[fault])
    assert cache.read("a") == (None, True)
    assert not path.exists()
    cache.store(["a"], make_features(0))
    assert cache.read("a").features is not None


def test_a_key_follows_the_content_of_the_file(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "cache", "model", max_bytes=10**6)
    image = tmp_path / "a.jpg"
    image.write_bytes(b"one")
    assert cache.known_key(image) is None
    key = cache.key(image, b"one")
    assert cache.known_key(image) == key
    image.write_bytes(b"other")
    assert cache.known_key(image) is None
    assert cache.key(image, b"other") != key


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    FeatureCache(tmp_path, "older", max_bytes=10**6).store(["z"], make_features(9))
    (old,) = (tmp_path / "older").iterdir()
    os.utime(old, (1, 1))
    size = old.stat().st_size
    cache = FeatureCache(tmp_path, "model", max_bytes=10 * size)
    for number, name in enumerate("abcdefghi"):
        cache.store([name], make_features(number))
        os.utime(cache.folder / f"{name}.safetensors", (10 + number, 10 + number))
    assert cache.read("a").features is not None  # used just now
    for name in "jk":
        cache.store([name], make_features(0))
    left = {path.stem for path in tmp_path.glob("*/*")}
    assert "z" not in left
    assert "b" not in left
    assert {"a", "j", "k"} <= left
    assert sum(path.stat().st_size for path in tmp_path.glob("*/*")) <= 10 * size


def test_writers_at_the_same_time_leave_whole_entries(tmp_path: Path) -> None:
    features = make_features(0)

    def work(number: int) -> int:
        cache = FeatureCache(tmp_path, "model", max_bytes=20_000)
        damaged = 0
        for turn in range(60):
            key = f"{(number + turn) % 40}"
            damaged += cache.read(key).is_damaged
            cache.store([key], features)
        return damaged

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(work, range(4))) == 0
    assert not list(tmp_path.glob("*/*.part"))


def test_a_full_disk_ends_writing_and_not_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache = FeatureCache(tmp_path, "model", max_bytes=10**6)

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    cache.store(["a"], make_features(0))
    cache.store(["b"], make_features(1))
    assert caplog.text.count("no more features are kept: No space left on device") == 1
    assert list(cache.folder.iterdir()) == []


def test_skipped_panoramas_are_listed_once_and_too_many_end_the_run(tmp_path: Path) -> None:
    path = tmp_path / "skipped.csv"
    for _ in range(2):  # a resumed run meets them again
        skipped = SkippedList(path, max_share=0.1)
        for name in ("a.jpg", "b.jpg", "a.jpg"):
            skipped.add(SkippedPanorama(f"/{name}", "cut, off"), data="finetune/train", num_images=20)
    lines = path.read_text().splitlines()
    assert lines == ["data,image,reason", *(f'finetune/train,/{name}.jpg,"cut, off"' for name in "ab")]
    with pytest.raises(DataError, match=r"3 of the 20 panoramas of finetune/train .*skipped\.csv lists them.*gone"):
        skipped.add(SkippedPanorama("/c.jpg", "gone"), data="finetune/train", num_images=20)
