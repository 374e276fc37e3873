from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from cora.errors import ImageError
from cora.processors import loading
from cora.processors.loading import load_panorama

RED, WHITE = [255, 0, 0], [255, 255, 255]


@pytest.fixture
def gradient() -> Image.Image:
    """A 16 x 32 picture whose red grows to the right and whose green grows downwards."""
    pixels = np.zeros((16, 32, 3), dtype=np.uint8)
    pixels[..., 0] = np.arange(32) * 8
    pixels[..., 1] = np.arange(16)[:, None] * 16
    return Image.fromarray(pixels)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_every_source_gives_the_same_tensor(gradient: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    gradient.save(path)
    pixels = np.asarray(gradient)
    expected = torch.from_numpy(pixels.copy())
    sources = [path, str(path), path.read_bytes(), gradient, pixels, expected, expected.permute(2, 0, 1)]
    for source in sources:
        loaded = load_panorama(source)
        assert loaded.dtype == torch.uint8
        assert loaded.is_contiguous()
        assert torch.equal(loaded, expected)


def test_the_result_can_be_written_without_touching_the_source() -> None:
    source = np.zeros((4, 8, 3), dtype=np.uint8)
    load_panorama(source)[:] = 7
    assert source.max() == 0


def test_exif_orientation_is_applied(gradient: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to see it upright
    turned = gradient.transpose(Image.Transpose.ROTATE_90)
    loaded = load_panorama(encoded(turned, "PNG", exif=exif))
    assert torch.equal(loaded, load_panorama(gradient))


def test_jpeg_in_cmyk_and_grey(gradient: Image.Image) -> None:
    colours = load_panorama(encoded(gradient.convert("CMYK"), "JPEG", quality=95)).float()
    assert (colours - load_panorama(gradient).float()).abs().mean() < 8
    grey = load_panorama(encoded(gradient.convert("L"), "JPEG"))
    assert grey.shape == (16, 32, 3)
    assert torch.equal(grey[..., 0], grey[..., 2])


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.abuse(2)
def test_convention_transparency_is_put_on_white(mode: str) -> None:
    image = Image.new("RGBA", (8, 4), (255, 0, 0, 255))
    image.paste((0, 0, 255, 0), (0, 0, 4, 4))
    loaded = load_panorama(encoded(image.convert(mode), "PNG"))
    assert loaded[0, 0].tolist() == WHITE
    if mode != "LA":
        assert loaded[0, 7].tolist() == RED


def test_half_transparent_arrays_are_blended() -> None:
    pixels = np.zeros((2, 4, 4), dtype=np.uint8)
    pixels[..., 3] = 51
    assert load_panorama(pixels)[0, 0].tolist() == [204, 204, 204]


def test_palette_and_black_and_white(gradient: Image.Image) -> None:
    palette = gradient.convert("P", palette=Image.Palette.ADAPTIVE, colors=256)
    assert torch.equal(load_panorama(encoded(palette, "PNG")), load_panorama(palette.convert("RGB")))
    assert load_panorama(encoded(gradient.convert("1"), "PNG")).unique().tolist() == [0, 255]


def test_16_bit_values_are_scaled_not_cut() -> None:
    wide = (np.arange(32, dtype=np.uint16) * 2114).repeat(16).reshape(32, 16).T
    expected = np.rint(wide / 257).astype(np.uint8)
    for source in (encoded(Image.fromarray(wide), "PNG"), encoded(Image.fromarray(wide), "TIFF"), wide.copy()):
        assert load_panorama(source)[..., 1].numpy().tolist() == expected.tolist()


def test_floating_values_lie_in_0_to_1() -> None:
    assert load_panorama(torch.full((4, 8, 3), 0.5))[0, 0, 0] == 128
    for bad in (torch.full((4, 8, 3), 1.5), torch.full((4, 8, 3), -0.1), torch.full((4, 8, 3), float("nan"))):
        with pytest.raises(ImageError, match=r"floating in 0 \.\. 1"):
            load_panorama(bad, name="row 7")


def test_the_first_frame_of_an_animation_counts(gradient: Image.Image) -> None:
    frames = encoded(gradient, "GIF", save_all=True, append_images=[Image.new("RGB", gradient.size)])
    assert load_panorama(frames).float().mean() > 50


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda folder: folder / "absent.jpg", "absent.jpg: no such file"),
        (lambda folder: folder, "not a file"),
        (lambda folder: _written(folder / "empty.png", b""), "empty.png: the file is empty"),
        (lambda folder: _written(folder / "notes.jpg", b"not a picture"), "notes.jpg: not a picture"),
        (lambda folder: "https://host/p.jpg", "https://host/p.jpg: .*not fetched from the network"),
    ],
)
def test_unusable_files_are_named(prepare: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=words):
        load_panorama(prepare(tmp_path))


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_cut_off_files_are_refused(kind: str, tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 128, 3), dtype=np.uint8))
    content = encoded(noise, kind)
    path = _written(tmp_path / f"cut.{kind}", content[: len(content) // 2])
    with pytest.raises(ImageError, match=rf"cut\.{kind}"):
        load_panorama(path)


def test_large_files_are_refused_by_their_header(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    Image.new("RGB", (64, 32)).save(path)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("the picture was decoded"))
    with pytest.raises(ImageError, match=r"large\.png: 64 x 32 pixels are more than max_pixels = 2047"):
        load_panorama(path, max_pixels=2047)


def test_decompression_bombs_are_refused_and_large_panoramas_open_quietly(
    monkeypatch: pytest.MonkeyPatch, gradient: Image.Image
) -> None:
    content = encoded(gradient, "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)  # 512 pixels: Pillow would warn, and warnings are errors here
    assert load_panorama(content).shape == (16, 32, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ImageError, match="exceeds limit"):
        load_panorama(content)


def test_pillow_settings_are_left_alone() -> None:
    from PIL import ImageFile

    assert Image.MAX_IMAGE_PIXELS is not None
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


@pytest.mark.parametrize(
    ("width", "height", "outcome"),
    [
        (200, 100, "fine"),
        (209, 100, "fine"),
        (212, 100, "warned"),
        (155, 100, "warned"),
        (150, 100, "refused"),
        (250, 100, "refused"),
        (100, 100, "refused"),
    ],
)
@pytest.mark.abuse(11)
def test_pictures_far_from_2_to_1_are_warned_about_or_refused(
    width: int, height: int, outcome: str, caplog: pytest.LogCaptureFixture
) -> None:
    loading._warn_aspect.cache_clear()
    picture = torch.zeros(height, width, 3, dtype=torch.uint8)
    if outcome == "refused":
        with pytest.raises(ImageError, match=rf"beach: {width} x {height} pixels is no panorama"):
            load_panorama(picture, name="beach")
        assert load_panorama(picture, accept_flat=True).shape == (height, width, 3)
        return
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            load_panorama(picture, name="beach")
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == (outcome == "warned")
    assert all("beach" in message and str(width) in message for message in messages)


@pytest.mark.parametrize("shape", [(4,), (4, 8, 2), (2, 4, 8, 3), (0, 8, 3), (1, 2, 3)])
def test_wrong_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match=r"row 3: "):
        load_panorama(np.zeros(shape, dtype=np.uint8), name="row 3")


def test_wrong_types_are_refused() -> None:
    with pytest.raises(ImageError, match="not int"):
        load_panorama(7)  # type: ignore[arg-type]


def photo_like(height: int, width: int) -> Image.Image:
    """Return waves of many sizes in three colours, as detailed as a photograph and without hard edges."""
    y, x = np.mgrid[0:height, 0:width] / height
    waves = [
        sum(np.sin(2 * np.pi * (3**k * (x * (channel + 1) + y) + k)) / 1.7**k for k in range(4)) for channel in range(3)
    ]
    return Image.fromarray((np.stack(waves, axis=-1) * 45 + 127).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("options", [{"subsampling": "4:4:4"}, {"subsampling": "4:2:0"}, {"progressive": True}])
@pytest.mark.parametrize("halvings", [1, 2, 3, 7])
def test_a_jpeg_is_decoded_as_small_as_allowed(halvings: int, options: dict[str, Any]) -> None:
    content = encoded(photo_like(256, 512), "JPEG", quality=92, **options)
    whole = load_panorama(content)
    factor = 2 ** min(3, halvings)
    small = load_panorama(content, halvings=lambda height, width: halvings)
    assert small.shape == (256 // factor, 512 // factor, 3)
    means = whole.float().view(small.shape[0], factor, small.shape[1], factor, 3).mean(dim=(1, 3))
    # Colour at half size is spread over neighbours in the whole picture, and not in a halved one.
    assert float((small - means).abs().mean()) < 2.5


def test_a_jpeg_in_full_has_the_pixels_of_pillow() -> None:
    for options in ({"subsampling": "4:2:0"}, {"subsampling": "4:4:4"}, {"progressive": True}):
        content = encoded(photo_like(100, 202), "JPEG", quality=85, **options)
        with Image.open(io.BytesIO(content)) as image:
            assert np.array_equal(load_panorama(content).numpy(), np.asarray(image))


@pytest.mark.parametrize(("size", "halved"), [((256, 512), 3), ((100, 200), 2), ((98, 196), 1), ((99, 198), 0)])
def test_a_jpeg_is_halved_only_into_whole_pixels(size: tuple[int, int], halved: int) -> None:
    asked = []
    small = load_panorama(encoded(photo_like(*size), "JPEG"), halvings=lambda *sides: asked.append(sides) or 3)
    assert small.shape == (size[0] >> halved, size[1] >> halved, 3)
    assert asked == [size]


def test_other_pictures_are_decoded_in_full() -> None:
    picture = photo_like(64, 128)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    for content in (
        encoded(picture, "PNG"),
        encoded(picture, "WEBP"),
        encoded(picture.convert("CMYK"), "JPEG"),
        encoded(picture, "JPEG", exif=exif),
    ):
        assert load_panorama(content, halvings=lambda height, width: 3).shape == (64, 128, 3)
    grey = load_panorama(encoded(picture.convert("L"), "JPEG"), halvings=lambda height, width: 1)
    assert grey.shape == (32, 64, 3)
    assert torch.equal(grey[..., 0], grey[..., 2])


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.999])
def test_a_cut_off_jpeg_is_refused_however_small_it_is_decoded(keep: float) -> None:
    content = encoded(photo_like(256, 512), "JPEG", quality=95)
    for halvings in (0, 1, 3):
        with pytest.raises(ImageError, match="row 7: "):
            load_panorama(content[: int(keep * len(content))], name="row 7", halvings=lambda *_: halvings)  # noqa: B023


@pytest.mark.parametrize("options", [{}, {"subsampling": "4:2:0"}, {"subsampling": "4:4:4"}, {"optimize": True}])
@pytest.mark.parametrize("halvings", [0, 1, 3])
def test_the_rows_that_are_looked_at_do_not_depend_on_those_below(halvings: int, options: dict[str, Any]) -> None:
    content = encoded(photo_like(512, 1024), "JPEG", quality=90, **options)
    whole = load_panorama(content, halvings=lambda *_: halvings)
    asked = []
    top = load_panorama(
        content, halvings=lambda *_: halvings, last_row=lambda *size: asked.append(size) or (size[0] * 5 // 8)
    )
    assert asked == [tuple(whole.shape[:2])]
    assert top.shape == whole.shape
    assert torch.equal(top[: len(top) * 5 // 8], whole[: len(top) * 5 // 8])
    assert not top[len(top) * 7 // 8 :].any()
    assert whole[len(top) * 7 // 8 :].any()


@pytest.mark.parametrize("options", [{"progressive": True}, {"restart_marker_rows": 1}])
def test_a_jpeg_that_is_not_coded_in_one_go_is_decoded_to_the_end(options: dict[str, Any]) -> None:
    content = encoded(photo_like(512, 1024), "JPEG", **options)
    assert torch.equal(load_panorama(content, last_row=lambda height, width: 64), load_panorama(content))


def test_what_follows_a_jpeg_in_its_file_is_no_part_of_it() -> None:
    content = encoded(photo_like(512, 1024), "JPEG") + b"a video of two seconds"
    top, whole = load_panorama(content, last_row=lambda height, width: 64), load_panorama(content)
    assert torch.equal(top[:64], whole[:64])
    assert not top[128:].any()


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.999])
def test_a_cut_off_jpeg_is_refused_wherever_the_views_end(keep: float) -> None:
    content = encoded(photo_like(512, 1024), "JPEG", quality=95)
    for last_row in (8, 256, 511):
        with pytest.raises(ImageError, match="row 7: "):
            load_panorama(content[: int(keep * len(content))], name="row 7", last_row=lambda *_: last_row)  # noqa: B023


def test_a_jpeg_broken_where_it_is_looked_at_is_refused() -> None:
    content = bytearray(encoded(photo_like(512, 1024), "JPEG", quality=95))
    content[len(content) // 4 : len(content) // 4 + 2] = b"\xff\xd9"
    with pytest.raises(ImageError, match="cannot be decoded"):
        load_panorama(bytes(content), last_row=lambda height, width: 256)


def test_limits_are_those_of_the_whole_picture() -> None:
    content = encoded(photo_like(64, 128), "JPEG")
    with pytest.raises(ImageError, match="128 x 64 pixels are more than max_pixels = 8191"):
        load_panorama(content, max_pixels=8191, halvings=lambda height, width: 3)
