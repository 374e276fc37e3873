from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from cora.errors import GeometryError, KernelUnavailable
from cora.geometry.camera import view_rays
from cora.geometry.layouts import yaw_ring
from cora.geometry.sphere import direction_to_lonlat, lonlat_to_pixel
from cora.ops import dispatch, view_rendering
from cora.ops import erp_to_views as module
from cora.ops.erp_to_views import available_implementations, erp_to_views
from cora.ops.extension import extension_problem
from cora.ops.reference import erp_to_views as reference
from cora.ops.view_plan import ONE, _weights, gather_plan
from cora.types import ViewSpec

# Both compute positions in double and colours in float32; only the order of the additions differs. Normalised units.
SAME_VALUE = 1e-4
LSB = 1 / 255

needs_extension = pytest.mark.skipif(extension_problem() is not None, reason=str(extension_problem()))

IMPLEMENTATIONS = ["reference", pytest.param("cpp", marks=needs_extension)]

VIEWS = {
    "ahead": ViewSpec(0, "perspective", 0, 0, 90, 90),
    "seam": ViewSpec(0, "perspective", -180, -20, 100, 70),
    "zenith": ViewSpec(0, "perspective", 33, 90, 90, 90),
    "nadir": ViewSpec(0, "perspective", -100, -90, 60, 60),
    "rolled": ViewSpec(0, "perspective", 150, 40, 75, 50, roll_deg=30),
    "rectangle": ViewSpec(0, "equirectangular", 175, 10, 90, 120),
    "whole": ViewSpec(0, "equirectangular", 0, 0, 360, 180),
}


def noise(height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)


def pattern(height: int, width: int) -> torch.Tensor:
    """Return a panorama with edges and gratings that a coarse view cannot resolve."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    checks = ((x // 3 + y // 5) % 2) * 120
    bars = ((x * 16 // width) % 2) * 100
    blobs = (torch.rand(height // 16, width // 16, generator=torch.Generator().manual_seed(3)) > 0.5) * 90
    blobs = blobs.repeat_interleave(16, 0).repeat_interleave(16, 1)
    return torch.stack([checks + blobs, bars + blobs, blobs * 2], dim=-1).to(torch.uint8)


def views_of(panorama: torch.Tensor, views: Sequence[ViewSpec], size: tuple[int, int], **options: Any) -> torch.Tensor:
    """Return the views in 0 .. 1."""
    return erp_to_views(panorama, views, size=size, mean=(0, 0, 0), std=(1, 1, 1), **options)


def bilinear_float64(panorama: torch.Tensor, view: ViewSpec, size: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Return float64[3, h, w] in 0 .. 1, sampled by an independent padding of the panorama."""
    height, width, _ = panorama.shape
    pixels = panorama.numpy().astype(np.float64) / 255
    above, below = (np.roll(row, -(width // 2), axis=1) for row in (pixels[:1], pixels[-1:]))
    padded = np.concatenate([above, pixels, below])
    padded = np.concatenate([padded[:, -1:], padded, padded[:, :2]], axis=1)
    lon, lat = direction_to_lonlat(view_rays(view, *size))
    x, y = (coordinate.numpy() + 0.5 for coordinate in lonlat_to_pixel(lon, lat, height, width))
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    top = np.minimum(top, height)
    fraction_x, fraction_y = (x - left)[..., None], (y - top)[..., None]
    upper = padded[top, left] * (1 - fraction_x) + padded[top, left + 1] * fraction_x
    lower = padded[top + 1, left] * (1 - fraction_x) + padded[top + 1, left + 1] * fraction_x
    result: npt.NDArray[np.float64] = (upper * (1 - fraction_y) + lower * fraction_y).transpose(2, 0, 1)
    return result


def psnr(picture: torch.Tensor, truth: torch.Tensor) -> float:
    return -10 * math.log10(float(((picture - truth) ** 2).mean()))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("panorama_size", [(64, 128), (63, 127), (2, 4), (300, 600)])
def test_without_antialiasing_it_is_a_bilinear_sample(name: str, panorama_size: tuple[int, int], impl: str) -> None:
    panorama = noise(*panorama_size)
    (picture,) = views_of(panorama, [VIEWS[name]], (31, 40), antialias=False, impl=impl)
    difference = np.abs(picture.numpy() - bilinear_float64(panorama, VIEWS[name], (31, 40)))
    assert difference.max() < LSB


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", ["ahead", "seam", "zenith", "rolled"])
@pytest.mark.parametrize(("panorama_size", "size"), [((256, 512), 48), ((256, 512), 20), ((256, 512), 36)])
def test_convention_minification_is_antialiased(
    name: str, panorama_size: tuple[int, int], size: int, impl: str
) -> None:
    panorama, samples = pattern(*panorama_size), 8
    fine = bilinear_float64(panorama, VIEWS[name], (size * samples, size * samples))
    truth = torch.from_numpy(fine).view(3, size, samples, size, samples).mean(dim=(2, 4))
    plain, smooth = (
        views_of(panorama, [VIEWS[name]], (size, size), antialias=antialias, impl=impl)[0]
        for antialias in (False, True)
    )
    assert psnr(smooth, truth) > 31
    assert psnr(smooth, truth) > psnr(plain, truth) + 7


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize(("size", "tolerance"), [((16, 32), 0.51), ((8, 16), 1.01), ((15, 15), 24)])
def test_antialiased_whole_sphere_is_an_area_mean(size: tuple[int, int], tolerance: float, impl: str) -> None:
    """Whole ratios are exact but for the rounding of each level; others stay close."""
    panorama = noise(64, 128)
    (picture,) = views_of(panorama, [VIEWS["whole"]], size, impl=impl)
    fine = panorama.double().repeat_interleave(size[0], 0).repeat_interleave(size[1], 1)
    expected = fine.view(size[0], 64, size[1], 128, 3).mean(dim=(1, 3)).permute(2, 0, 1)
    assert (picture * 255 - expected).abs().max() < tolerance


def test_antialiased_rectangles_continue_over_the_pole() -> None:
    panorama = torch.zeros(32, 64, 3, dtype=torch.uint8)
    panorama[0, 32:] = 255
    # Reaches one row over the zenith on every side; the white half must come in over the dark one.
    top = ViewSpec(0, "equirectangular", -90, 80, 180, 20)
    left_half = views_of(panorama, [top], (2, 4))[0, 0, 0]
    assert float(left_half[1]) > 0.02


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("name", ["ahead", "rolled", "nadir", "rectangle"])
def test_turning_the_panorama_turns_the_view(name: str, antialias: bool, impl: str) -> None:
    panorama, view = noise(64, 128), VIEWS[name]
    turned = ViewSpec(
        0,
        view.projection,
        (view.yaw_deg + 45 + 180) % 360 - 180,
        view.pitch_deg,
        view.hfov_deg,
        view.vfov_deg,
        roll_deg=view.roll_deg,
    )
    here = views_of(panorama, [turned], (16, 16), antialias=antialias, impl=impl)
    there = views_of(panorama.roll(-16, dims=1), [view], (16, 16), antialias=antialias, impl=impl)
    torch.testing.assert_close(here, there, rtol=0, atol=2e-4)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("antialias", [True, False])
def test_one_colour_stays_that_colour(antialias: bool, impl: str) -> None:
    panorama = torch.tensor([10, 128, 250], dtype=torch.uint8).expand(65, 131, 3)
    pictures = views_of(panorama, list(VIEWS.values()), (17, 23), antialias=antialias, impl=impl)
    expected = (torch.tensor([10, 128, 250]) / 255).view(1, 3, 1, 1).expand_as(pictures)
    torch.testing.assert_close(pictures, expected, rtol=0, atol=1e-6)


def test_convention_letterbox_bars_are_black_before_normalisation() -> None:
    panorama = torch.full((16, 32, 3), 255, dtype=torch.uint8)
    boxed = ViewSpec(0, "equirectangular", 0, 0, 360, 180, is_global=True, letterbox=True)
    for antialias in (True, False):
        (picture,) = erp_to_views(
            panorama, [boxed], size=(8, 8), mean=(0.5, 0.4, 0), std=(0.5, 0.2, 1), antialias=antialias
        )
        assert picture[:, 4, 4].tolist() == pytest.approx([1, 3, 1])
        assert picture[:, 0, 0].tolist() == pytest.approx([-1, -2, 0])
        assert picture[:, 1].tolist() == picture[:, 7].tolist() != picture[:, 2].tolist()


def test_convention_sizes_are_height_then_width() -> None:
    panoramas = torch.stack([noise(32, 64, seed) for seed in (1, 2)])
    views = [VIEWS["whole"], VIEWS["seam"], *yaw_ring(90, 0.5), VIEWS["rectangle"]]
    together = views_of(panoramas, views, (12, 20))
    assert together.shape == (2, 11, 3, 12, 20)
    for number, panorama in enumerate(panoramas):
        for position, view in enumerate(views):
            torch.testing.assert_close(together[number, position], views_of(panorama, [view], (12, 20))[0])


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_the_rounded_float32(dtype: torch.dtype, impl: str) -> None:
    panorama, views = noise(40, 80), [*yaw_ring(90, 0.5), *VIEWS.values()]
    pictures = views_of(panorama, views, (9, 11), dtype=dtype, impl=impl)
    assert pictures.dtype == dtype
    # An addition in another order may round to the other neighbour.
    expected = views_of(panorama, views, (9, 11), impl=impl)
    torch.testing.assert_close(pictures.float(), expected.to(dtype).float(), rtol=2**-8, atol=1e-6)
    assert (pictures == expected.to(dtype)).float().mean() > 0.999


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_strides_and_order_of_the_input(impl: str) -> None:
    panorama, views = noise(32, 64), list(VIEWS.values())
    expected = views_of(panorama, views, (9, 9), impl=impl)
    planar = panorama.permute(2, 0, 1).contiguous()
    for same in (planar, planar.permute(1, 2, 0), noise(32, 128)[:, ::2].copy_(panorama)):
        torch.testing.assert_close(views_of(same, views, (9, 9), impl=impl), expected)
    batch = torch.stack([planar, planar.flip(-1)])
    torch.testing.assert_close(views_of(batch, views, (9, 9), impl=impl)[0], expected)


def test_a_floating_panorama_is_the_same_picture() -> None:
    panorama, views = noise(300, 600), list(VIEWS.values())
    expected = views_of(panorama, views, (12, 12), impl="reference")
    # The levels of a floating one are not rounded.
    for kind in (torch.float32, torch.float64):
        torch.testing.assert_close(views_of(panorama.to(kind), views, (12, 12)), expected, rtol=0, atol=LSB)
    with pytest.raises(KernelUnavailable, match="take uint8"):
        views_of(panorama.float(), views, (12, 12), impl="cpp")


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("panorama_size", [(6, 12), (9, 15), (2, 3)])
def test_gradient_of_a_floating_panorama(panorama_size: tuple[int, int], antialias: bool) -> None:
    panorama = (noise(*panorama_size).double() + 1).requires_grad_()
    letterboxed = ViewSpec(0, "equirectangular", 0, 0, 360, 180, is_global=True, letterbox=True)
    views = [VIEWS["seam"], VIEWS["zenith"], VIEWS["nadir"], letterboxed]

    def pictures(panorama: torch.Tensor) -> torch.Tensor:
        return erp_to_views(
            panorama, views, size=(3, 2), mean=(0, 0.5, 1), std=(1, 2, 0.01), dtype=torch.float64, antialias=antialias
        )

    assert torch.autograd.gradcheck(pictures, panorama)
    # Minified, so that several levels take part.
    large = torch.rand(2, 3, 40, 80, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda panoramas: pictures(panoramas).sum(dim=(2, 3)), large, fast_mode=True)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_the_operation_is_a_good_torch_citizen(impl: str) -> None:
    numbers = [number for view in VIEWS.values() for number in module._numbers(view)]
    options = (numbers, [5, 7], [0.5] * 3, [0.25] * 3, torch.float32, True, impl)
    torch.library.opcheck(torch.ops.cora.erp_to_views.default, (noise(32, 64)[None], *options))
    if impl == "reference":
        floating = noise(32, 64)[None].float().requires_grad_()
        torch.library.opcheck(torch.ops.cora.erp_to_views.default, (floating, *options))


def test_it_compiles_without_a_break() -> None:
    views = tuple(yaw_ring(90, 0.5))

    def brightness(panorama: torch.Tensor) -> torch.Tensor:
        return views_of(panorama, views, (8, 8)).mean(dim=(-1, -2)) * 2

    panorama = noise(32, 64)
    compiled = torch.compile(brightness, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(panorama), brightness(panorama))


def test_autocast_changes_nothing() -> None:
    panorama, views = noise(64, 128), list(VIEWS.values())
    expected = views_of(panorama, views, (9, 9))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(views_of(panorama, views, (9, 9)), expected)


@pytest.mark.parametrize("size", [(8, 16), (7, 13), (5, 4), (2, 3)])
def test_a_half_is_the_rounded_area_mean(size: tuple[int, int]) -> None:
    panoramas = torch.stack([noise(*size), noise(*size, seed=1)])
    halves = reference.halve(panoramas)
    height, width = (side // 2 for side in size)
    assert halves.shape == (2, height, width, 3)
    # Repeating each pixel makes every output a whole number of small ones.
    small = panoramas.double().repeat_interleave(height, 1).repeat_interleave(width, 2)
    expected = small.view(2, height, size[0], width, size[1], 3).mean(dim=(2, 4))
    assert halves.dtype == torch.uint8
    assert (halves.double() - expected).abs().max() <= 0.5 + 1e-4
    torch.testing.assert_close(reference.halve(panoramas.double()), expected)


@needs_extension
@pytest.mark.parametrize("size", [(2, 2), (4, 8), (6, 10), (2, 18), (10, 34), (32, 64), (64, 254)])
def test_the_compiled_half_is_the_same(size: tuple[int, int]) -> None:
    panoramas, rows = torch.stack([noise(*size), noise(*size, seed=1)]), size[0] // 2
    expected = reference.halve(panoramas)
    assert torch.equal(torch.ops.cora.halve(panoramas, 0, rows), expected)
    first, last = rows // 3, max(rows // 3, rows - 1)
    part = torch.ops.cora.halve(panoramas, first, last)
    assert torch.equal(part[:, first:last], expected[:, first:last])
    torch.library.opcheck(torch.ops.cora.halve.default, (panoramas, 0, rows), test_utils="test_schema")
    torch.library.opcheck(torch.ops.cora.halve.default, (panoramas, 0, rows), test_utils="test_faketensor")


@needs_extension
def test_the_compiled_half_checks_its_input() -> None:
    good = noise(4, 4)[None]
    for bad in (noise(3, 4)[None], noise(4, 3)[None], good.float(), good[:, :, ::2], good[0]):
        with pytest.raises(RuntimeError, match="halve: the panoramas"):
            torch.ops.cora.halve(bad, 0, 2)
    for rows in ((-1, 2), (0, 3), (2, 1)):
        with pytest.raises(RuntimeError, match="halve: rows"):
            torch.ops.cora.halve(good, *rows)


@pytest.mark.parametrize(
    ("panorama", "views", "options", "words"),
    [
        (torch.zeros(4, 8, 3).half(), [VIEWS["ahead"]], {}, r"uint8.*float16 \[4, 8, 3\]"),
        (torch.zeros(4, 4, 8, dtype=torch.uint8), [VIEWS["ahead"]], {}, r"\[4, 4, 8\]"),
        (noise(4, 8), [VIEWS["ahead"]], {"dtype": torch.int32}, "floating, got dtype torch.int32"),
        (torch.zeros(1, 8, 3, dtype=torch.uint8), [VIEWS["ahead"]], {}, "2 x 2"),
        (noise(4, 8), [], {}, "at least one view"),
        (noise(4, 8), [ViewSpec(0, "perspective", 0, 0, 190, 90)], {}, "hfov_deg"),
        (noise(4, 8), [VIEWS["ahead"]], {"size": (0, 4)}, "size"),
        (noise(4, 8), [VIEWS["ahead"]], {"std": (1, 1, 0)}, "std"),
        (noise(4, 8), [VIEWS["ahead"]], {"mean": (1, 1)}, "mean"),
    ],
)
def test_wrong_input_is_refused(
    panorama: torch.Tensor, views: list[ViewSpec], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(GeometryError, match=words):
        erp_to_views(panorama, views, **{"size": (4, 4), "mean": (0, 0, 0), "std": (1, 1, 1), **options})


def test_unknown_and_missing_implementations_are_refused() -> None:
    with pytest.raises(KernelUnavailable, match="no implementation 'fast'"):
        views_of(noise(4, 8), [VIEWS["ahead"]], (4, 4), impl="fast")
    with pytest.raises(
        KernelUnavailable, match=r"'cuda' cannot take these inputs on cpu.*available: .*reference.*pip install"
    ):
        views_of(noise(4, 8), [VIEWS["ahead"]], (4, 4), impl="cuda")


def test_environment_variable_decides_what_auto_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(dispatch.IMPL_VARIABLE, "cuda")
    with pytest.raises(KernelUnavailable, match="'cuda'"):
        views_of(noise(4, 8), [VIEWS["ahead"]], (4, 4))
    views_of(noise(4, 8), [VIEWS["ahead"]], (4, 4), impl="reference")
    monkeypatch.setenv(dispatch.IMPL_VARIABLE, "quick")
    with pytest.raises(KernelUnavailable, match="'quick'"):
        views_of(noise(4, 8), [VIEWS["ahead"]], (4, 4))


def test_auto_logs_its_choice_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(dispatch.IMPL_VARIABLE, raising=False)
    dispatch._log_choice.cache_clear()
    with caplog.at_level(logging.INFO, logger="cora.ops.dispatch"):
        for _ in range(3):
            views_of(noise(4, 8), [VIEWS["ahead"]], (4, 4))
    (record,) = caplog.records
    assert f"'{available_implementations()[0]}'" in record.getMessage()


@needs_extension
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize(
    ("panorama_size", "size"), [((256, 512), (48, 48)), ((63, 127), (1, 1)), ((2, 2), (5, 7)), ((500, 1001), (65, 33))]
)
def test_compiled_implementation_gives_the_reference_values(
    panorama_size: tuple[int, int], size: tuple[int, int], antialias: bool
) -> None:
    panorama = noise(*panorama_size)
    reference, compiled = (
        views_of(panorama, list(VIEWS.values()), size, antialias=antialias, impl=impl) for impl in ("reference", "cpp")
    )
    torch.testing.assert_close(compiled, reference, rtol=0, atol=SAME_VALUE)


@needs_extension
@pytest.mark.parametrize("antialias", [True, False])
def test_compiled_operation_writes_all_of_a_strided_result(antialias: bool) -> None:
    panoramas, scale, offset = torch.stack([noise(32, 64), noise(32, 64, 1)]), [0.1, 0.2, 0.3], [0.0, -1.0, 2.0]
    plan, shift = gather_plan(VIEWS["seam"], 6, 5, panorama_height=32, panorama_width=64, antialias=antialias)
    arguments = (panoramas, plan.taps, plan.weights, [shift, 0, 63], scale, offset)
    torch.library.opcheck(torch.ops.cora.sample_views.default, (*arguments, torch.zeros(2, 3, 3, 6, 5)))
    expected = torch.empty(2, 3, 3, 6, 5)
    reference.sample_views(panoramas, plan, [shift, 0, 63], scale, offset, expected)
    whole = torch.full((2, 3, 3, 10, 5), math.nan)
    torch.ops.cora.sample_views(*arguments, whole[:, :, :, 2:8])
    torch.testing.assert_close(whole[:, :, :, 2:8], expected, rtol=0, atol=255 * SAME_VALUE)
    assert whole[:, :, :, :2].isnan().all()
    assert whole[:, :, :, 8:].isnan().all()
    torch.ops.cora.sample_views(*arguments[:3], [], scale, offset, torch.empty(2, 0, 3, 6, 5))


@needs_extension
def test_compiled_operation_checks_its_input() -> None:
    panorama, taps, weights = noise(8, 16)[None], torch.zeros(16, dtype=torch.int32), torch.zeros(16, 4).short()
    ones, out = [1.0] * 3, torch.zeros(1, 1, 3, 4, 4)
    torch.ops.cora.sample_views(panorama, taps, weights, [0], ones, ones, out)
    for bad in (
        (panorama.float(), taps, weights, [0], ones, ones, out),
        (panorama[0], taps, weights, [0], ones, ones, out),
        (panorama[:, :, ::2], taps, weights, [0], ones, ones, out),
        (panorama, taps.long(), weights, [0], ones, ones, out),
        (panorama, taps[:15], weights[:15], [0], ones, ones, out),
        (panorama, taps, weights[:8], [0], ones, ones, out),
        (panorama, taps, weights.int(), [0], ones, ones, out),
        (panorama, taps.repeat(257), weights.repeat(257, 1), [0], ones, ones, out),
        (panorama, taps, weights, [16], ones, ones, out),
        (panorama, taps, weights, [-1], ones, ones, out),
        (panorama, taps, weights, [0, 1], ones, ones, out),
        (panorama, taps, weights, [0], ones[:2], ones, out),
        (panorama, taps, weights, [0], ones, ones, out.double()),
        (panorama, taps, weights, [0], ones, ones, torch.zeros(1, 1, 3, 4, 8)[..., ::2]),
        (panorama, taps, weights, [0], ones, ones, torch.zeros(1, 1, 3, 4, 8)[..., :4]),
    ):
        with pytest.raises(RuntimeError, match="sample_views"):
            torch.ops.cora.sample_views(*bad)


@needs_extension
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (16, 16), (67, 45)])
@pytest.mark.parametrize("panorama_size", [(16, 32), (17, 33), (64, 128), (90, 180)])
def test_every_column_of_a_turning_camera(panorama_size: tuple[int, int], size: tuple[int, int]) -> None:
    """Turned by every column, so that the seam passes through every place of a view."""
    panorama = noise(*panorama_size)
    view = ViewSpec(0, "perspective", 0, 15, 80, 70, roll_deg=5)
    sizes = {"panorama_height": panorama_size[0], "panorama_width": panorama_size[1]}
    for antialias in (True, False):
        plan, _ = gather_plan(view, *size, **sizes, antialias=antialias)
        level = panorama[None]
        for _ in range(plan.level):
            level = reference.halve(level)
        shifts = list(range(level.shape[2]))
        pictures = torch.full((2, 1, len(shifts), 3, *size), math.nan)
        torch.ops.cora.sample_views(level, plan.taps, plan.weights, shifts, [1 / 255] * 3, [0.0] * 3, pictures[0])
        reference.sample_views(level, plan, shifts, [1 / 255] * 3, [0.0] * 3, pictures[1])
        torch.testing.assert_close(pictures[0], pictures[1], rtol=0, atol=SAME_VALUE)


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("size", [(6, 6), (1, 1), (24, 1), (1, 40), (50, 50)])
def test_only_the_rows_of_the_plan_are_read(name: str, size: tuple[int, int]) -> None:
    for antialias in (True, False):
        plan, shift = gather_plan(VIEWS[name], *size, panorama_height=64, panorama_width=128, antialias=antialias)
        level = noise(64 >> plan.level, 128 >> plan.level)[None]
        first, last = plan.rows
        assert 0 <= first < last <= level.shape[1]
        changed = level.clone()
        changed[:, :first] ^= 255
        changed[:, last:] ^= 255
        pictures = torch.empty(2, 1, 1, 3, *size)
        for number, panorama in enumerate((level, changed)):
            reference.sample_views(panorama, plan, [shift], [1.0] * 3, [0.0] * 3, pictures[number])
        assert torch.equal(pictures[0], pictures[1])


@needs_extension
@pytest.mark.parametrize("panorama_size", [(180, 360), (90, 180), (102, 200), (256, 512)])
@pytest.mark.parametrize("pitch_deg", [-80, -30, 2, 45, 88])
def test_rows_that_are_left_out_of_a_half_are_not_read(
    panorama_size: tuple[int, int], pitch_deg: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel halves only the rows that are needed, also where a level below has an odd number of them."""

    def halve(panoramas: Tensor, first_row: int, last_row: int) -> Tensor:
        half = reference.halve(panoramas)
        half[:, :first_row] = 255
        half[:, last_row:] = 255
        return half

    view = ViewSpec(0, "perspective", 0, pitch_deg, 20, 20)
    options = {"size": (1, 1), "mean": (0.0,) * 3, "std": (1.0,) * 3}
    panorama = noise(*panorama_size)
    expected = erp_to_views(panorama, [view], impl="reference", **options)  # type: ignore[arg-type]
    monkeypatch.setattr(view_rendering, "_kernels", lambda face: (halve, torch.ops.cora.sample_views))
    picture = erp_to_views(panorama, [view], impl="cpp", **options)  # type: ignore[arg-type]
    torch.testing.assert_close(picture, expected, rtol=0, atol=SAME_VALUE)


def test_weights_of_a_plan_are_whole_and_sum_to_one() -> None:
    for antialias in (True, False):
        plan, _ = gather_plan(VIEWS["rolled"], 33, 31, panorama_height=77, panorama_width=154, antialias=antialias)
        assert int(plan.weights.min()) >= 0
        assert plan.weights.sum(dim=-1).unique().tolist() == [ONE]
    right = torch.rand(100_000, dtype=torch.float64)
    edge = torch.tensor([0.0, 1 - 1e-12, 0.5, 1 / (2 * ONE), 1 - 1 / (2 * ONE)], dtype=torch.float64)
    right = torch.cat([right, edge.repeat_interleave(5)])
    weights = _weights(right, right.flip(0).roll(3))
    assert int(weights.min()) >= 0
    assert weights.sum(dim=-1).unique().tolist() == [ONE]


def test_a_long_thin_view_takes_a_bounded_number_of_samples() -> None:
    for size in ((512, 1), (1, 512), (1, 1)):
        for view in VIEWS.values():
            plan, _ = gather_plan(view, *size, panorama_height=2048, panorama_width=4096, antialias=True)
            assert plan.samples <= 256


def test_a_panorama_that_cannot_be_addressed_is_refused() -> None:
    with pytest.raises(GeometryError, match="at most 65535 x 32765 pixels, got 65536 x 2"):
        views_of(torch.zeros(2, 65536, 3, dtype=torch.uint8), [VIEWS["ahead"]], (4, 4))
