"""The log: plain lines or JSON, one record a line, each with the run, worker and round of the call it is about."""

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

# The request that this task answers, if it answers one.
REQUEST: ContextVar[Message | None] = ContextVar("optima_request", default=None)

# What is shown as it is; anything else is a stranger's text and is quoted, so that it cannot look like a line of ours.
_PLAIN = re.compile(r"[A-Za-z0-9._:/+-]{1,80}")
# A field that is longer is cut: names have 64 characters, and what is none may have 10 MB.
_LONGEST = 80


def set_up(form: str, level: str) -> None:
    """Log to standard error from now on."""
    handler = logging.StreamHandler()
    handler.addFilter(_add_call)
    handler.setFormatter(_Json() if form == "json" else _Plain())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def called(request: Message | None) -> dict[str, str | int]:
    """The run, worker and round that a request is about, as far as it names them."""
    found: dict[str, str | int] = {}
    if request is None:
        return found
    fields = request.DESCRIPTOR.fields_by_name
    caller: Any = getattr(request, "caller", None)
    run = caller.run if caller is not None else getattr(request, "run", "")
    worker = caller.worker if caller is not None else ""
    for name, value in (("run", run), ("worker", worker)):
        if isinstance(value, str) and value:
            found[name] = value if len(value) <= _LONGEST else f"{value[:_LONGEST]}…"
    if "round" in fields:
        found["round"] = getattr(request, "round")  # noqa: B009 - which message it is, is not known
    return found


def _add_call(record: logging.LogRecord) -> bool:
    details = called(REQUEST.get())
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
        details = " ".join(f"{name}={_shown(value)}" for name, value in getattr(record, "details", {}).items())
        return f"{super().formatMessage(record)} {details}".rstrip()


def _shown(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else repr(text)
