"""A filter for Python's logging."""

from __future__ import annotations

import logging
import re
from typing import Any, Final

_TOKEN: Final = re.compile(r"(/signin/)[^/\s?]+")


class WithoutTokens(logging.Filter):
    """Cuts the tokens of sign-in links out of paths: a link that was refused for its method, or failed for
    the database, is logged with its path and still works."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record shall be logged."""
        if isinstance(record.args, tuple):
            record.args = tuple(_without_token(value) for value in record.args)
        return True


def _without_token(value: Any) -> Any:
    return _TOKEN.sub(r"\1…", value) if isinstance(value, str) else value
