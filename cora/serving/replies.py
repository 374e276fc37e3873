"""Refusals in the form that clients of OpenAI's protocol expect."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from starlette.responses import JSONResponse

__all__ = ["error_document", "refusal"]


def error_document(status: int, message: str, parameter: str | None = None) -> dict[str, dict[str, object]]:
    """Return the body of an error."""
    kind = HTTPStatus(status).phrase.replace(" ", "") + "Error"
    return {"error": {"message": message, "type": kind, "param": parameter, "code": status}}


def refusal(
    status: int, message: str, *, parameter: str | None = None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Return a response that says why there is no answer."""
    return JSONResponse(error_document(status, message, parameter), status_code=status, headers=dict(headers or {}))
