"""The project's commands and snippets on a test's database, in one process that stays: a start of Django
takes more than a second of processor time."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.support.servers import ROOT

LIMIT = 60.0

HELPER = """
import contextlib, io, json, os, sys, traceback
import django
django.setup()
from django.core.management import call_command
from django.db import connections
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
for line in sys.stdin:
    asked = json.loads(line)
    told, error = io.StringIO(), ""
    try:
        with contextlib.redirect_stdout(told):
            if "code" in asked:
                sys.argv = ["-c", *asked["words"]]
                exec(asked["code"], {"__name__": "__main__"})
            else:
                call_command(*asked["words"])
    except BaseException:
        error = traceback.format_exc()
    finally:
        connections.close_all()
    answers.write(json.dumps([told.getvalue(), error]) + "\\n")
    answers.flush()
"""


@dataclass
class Programs:
    """A process of the project that runs what it is sent, one thing at a time, each on new connections; what
    it printed comes back without blanks around it."""

    process: subprocess.Popen[str]
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def command(self, *words: str) -> str:
        """What `manage.py WORDS` prints to standard output. Raises `RuntimeError` where it fails."""
        return self._ask(words=words)

    def code(self, text: str, *words: str) -> str:
        """What `python -c TEXT WORDS` prints, with Django set up. Raises `RuntimeError` where it fails."""
        return self._ask(code=text, words=words)

    def _ask(self, **asked: Any) -> str:
        asks, answers = self.process.stdin, self.process.stdout
        assert asks is not None
        assert answers is not None
        with self._lock:
            # One that hangs is ended, and has then no answer.
            patience = threading.Timer(LIMIT, self.process.kill)
            patience.start()
            try:
                asks.write(json.dumps(asked) + "\n")
                asks.flush()
                line = answers.readline()
            finally:
                patience.cancel()
        if not line:
            raise RuntimeError(f"no answer to {asked}")
        told, error = json.loads(line)
        if error:
            raise RuntimeError(f"{asked}: {error}")
        return str(told).strip()


@contextmanager
def programs(env: dict[str, str]) -> Iterator[Programs]:
    """A process that runs programs of the project in the environment `env`, until the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HELPER],
        cwd=ROOT,
        env=env | {"DJANGO_SETTINGS_MODULE": "settings.settings"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Programs(process)
    finally:
        process.kill()
        process.communicate()
