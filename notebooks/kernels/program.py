"""The program of a kernel: ipykernel, with output that comes soon, and is neither lost nor misplaced.

Its text is given to the kernel's interpreter (`python -c TEXT OUTPUT_LIMIT -f FILE …`), which may be another
one, of another user; nothing imports it. In a kernel that a Jupyter Server has started it runs as a first
cell (`remote.py`), with `limit` given. Attributes of ipykernel (7) with a leading underscore are looked
for, and not relied on.
"""

import codecs
import concurrent.futures
import contextlib
import contextvars
import fcntl
import json
import os
import selectors
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

if __name__ == "__main__" and not sys.path[0]:
    # The folder of the cells: what lies there must not stand in for a module of the kernel
    # (ipykernel_launcher does the same).
    del sys.path[0]

import zmq
from ipykernel.kernelapp import IPKernelApp

IN_A_CELL = __name__ != "__main__"
"""Whether it runs in a kernel that is there already."""

FLUSH_INTERVAL = 0.02
"""Seconds that ipykernel collects what is printed (0.2 by itself, which is what readers of a cell would
wait)."""

FLUSH_TIMEOUT = 60
"""Seconds that who writes much waits for a server that does not take it."""

AT_ONCE = 262_144
"""Code points that are written before who writes waits until they are sent: so memory stays flat, and no
message is large."""

BACKLOG = 64
"""Messages that may wait to be sent; who shows more waits."""

limit: int = globals()["limit"] if IN_A_CELL else int(sys.argv.pop(1))
app: Any = IPKernelApp.instance()
if not IN_A_CELL:
    app.initialize()
shell = app.shell
iopub = shell.kernel.iopub_thread
streams: dict[int, Any] = {1: sys.stdout, 2: sys.stderr}


def prepare() -> None:
    """All of it."""
    threading.Thread(target=watch, name="output of processes", daemon=True).start()
    shell.events.register("pre_run_cell", new_pipes)
    shell.events.register("post_run_cell", drain)
    os.register_at_fork(after_in_child=print_to_pipes)
    for number, stream in streams.items():
        stream.flush_interval, stream.flush_timeout = FLUSH_INTERVAL, FLUSH_TIMEOUT
        stream.write = paced(stream)
        # ipykernel's own pipe has only one owner, and its reader cuts characters; ours takes its place.
        stream._should_watch = False
        stream.fileno = lambda number=number: number
    iopub.schedule = patient(iopub.schedule)
    iopub.schedule(never_drop)
    # IPython would keep all that was ever printed.
    shell._tee = lambda channel: contextlib.nullcontext()
    session = shell.kernel.session
    session.serialize, session.pack = bounded(session.serialize), tolerant(session.pack)
    if IN_A_CELL:
        session.serialize = numbered(session.serialize)
    thread: Any = threading.Thread
    thread.start = in_context(thread.start)
    pool: Any = concurrent.futures.ThreadPoolExecutor
    pool.submit = with_context(pool.submit)


# Nothing is lost, and nothing piles up


def never_drop() -> None:
    """A subscriber who is slow is waited for, and loses nothing (zmq_setsockopt(3), ZMQ_XPUB_NODROP)."""
    iopub.socket.setsockopt(zmq.XPUB_NODROP, 1)
    port = getattr(iopub, "_pipe_in", None)
    if port is not None:
        # A TCP port for output of forked processes, which have a pipe here.
        iopub._pipe_flag = False
        port.close()


def patient(schedule: Callable[[Any], None]) -> Callable[[Any], None]:
    """`schedule` of the thread that sends, for whom there are not too many messages already."""

    def patiently(work: Any) -> None:
        while len(getattr(iopub, "_events", ())) > BACKLOG and threading.current_thread() is not iopub.thread:
            time.sleep(0.001)
        schedule(work)

    return patiently


def paced(stream: Any) -> Callable[[str], int]:
    """`stream.write` in small steps, each of which waits until the former is sent."""
    write, waiting, process = stream.write, 0, os.getpid()

    def in_steps(text: str) -> int:
        nonlocal waiting
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        for start in range(0, len(text), AT_ONCE) or (0,):
            step = text[start : start + AT_ONCE]
            write(step)
            waiting += len(step)
            if waiting >= AT_ONCE and os.getpid() == process:
                waiting = 0
                stream.flush()
        return len(text)

    return in_steps


def bounded(serialize: Callable[..., Any]) -> Callable[..., Any]:
    """`Session.serialize` with a word in place of what is more than a cell may show."""

    def serialized(message: Any, *args: Any, **kwargs: Any) -> Any:
        content = message.get("content")
        data = content.get("data") if isinstance(content, dict) else None
        if isinstance(data, dict) and message.get("msg_type", "").endswith(
            ("display_data", "execute_result")
        ):
            size = sum(len(value) for value in data.values() if isinstance(value, (str, bytes)))
            if size > limit:
                text = f"[{', '.join(map(str, data))[:200]}: {size} bytes, more than a cell may show]"
                message["content"] = {**content, "data": {"text/plain": text}, "metadata": {}}
        return serialize(message, *args, **kwargs)

    return serialized


def numbered(serialize: Callable[..., Any]) -> Callable[..., Any]:
    """`Session.serialize` that numbers what is shown to everybody: on a way that may break, who listens knows
    what is missing, and what came twice. Words of the kernel's state carry the number of what was shown
    last."""
    number, counting = 0, threading.Lock()

    def serialized(message: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal number
        kind = message.get("msg_type", "")
        if not kind.endswith(("_reply", "_request")):
            with counting:
                number += kind != "status"
                mine = number
            message["metadata"] = {**(message.get("metadata") or {}), "number": mine}
        return serialize(message, *args, **kwargs)

    return serialized


def tolerant(pack: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """`Session.pack` that also takes text that is not fit for UTF-8, as JSON's escapes."""

    def packed(value: Any) -> bytes:
        try:
            return pack(value)
        except UnicodeEncodeError:
            return json.dumps(value, default=str).encode("ascii")

    return packed


# What processes write belongs to the cell that started them: each cell has pipes of its own

selector = selectors.DefaultSelector()
lock = threading.Lock()


def new_pipes(*args: Any) -> None:
    """File descriptors 1 and 2 lead to this cell from here on, also for processes that outlive it."""
    for number, stream in streams.items():
        reads, writes = map(beyond_standard, os.pipe())
        os.set_blocking(reads, False)
        os.dup2(writes, number)
        os.close(writes)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        context = contextvars.copy_context()
        with lock:
            selector.register(reads, selectors.EVENT_READ, (stream, decoder, context))


def beyond_standard(descriptor: int) -> int:
    """The same, with a number that is not one of the standard ones, which code may have closed."""
    if descriptor > 2:
        return descriptor
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(descriptor)
    return moved


def watch() -> None:
    """Pass on what comes through the pipes."""
    while True:
        # A pipe that is registered meanwhile is noticed, too (epoll(7), kqueue(2)).
        for key, _ in selector.select():
            with lock:
                if selector.get_map().get(key.fd) is key:
                    pass_on(key)


def drain(*args: Any) -> None:
    """What was written before a cell ends is said before it ends; one look, for some never stop."""
    with lock:
        for key in list(selector.get_map().values()):
            pass_on(key)


def pass_on(key: selectors.SelectorKey) -> None:
    """Say what is there now, up to what a pipe holds; forget a pipe into which nobody can write any more."""
    stream, decoder, context = key.data
    try:
        data = os.read(key.fd, 65_536)
    except BlockingIOError:
        return
    except OSError:
        data = b""
    text = decoder.decode(data, final=not data)
    if text:
        # A context is entered by one thread at a time, and may be left by its cell's thread just now.
        context.copy().run(stream.write, text)
    if not data:
        selector.unregister(key.fd)
        os.close(key.fd)


def print_to_pipes() -> None:
    """In a forked process ipykernel's threads are gone: it prints as every program does."""
    sys.stdout, sys.stderr = (
        os.fdopen(number, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)
        for number in streams
    )


# What threads say belongs to the cell that started them, or gave them the work: ipykernel keeps the cell in a
# context variable, which threads do not inherit


def in_context(start: Callable[[Any], None]) -> Callable[[Any], None]:
    """`Thread.start` for threads that know their cell."""

    def start_in_context(self: Any) -> None:
        run, context = self.run, contextvars.copy_context()
        self.run = lambda: context.run(run)
        start(self)

    return start_in_context


def with_context(submit: Callable[..., Any]) -> Callable[..., Any]:
    """`ThreadPoolExecutor.submit` for work that knows its cell."""

    def submit_with_context(self: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        return submit(self, contextvars.copy_context().run, function, *args, **kwargs)

    return submit_with_context


prepare()
if not IN_A_CELL:
    app.start()
