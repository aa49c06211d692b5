"""Log lines as JSON objects, one a line, with the fields that the code names; never text or audio of a request."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

from cosyvoice.server.settings import Settings

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class JSONFormatter(logging.Formatter):
    """Time in UTC, level, logger, message, and the extra fields of the record."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **extra_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class PlainFormatter(logging.Formatter):
    """The same for eyes: the message, then `name=value` for each extra field."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{name}={value}" for name, value in extra_fields(record).items())
        first, *rest = super().format(record).split("\n", 1)
        return "\n".join([f"{first} {fields}".rstrip(), *rest])


def extra_fields(record: logging.LogRecord) -> dict[str, Any]:
    """What the code added to a record."""
    return {name: value for name, value in vars(record).items() if name not in _OWN}


def set_up_logging(settings: Settings) -> None:
    """Send the logs of the server to standard error. For the command only: a library leaves logging to its user."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JSONFormatter() if settings.log_json else PlainFormatter())
    for name in ("cosyvoice", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(settings.log_level.upper())
        logger.propagate = False
