"""From answers to requests: what is put before the judge, under which key, and how many answers go together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from cora.config.schema import JudgeConfig
from cora.data.table import Row
from cora.evaluation.journal import image_digest
from cora.evaluation.judge.journal import CallRecord
from cora.evaluation.judge.protocols import Protocol, Verdict
from cora.inference.credentials import Endpoint
from cora.inference.data_uri import JPEG_QUALITY, as_data_uri
from cora.inference.endpoint import Reply

__all__ = ["Call", "Item", "Judge", "group_calls"]

# Room for the form around the verdicts.
_TOKENS_PER_REPLY = 200


@dataclass(frozen=True, slots=True)
class Item:
    """One answer, or two to compare, with what the judge needs to know.

    Attributes:
        key: Under which the verdict is kept.
        row: Panorama, question and references.
        texts: The answer, or the two in the order in which they are shown.
        is_swapped: Whether the second answer is shown first.
    """

    key: str
    row: Row
    texts: tuple[str, ...]
    is_swapped: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """One request: items about one panorama."""

    items: tuple[Item, ...]

    @property
    def image(self) -> Path:
        """The panorama."""
        return self.items[0].row.image


@dataclass(frozen=True, slots=True)
class Judge:
    """A model that judges in one way.

    Attributes:
        endpoint: The model.
        protocol: What it is asked.
        config: How it is asked.
    """

    endpoint: Endpoint
    protocol: Protocol
    config: JudgeConfig

    def identity(self) -> dict[str, Any]:
        """Return everything besides the item that a verdict depends on, as plain values."""
        config = self.config
        return {
            "model": self.endpoint.model,
            "base_url": self.endpoint.base_url,
            "protocol": self.protocol.name,
            "prompt_sha256": self.protocol.digest,
            "temperature": config.temperature,
            "image_width": config.image_width if config.send_image else None,
            "jpeg_quality": JPEG_QUALITY if config.send_image else None,
            "group_size": config.group_size,
            "tokens_per_answer": config.tokens_per_answer,
        }

    @property
    def digest(self) -> str:
        """SHA-256 over `identity`."""
        return _digest(self.identity())

    def item(self, row: Row, *texts: str, is_swapped: bool = False) -> Item:
        """Return an item under its key."""
        image = _image_digest(row.image) if self.config.send_image else None
        parts = {**self.identity(), "image": image, "query": row.query, "references": row.references, "texts": texts}
        return Item(_digest(parts), row, texts, is_swapped)

    def request(self, call: Call) -> dict[str, Any]:
        """Return the body of a request without the model.

        Raises:
            ImageError: The panorama cannot be sent; an answer is never judged without it unless that was asked for.
        """
        samples = [
            {
                "id": index,
                "question": item.row.query,
                "references": item.row.references,
                **dict(zip(self.protocol.texts, item.texts, strict=True)),
            }
            for index, item in enumerate(call.items)
        ]
        content: list[dict[str, Any]] = [
            {"type": "text", "text": json.dumps({"samples": samples}, ensure_ascii=False, indent=1)}
        ]
        if self.config.send_image:
            uri = as_data_uri(call.image, self.config.image_width)
            content.insert(0, {"type": "image_url", "image_url": {"url": uri}})
        body: dict[str, Any] = {
            "messages": [
                {"role": "system", "content": self.protocol.instructions},
                {"role": "user", "content": content},
            ],
            "response_format": self.protocol.response_format(),
            self.endpoint.limit_name: _TOKENS_PER_REPLY + self.config.tokens_per_answer * len(call.items),
        }
        return body if self.config.temperature is None else {**body, "temperature": self.config.temperature}

    def record(self, keys: Sequence[str], reply: Reply, *, from_batch: bool = False) -> CallRecord:
        """Return what a reply says about the items under `keys`, in the order in which they were shown."""
        verdicts: dict[str, Verdict] = {}
        failures: dict[str, tuple[str, str]] = {}
        if reply.text is None:
            failures = dict.fromkeys(keys, (reply.failure or "garbage", reply.error or ""))
        elif reply.finish_reason == "length":
            failures = dict.fromkeys(keys, ("cut_off", "the reply reached judge.tokens_per_answer"))
        else:
            for key, found in zip(keys, self.protocol.read(reply.text, len(keys)), strict=True):
                if isinstance(found, str):
                    failures[key] = ("garbage", found)
                else:
                    verdicts[key] = found
        return CallRecord(
            self.digest,
            verdicts,
            failures,
            model=reply.model,
            input_tokens=reply.input_tokens,
            output_tokens=reply.output_tokens,
            num_retries=reply.num_retries,
            from_batch=from_batch,
        )


def group_calls(items: Iterable[Item], group_size: int) -> Iterator[Call]:
    """Yield calls of at most `group_size` items about one panorama, never with the same pair in both orders."""
    groups: dict[tuple[Path, bool], list[Item]] = {}
    for item in items:
        groups.setdefault((item.row.image, item.is_swapped), []).append(item)
    for group in groups.values():
        for start in range(0, len(group), group_size):
            yield Call(tuple(group[start : start + group_size]))


@cache
def _image_digest(path: Path) -> str:
    return image_digest(path)


def _digest(parts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
