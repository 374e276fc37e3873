"""Asks a generator every question that the journal does not answer, one panorama after the other."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cora.data.table import Row
from cora.evaluation.journal import Journal, JournalEntry, answer_key, image_digest
from cora.evaluation.progress import Progress
from cora.evaluation.protocols.asking import asked_text
from cora.inference.protocol import GenerationRequest, GenerationResult, GenerationSettings, Generator
from cora.inference.streams import stream_answers

__all__ = ["Answers", "Asking"]

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Answers:
    """The answers to a list of questions.

    Attributes:
        texts: An answer per question; None where there is none.
        errors: Why there is none, by position of the question.
        num_reused: Answers that were in the journal before.
    """

    texts: list[str | None]
    errors: dict[int, str] = field(default_factory=dict)
    num_reused: int = 0


class Asking:
    """Takes the questions of a run through journal and generator; used once.

    Args:
        generator: Gives the answers.
        settings: Generation settings.
        journal: Answers before, and every new one before the next is waited for.
        questions: One row per distinct (image, query).
    """

    def __init__(
        self, generator: Generator, settings: GenerationSettings, journal: Journal, questions: Sequence[Row]
    ) -> None:
        self._generator = generator
        self._settings = settings
        self._journal = journal
        self._questions = questions
        self._answers = Answers([None] * len(questions))
        # What is being asked: position in the stream -> key, and key -> the questions it answers.
        self._keys: dict[int, str] = {}
        self._waiting: dict[str, list[int]] = {}

    def run(self, progress: Progress, *, chunk_size: int) -> Answers:
        """Return the answers; whatever stops this, those that were given are in the journal.

        Args:
            progress: Moved on by every answer.
            chunk_size: Questions that are given together to a generator that has no `stream`.
        """
        requests = self._requests(progress)
        for finished in stream_answers(self._generator, requests, self._settings, chunk_size=chunk_size):
            entries, num_answered = [], 0
            for position, result in finished:
                key = self._keys.pop(position)
                indices = self._waiting.pop(key)
                num_answered += len(indices)
                entries.append(self._entry(key, indices[0], result))
                for index in indices:
                    self._note(index, result)
            self._journal.append(entries)
            progress.advance(num_answered)
        return self._answers

    def _requests(self, progress: Progress) -> Iterator[GenerationRequest]:
        """Yield what has to be asked, the questions about one panorama together; notes what is known already."""
        by_image: dict[Path, list[int]] = {}
        for index, row in enumerate(self._questions):
            by_image.setdefault(row.image, []).append(index)
        position = 0
        for image, indices in by_image.items():
            # Read only now, so that a run starts at once and the picture is still in the system's memory when opened.
            digest = image_digest(image)
            for index in indices:
                query = asked_text(self._questions[index])
                key = answer_key(self._generator, self._settings, image=digest, query=query)
                if (known := self._journal.find(key)) is not None:
                    self._answers.texts[index] = known.prediction
                    self._answers.num_reused += 1
                    progress.advance(1, reused=True)
                elif key in self._waiting:
                    self._waiting[key].append(index)
                else:
                    self._keys[position], self._waiting[key] = key, [index]
                    yield GenerationRequest(image, query)
                    position += 1

    def _entry(self, key: str, index: int, result: GenerationResult) -> JournalEntry:
        row = self._questions[index]
        return JournalEntry.of(key, sample_id=row.sample_id, image=str(row.image), query=asked_text(row), result=result)

    def _note(self, index: int, result: GenerationResult) -> None:
        self._answers.texts[index] = result.text
        if result.text is None:
            row = self._questions[index]
            self._answers.errors[index] = result.error or ""
            logger.warning("row %s (line %d, %s): %s", row.sample_id, row.line, row.image, result.error)
