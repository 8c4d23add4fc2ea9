"""Logging: one record per line, plain or JSON, with the run, worker and round of the call."""

from __future__ import annotations

import json
import logging
import re
import time
from contextvars import ContextVar
from typing import Any

from google.protobuf.message import Message

FORMATS = ("plain", "json")
LEVELS = ("debug", "info", "warning", "error")

# The request of the call that the current task handles, if any.
REQUEST: ContextVar[Message | None] = ContextVar("optima_request", default=None)

# Values that are logged as they are. Any other is quoted, so that a caller's text cannot look like a record of its own.
_PLAIN = re.compile(r"[A-Za-z0-9._:/+-]{1,80}")
# A longer field is cut: a valid name has at most 64 characters, an invalid one may have 10 MB.
_LONGEST = 80


def set_up(form: str, level: str) -> None:
    """Log to standard error from now on, in one of FORMATS and from one of LEVELS up."""
    handler = logging.StreamHandler()
    handler.addFilter(_add_request_fields)
    handler.setFormatter(_Json() if form == "json" else _Plain())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def request_fields(request: Message | None) -> dict[str, str | int]:
    """Return the run, worker and round that a request names, as far as it names them."""
    fields: dict[str, str | int] = {}
    if request is None:
        return fields
    caller: Any = getattr(request, "caller", None)
    run = caller.run if caller is not None else getattr(request, "run", "")
    worker = caller.worker if caller is not None else ""
    for name, value in (("run", run), ("worker", worker)):
        if isinstance(value, str) and value:
            fields[name] = value if len(value) <= _LONGEST else f"{value[:_LONGEST]}…"
    if "round" in request.DESCRIPTOR.fields_by_name:
        fields["round"] = getattr(request, "round")  # noqa: B009 - the type checker does not know the message's type
    return fields


def _add_request_fields(record: logging.LogRecord) -> bool:
    details = request_fields(REQUEST.get())
    details.update(getattr(record, "details", {}))
    record.details = details
    return True


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "details", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class _Plain(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        details = " ".join(f"{name}={_quoted(value)}" for name, value in getattr(record, "details", {}).items())
        return f"{super().formatMessage(record)} {details}".rstrip()


def _quoted(value: object) -> str:
    """Return a value as text, in quotes unless it is a plain word."""
    text = str(value)
    return text if _PLAIN.fullmatch(text) else repr(text)
