"""The laws of the core and the runtime, each with a small change that breaks it, and its tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

CORE: Final = "streaming/core/"
RUNTIME: Final = "streaming/runtime/"


@dataclass(frozen=True, slots=True)
class Mutant:
    """A law, and how it is broken: `old`, once in `file`, becomes `new`. `tests`: files for pytest."""

    law: str
    file: str
    old: str
    new: str
    tests: str


def _core(law: str, module: str, old: str, new: str) -> Mutant:
    return Mutant(law, f"{CORE}{module}.py", old, new, f"tests/unit/core/test_{module}.py")


def _runtime(law: str, module: str, old: str, new: str, tests: str = "") -> Mutant:
    path = f"{RUNTIME}{module}.py"
    return Mutant(law, path, old, new, f"tests/unit/runtime/test_{tests or module}.py")


LAWS: Final = (
    # Framing: what was sent is what is read, at any cut
    _core("data is split at each line end of the standard", "sse", "translate(_ONE_LINE)", "translate({})"),
    _core(
        "a CRLF is one line end, also when it is cut",
        "sse",
        'data.startswith(b"\\n"):  # the',
        "False:  # the",
    ),
    _core("one blank after the colon is not of the value", "sse", 'removeprefix(b" ")', "lstrip()"),
    _core("an id with NUL is none", "sse", 'if b"\\0" not in value:', "if True:"),
    _core("an event without data is none", "sse", "        if self._data:\n", "        if True:\n"),
    _core(
        "what a connection left unfinished is discarded",
        "sse",
        "self._tail.clear()\n        self._first",
        "self._first",
    ),
    _core("an id stays until another comes", "sse", "self.last_event_id = self._id\n", "pass\n"),
    _core("a decoder keeps no more than its bound", "sse", "if self._size > self.max_event:", "if False:"),
    _core("an event's name is of the white list", "sse", "if _NAME.fullmatch(name) is None:", "if False:"),
    _core("lines have a bound", "ndjson", "if len(line) > self.max_line:", "if False:"),
    _core("an event is one line", "ndjson", 'if b"\\n" in data or b"\\r" in data:', "if False:"),
    _core("after a bad line nothing is trusted", "ndjson", "self._failed = True", "self._failed = False"),
    Mutant(
        "a line that is cut is put together",
        f"{CORE}lines.py",
        "lines[0] = bytes(tail) + lines[0]",
        "lines[0] = lines[0]",
        "tests/unit/core/test_ndjson.py tests/unit/core/test_sse.py",
    ),
    _core(
        "each message of a shared socket names its stream",
        "framing",
        "if len(self._end) == 2 else",
        "if True else",
    ),
    # Strangers' input
    _core("a cursor is a plain number", "cursor", "_DIGITS.fullmatch(value) is None or ", ""),
    _core("a cursor fits every store", "cursor", "int(value) > MAX", "False"),
    _core("the header beats the parameter", "cursor", "parse(header or query)", "parse(query or header)"),
    _core("a key may not occur twice", "strict_json", "if len(value) != len(pairs):", "if False:"),
    _core("nesting has a bound", "strict_json", "    if attack in brackets or max(", "    if False and max("),
    _core(
        "values have a bound",
        "strict_json",
        "    if sum(map(",
        "    if False and sum(map(",
    ),
    _core(
        "numbers are finite",
        "strict_json",
        "    if not math.isfinite(value):\n        raise _NumberRefused",
        "    if False:\n        raise _NumberRefused",
    ),
    _core("JSON is UTF-8", "strict_json", 'if b"\\0" in body[:2]:', "if False:"),
    _core("the body is an object", "strict_json", "if not isinstance(value, dict):", "if False:"),
    # Compaction
    _core("merged text keeps its order and its channel", "compaction", " or frame[end:] != tail", ""),
    _core("merged events have a bound", "compaction", "size + end - start > MAX_TEXT or ", ""),
    _core(
        "a merged event has the last id",
        "compaction",
        "last, start, end = run[-1]",
        "last, start, end = run[0]",
    ),
    _core(
        "text before a restart is void", "compaction", "        if index < void:\n", "        if index < 0:\n"
    ),
    # Coalescing
    _core(
        "the first text leaves at once",
        "coalescer",
        "        self._started = False\n",
        "        self._started = True\n",
    ),
    _core("no text waits longer than its interval", "coalescer", "            or now >= self._due\n", ""),
    _core(
        "enough text leaves",
        "coalescer",
        "            self._buffered >= self._flush_chars\n            or size",
        "            size",
    ),
    _core("channels are not mixed", "coalescer", " or channel != self._channel:", ":"),
    _core(
        "events have a bound",
        "coalescer",
        "if len(text) <= MAX_CHUNK_CHARS:\n            return [(text",
        "if True:\n            return [(text",
    ),
    _core(
        "the interval has an upper bound",
        "coalescer",
        "min(self._interval * _WIDEN, self._maximum)",
        "self._interval * _WIDEN",
    ),
    _core(
        "the interval narrows again",
        "coalescer",
        "max(self._interval * _NARROW, self._base)",
        "self._interval",
    ),
    # States and messages about them
    _core(
        "nothing follows an end",
        "states",
        "State.COMPLETE: frozenset(),",
        "State.COMPLETE: frozenset({State.ERROR}),",
    ),
    _core("the table of states is kept", "states", "if target not in TRANSITIONS[current]:", "if False:"),
    _core(
        "positions are told once a second at most",
        "throttle",
        "self._sent_at + POSITION_INTERVAL",
        "self._sent_at",
    ),
    _core(
        "while text flows there is no status",
        "throttle",
        "max(self._sent_at, self._content_at)",
        "self._sent_at",
    ),
    _core(
        "news are told at once",
        "throttle",
        "if self._state == (state, route):",
        "if self._state is not None:",
    ),
    # Routing
    _core("no more run than there are workers", "routing", "load.running < load.max_workers and not", "not"),
    _core("nobody passes those who wait", "routing", " and not load.eligible and", " and"),
    _core(
        "no more wait than there are places",
        "routing",
        "if load.waiting >= load.queue_size:",
        "if load.waiting > load.queue_size:",
    ),
    _core("an owner has a limit", "routing", "if load.owner_active >= load.per_owner:", "if False:"),
    _core("who goes down takes nothing", "routing", "if load.draining else None", "if False else None"),
    # Who is next
    _core("owners take turns", "priority", "max(self._virtual_time.get(priority, 0), tag)", "0"),
    _core(
        "who was away is not served",
        "priority",
        "return not self.away and not self.held",
        "return not self.held",
    ),
    _core(
        "who left before its turn is charged nothing",
        "priority",
        "        self._places.remove(place)\n        self._refund(place)\n",
        "        self._places.remove(place)\n",
    ),
    _core("expected waits count workers", "estimate", "place // workers * service", "place * service"),
    _core(
        "a hanging task does not let estimates grow",
        "estimate",
        "min(max(shown, _UNKNOWN), _LONGEST_GUESS)",
        "max(shown, _UNKNOWN)",
    ),
    # Flow control
    _core("bytes in flight have a bound", "ack_window", "self.unacknowledged + size <= self._limit", "True"),
    _core(
        "what was not sent cannot be acknowledged", "ack_window", "if event_id > self._last_id:", "if False:"
    ),
    _core("messages have a rate", "message_rate", "if self._tokens < -TOLERANCE:", "if False:"),
    # Who is dead
    _core("who stands still is dead", "liveness", "now - since >= self._patience", "False"),
    _core(
        "a database that is away proves nobody's death",
        "liveness",
        "return passed if not able else",
        "return 0.0 if not able else",
    ),
    # Secrets
    _core("a key is in no line", "redaction", "text = _SECRETS.sub(_replacement, text)", "text = text"),
    _core(
        "what was asked is in no line",
        "redaction",
        "text = _without_long(text, form) if len(form) > PIECE else _without_word(text, form)",
        "pass",
    ),
    # The journal
    _runtime(
        "ids are dense",
        "journals/memory",
        "self.last_id = self.dense_id = self.last_id + 1",
        "self.last_id = self.dense_id = self.last_id + 2",
        "journal",
    ),
    _runtime(
        "nothing is appended behind the end",
        "journals/memory",
        "        if self.closed:\n            raise JournalClosed\n",
        "",
        "journal",
    ),
    _runtime(
        "a journal has a bound",
        "journals/memory",
        "if not always and self.size + cost > self.limit:",
        "if False:",
        "journal",
    ),
    _runtime(
        "each append wakes all readers",
        "journals/memory",
        "        for wake in tuple(self._subscribers):\n            wake()",
        "        pass",
        "journal",
    ),
    _runtime(
        "what was trimmed is not counted any more",
        "journals/memory",
        "self._account(-gone - _FRAME_OVERHEAD * count)",
        "pass",
        "journal",
    ),
    # Permits
    _runtime(
        "a freed permit goes on",
        "ledger",
        "        if held is Holding.PERMIT or follower is not None:\n            self._grant()\n",
        "",
    ),
    _runtime(
        "a ticket is released once",
        "ledger",
        "        if held is Holding.NOTHING:\n            return\n        self._per",
        "        self._per",
    ),
    _runtime(
        "permits are never more than workers",
        "ledger",
        "while self._queue.eligible and self.running < self.limits.max_workers and",
        "while self._queue.eligible and",
    ),
    _runtime(
        "who runs without waiting uses a turn",
        "ledger",
        "            self._queue.charge(owner, priority)\n            self._running.add(ticket)",
        "            self._running.add(ticket)",
        "ledger",
    ),
    _runtime(
        "who comes back to a free permit gets it",
        "ledger",
        "            self._queue.come_back(ticket._place)\n            self._grant()",
        "            self._queue.come_back(ticket._place)",
    ),
    _runtime("a series keeps its order", "ledger", "held=snapshot.earlier > 0", "held=False"),
    # From producers to the journal
    _runtime(
        "a fast thread waits for the loop",
        "bridge",
        "                if len(self._parts) >= HIGH_WATER:\n                    self._wait_for_room()\n",
        "",
    ),
    _runtime(
        "a stopped thread ends at its next part",
        "bridge",
        "                if self._stopped:\n                    break\n",
        "",
    ),
    _runtime(
        "what the iterator raised is told, behind its parts",
        "bridge",
        "                if self._error is not None:\n                    raise self._error\n",
        "",
    ),
    _runtime("a source is closed", "bridge", "                close()\n", "                pass\n"),
    _runtime("a busy producer steps aside", "loop_share", "return not self._turned", "return False"),
    _runtime(
        "waiting text is looked at when it is due",
        "pump",
        "        if not self._armed:\n            self._arm()\n\n",
        "\n",
    ),
    _runtime(
        "nothing is lost at the end",
        "pump",
        "self._append_text(self._coalescer.flush(), time.monotonic())\n",
        "pass\n",
    ),
    _runtime(
        "output that was cut is told",
        "pump",
        "self._task.append(Truncated(dropped_chars=self._dropped, limit=limit))",
        "pass",
    ),
    _runtime(
        "an async source is closed", "pump", "                await close()\n", "                pass\n"
    ),
)
