"""Time from the bytes of a JPEG panorama to the normalised views of a model, and what part of it decoding is.

Ours is the image processor as training, evaluation and serving use it, with the eight views of strategy ``e2p``. The
peers decode in full, with Pillow or simplejpeg, and cut the same views. One thread is what a worker process has.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cora.bench.crop import WIDTHS, psnr
from cora.bench.peers import make_peers
from cora.bench.scene import make_source, make_truth
from cora.bench.timing import environment, reuse_memory, take_turns, use_threads
from cora.processors.images import PanoramaImageProcessor

__all__ = ["COLUMNS", "run"]

COLUMNS = (
    "source_width",
    "size",
    "antialias",
    "threads",
    "ms",
    "p25_ms",
    "p75_ms",
    "decode_ms",
    "decode_share",
    "images_per_s",
    "vs_research",
    "vs_cv2",
    "psnr_db",
    "research_psnr_db",
    "jpeg_bytes",
    "faults",
    "rounds",
    "reuses_memory",
    "device",
    "cores",
    "torch",
)

QUALITY = 90


def run(
    widths: Sequence[int] = WIDTHS,
    sizes: Sequence[int] = (256,),
    *,
    threads: int = 1,
    rounds: int = 11,
    scene_width: int | None = None,
) -> list[dict[str, Any]]:
    """Return a row with the keys of `COLUMNS`, antialiased and not, for each width and view size.

    Args:
        widths: Panorama widths in pixels; JPEG of quality 90 with chroma at half size.
        sizes: View sides in pixels.
        threads: CPU threads.
        rounds: Timed calls of each candidate.
        scene_width: Width of the scene that the sources are averaged from; the largest of `widths` by default.
    """
    reuses_memory = reuse_memory()
    scene_width = scene_width or max(widths)
    rows = []
    for size in sizes:
        processors = [
            PanoramaImageProcessor(crop_strategy="e2p", image_size=size, antialias=each) for each in (True, False)
        ]
        truth = make_truth(scene_width, processors[0].views, size)
        for width in widths:
            content = _encode(make_source(scene_width, width))
            common = {"threads": threads, "rounds": rounds, "reuses_memory": reuses_memory, **environment()}
            for processor in processors:
                with use_threads(threads):
                    case = _run_case(content, processor, truth, rounds)
                rows.append({"source_width": width, "size": size, "antialias": processor.antialias, **case, **common})
    return [{column: row[column] for column in COLUMNS} for row in rows]


def _encode(panorama: Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(panorama.numpy()).save(buffer, "JPEG", quality=QUALITY, subsampling="4:2:0")
    return buffer.getvalue()


def _run_case(content: bytes, processor: PanoramaImageProcessor, truth: Tensor, rounds: int) -> dict[str, Any]:
    candidates: dict[str, Callable[[], Any]] = {
        "ours": lambda: processor(content)["pixel_values"][0],
        "decode": lambda: processor.load(content),
        **_whole_peers(content, processor),
    }
    timings = take_turns(candidates, rounds)
    ours, decode = timings["ours"], timings["decode"]
    return {
        "ms": round(ours.median, 2),
        "p25_ms": round(ours.p25, 2),
        "p75_ms": round(ours.p75, 2),
        "decode_ms": round(decode.median, 2),
        "decode_share": round(decode.median / ours.median, 3),
        "images_per_s": round(1e3 / ours.median, 1),
        **{
            f"vs_{name}": round(timings[name].median / ours.median, 2) if name in timings else None
            for name in ("research", "cv2")
        },
        "psnr_db": psnr(candidates["ours"](), truth),
        "research_psnr_db": psnr(candidates["research"](), truth) if "research" in candidates else None,
        "jpeg_bytes": len(content),
        "faults": ours.faults,
    }


def _whole_peers(content: bytes, processor: PanoramaImageProcessor) -> dict[str, Callable[[], Any]]:
    """Return the peers from the bytes on: Pillow and the research path, simplejpeg and OpenCV."""
    size = processor.image_size[0]
    # Maps, samplers and the pixels that are cut live in one buffer, filled anew by each decoder.
    panorama = torch.from_numpy(_decode_by_pillow(content).copy())
    cutters = make_peers(panorama, processor.views, size)
    peers: dict[str, Callable[[], Any]] = {}

    def research() -> Any:
        panorama.numpy()[:] = _decode_by_pillow(content)
        return cutters["research"]()

    def opencv() -> Any:
        import simplejpeg

        simplejpeg.decode_jpeg(content, buffer=panorama.numpy())
        return cutters["cv2"]()

    if "research" in cutters:
        peers["research"] = research
    if "cv2" in cutters and find_spec("simplejpeg") is not None:
        peers["cv2"] = opencv
    return peers


def _decode_by_pillow(content: bytes) -> Any:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))
