"""From a producer to the journal: the text to the code point, exactly one end, whatever the producer does."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from streaming.core import sse
from streaming.core.errors import UpstreamRateLimited
from streaming.core.events import Content, Finish, Output, Restart, Result
from streaming.runtime.loop_share import MAX_PARTS
from streaming.runtime.task import CancelReason

from .fakes import (
    PATIENCE,
    Reader,
    check_stream,
    ended,
    eventually,
    house,
    now,
    parse,
    pool_limits,
    pool_numbers,
    run,
    run_virtual,
    spec,
    text_of,
    virtual_time,
)

AWKWARD = [
    "咖啡店新开张，欢迎光临！",
    "👨‍👩‍👧‍👦" * 5,
    "e" + "\u0301" * 60,
    "\u202eright to left\u202c שלום مرحبا",
    "a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg",
    "one\rtwo\nthree\r\nfour\n\nfive",
    "data: x\n\nevent: complete\nid: 9\n: ping\n\n",
    "\ufeffbom",
    "nul\0inside",
    '"quoted" \\ back',
    "lone \ud800 high",
    "lone \udc00 low",
    " ",
    "x" * 40_000,
]

quick = settings(max_examples=40, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
# No surrogates next to each other: a pair is one character or two, depending on where it was cut.
texts = st.lists(st.sampled_from(AWKWARD) | st.text(max_size=30), max_size=6).map("|".join)


@st.composite
def chunked(draw):
    """A text cut anywhere, empty parts included."""
    text = draw(texts)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=40)))
    return [text[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def wire_text(text):
    """What UTF-8 can carry: lone surrogates become U+FFFD."""
    return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)


async def parts_of(*parts):
    for part in parts:
        yield part


def in_thread(*parts):
    yield from parts


KINDS = pytest.mark.parametrize("kind", [parts_of, in_thread], ids=["async", "sync"])


# --- Text equality ------------------------------------------------------------------------------------


def check_text(events, parts):
    text = "".join(parts)
    assert text_of(events) == wire_text(text)
    assert events[-1].name == "complete"
    assert events[-1].data["content_length"] == len(text)
    contents = [each for each in events if each.name == "content"]
    assert events[-1].data["chunks"] == len(contents)


@quick
@given(chunked(), st.sampled_from([0.0, 0.001, 0.02, 0.2]))
@example(["\r", "\n", "\r\n"], 0.0)
@example(AWKWARD, 0.02)
def test_text_equality_async(parts, pause):
    async def source():
        for part in parts:
            if pause:
                await asyncio.sleep(pause)
            yield part

    async def main():
        async with house() as supervisor:
            check_text(await run(supervisor, source), parts)

    run_virtual(main)


@quick
@given(chunked())
@example(AWKWARD)
def test_text_equality_sync(parts):
    async def main():
        async with house() as supervisor:
            check_text(await run(supervisor, lambda: in_thread(*parts)), parts)

    asyncio.run(main())


@KINDS
async def test_text_equality_read_by_the_strict_decoder(kind):
    """The same bytes through the incremental decoder, cut anywhere."""
    async with house() as supervisor:
        reader = Reader(supervisor, supervisor.open(spec(lambda: kind(*"|".join(AWKWARD)))))
        await reader.end()
        data = b"".join(reader.chunks)
        for step in (1, 7, 4096):
            decoder = sse.Decoder()
            seen = [each for at in range(0, len(data), step) for each in decoder.feed(data[at : at + step])]
            assert [each.event for each in seen] == [
                each.name for each in reader.events if each.name != "retry"
            ]
        assert text_of(reader.events) == wire_text("|".join(AWKWARD))


@KINDS
async def test_a_million_characters_in_small_parts(kind):
    parts = [f"{number} " for number in range(20_000)]
    async with house() as supervisor:
        check_text(await run(supervisor, lambda: kind(*parts)), parts)


@KINDS
@pytest.mark.parametrize("parts", [[], [""], ["", "", ""]], ids=["none", "one empty", "empties"])
async def test_nothing_produced_is_complete_without_content(kind, parts):
    async with house() as supervisor:
        events = await run(supervisor, lambda: kind(*parts))
    assert [each.name for each in events if each.id] == ["complete"]
    assert events[-1].data["content_length"] == events[-1].data["chunks"] == 0
    assert events[-1].data["timing"]["first_content_ms"] is None


# --- Kinds of parts -----------------------------------------------------------------------------------


@KINDS
async def test_order_is_kept_between_text_and_other_parts(kind):
    parts = [
        "a",
        "b",
        Content(delta="err", channel="stderr"),
        "c",
        Output(output_type="display_data", data={"text/plain": "1"}),
        "d",
        Result(data=[1, 2]),
        "e",
    ]
    async with house() as supervisor:
        events = await run(supervisor, lambda: kind(*parts))
    story = [
        (each.data.get("delta"), each.data.get("channel")) if each.name == "content" else each.name
        for each in events
        if each.id
    ]
    flat: list[Any] = []
    for each in story:
        if flat and isinstance(each, tuple) and isinstance(flat[-1], tuple) and flat[-1][1] == each[1]:
            flat[-1] = (flat[-1][0] + each[0], each[1])
        else:
            flat.append(each)
    assert flat == [
        ("ab", None),
        ("err", "stderr"),
        ("c", None),
        "output",
        ("d", None),
        "result",
        ("e", None),
        "complete",
    ]
    assert events[-1].data["content_length"] == 5, "the main text only"


@KINDS
async def test_restart_voids_the_text_so_far(kind):
    restart = Restart(attempt=2, reason="upstream_failed")
    async with house() as supervisor:
        task = supervisor.open(spec(lambda: kind("wrong " * 9, restart, "right")))
        events = await Reader(supervisor, task).end()
        journal = parse(b"".join(task.journal.read(0, 9)))
    check_stream(events, compacted=True)
    assert text_of([each for each in journal if each.id == 1]) == "wrong " * 9
    names = [each.name for each in events if each.id]
    at = names.index("restart")
    durable = [each for each in events if each.id]
    assert text_of(durable[:at]) in ("wrong " * 9, ""), "what is void when it is sent is left out"
    assert text_of(durable[at:]) == "right"
    assert events[-1].data["content_length"] == len("right")


@KINDS
async def test_finish_says_what_complete_shall_tell(kind):
    finish = Finish(
        finish_reason="length", usage={"completion_tokens": 3}, model="m", cached=True, duration_ms=1.5
    )
    async with house() as supervisor:
        end = (await run(supervisor, lambda: kind("x", finish)))[-1].data
    assert (end["finish_reason"], end["usage"], end["model"]) == ("length", {"completion_tokens": 3}, "m")
    assert (end["cached"], end["duration_ms"]) == (True, 1.5)


async def test_open_source_may_be_a_coroutine():
    async def opens():
        await asyncio.sleep(0)
        return parts_of("x")

    async def opens_sync():
        await asyncio.sleep(0)
        return in_thread("y")

    async with house() as supervisor:
        assert text_of(await run(supervisor, opens)) == "x"
        assert text_of(await run(supervisor, opens_sync)) == "y"
        assert text_of(await run(supervisor, lambda: ["a", "list"])) == "alist"


# --- Errors -------------------------------------------------------------------------------------------


async def raises_async(error, after):
    for number in range(after):
        yield f"{number} "
    raise error


def raises_sync(error, after):
    for number in range(after):
        yield f"{number} "
    raise error


@pytest.mark.parametrize("kind", [raises_async, raises_sync], ids=["async", "sync"])
@pytest.mark.parametrize("after", [0, 3])
@pytest.mark.parametrize(
    ("error", "code", "retryable"),
    [
        (ValueError("secret: sk-12345"), "producer_failed", False),
        (UpstreamRateLimited("slow down"), "upstream_rate_limited", True),
        (SystemExit(3), "producer_failed", False),
        (KeyboardInterrupt(), "producer_failed", False),
        (asyncio.CancelledError(), "producer_failed", False),
        (TimeoutError("read"), "producer_failed", False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
async def test_a_producer_that_raises(kind, after, error, code, retryable):
    """Exactly one `error`, last, after all the text before it; the permit comes back; nothing leaks."""
    async with house() as supervisor:
        events = await run(supervisor, lambda: kind(error, after))
        end = events[-1]
        assert (end.name, end.data["code"], end.data["retryable"]) == ("error", code, retryable)
        assert "sk-12345" not in str(events)
        assert text_of(events) == "".join(f"{number} " for number in range(after))
        await eventually(lambda: pool_numbers(supervisor)["running"] == 0)


def quotes(prompt: str) -> Exception:
    """An error as libraries raise them: with what they were given, below another one that says so, too."""
    try:
        raise KeyError(prompt)
    except KeyError as cause:
        error = ValueError(f"cannot write about {prompt!r} ({prompt[:20]}…)")
        error.__cause__ = cause
        return error


@pytest.mark.parametrize(
    "prompt", ["GEHEIM", 'a "longer" text\nover two lines, that stays between us', "秘密"]
)
async def test_what_a_task_was_asked_is_not_in_the_log_of_its_fault(prompt, caplog):
    """Type, place and the words around it are."""
    asked = {"brief": {"topic": prompt, "keywords": ["x", prompt]}, "count": 3}
    async with house() as supervisor:
        await run(supervisor, lambda: raises_async(quotes(prompt), 1), arguments=asked)
        await run(supervisor, lambda: raises_async(UpstreamRateLimited(f"no {prompt}"), 1), arguments=asked)
    assert "ValueError: cannot write about" in caplog.text
    assert "KeyError: " in caplog.text
    assert "in raises_async" in caplog.text
    assert "upstream_rate_limited: no [cut]" in caplog.text
    for piece in (prompt, repr(prompt)[1:-1], prompt[:20], prompt[-20:]):
        assert piece not in caplog.text
    assert caplog.records[0].exc_info is not None, "for those who report faults"


@pytest.mark.parametrize("kind", [raises_async, raises_sync], ids=["async", "sync"])
async def test_a_producer_that_raises_what_only_the_interpreter_may(kind):
    """`GeneratorExit` ends the pump itself; the task ends all the same."""
    async with house() as supervisor:
        events = await run(supervisor, lambda: kind(GeneratorExit(), 3))
        assert (events[-1].name, events[-1].data["code"]) == ("error", "producer_failed")
        await eventually(lambda: pool_numbers(supervisor)["running"] == 0)


@pytest.mark.parametrize(
    "source",
    [
        lambda: None,
        lambda: 5,
        lambda: "a string is not a stream",
        lambda: b"bytes",
        lambda: {"a": 1},
        lambda: [1, 2],
        lambda: parts_of("x", 5),
        lambda: in_thread("x", b"5"),
        lambda: parts_of("x", None),
        lambda: 1 / 0,
    ],
)
async def test_not_a_producer_or_not_a_part(source):
    async with house() as supervisor:
        events = await run(supervisor, source)
        assert (events[-1].name, events[-1].data["code"]) == ("error", "producer_failed")
        await eventually(lambda: pool_numbers(supervisor)["running"] == 0)


async def test_an_async_source_is_closed_after_a_wrong_part():
    """Also one that is no generator, which nobody else would close."""
    closed = []

    class Source:
        def __aiter__(self):
            return self

        async def __anext__(self):
            return 5

        async def aclose(self):
            closed.append(self)

    async with house() as supervisor:
        events = await run(supervisor, Source)
    assert (events[-1].name, len(closed)) == ("error", 1)


async def test_a_sync_generator_is_closed_in_its_thread_after_a_wrong_part():
    closed_in = []

    def source():
        try:
            yield "x"
            yield 5
            yield "never asked for"
        finally:
            closed_in.append(threading.current_thread().name)

    async with house() as supervisor:
        await run(supervisor, source)
        await eventually(lambda: closed_in)
    assert closed_in[0].startswith("sluice-agent_pool")


# --- Time: first part, coalescing ---------------------------------------------------------------------


async def test_sync_producer_streams_truly():
    """The first part reaches the reader before the second is made."""
    second = threading.Event()

    def source():
        yield "first"
        assert second.wait(PATIENCE)
        yield "second"

    async with house() as supervisor:
        reader = Reader(supervisor, supervisor.open(spec(source)))
        await reader.saw("first")
        second.set()
        assert text_of(await reader.end()) == "firstsecond"


async def test_what_a_sync_producer_said_does_not_wait_for_its_next_part():
    third = threading.Event()

    def source():
        yield "first"
        yield " and second"
        assert third.wait(PATIENCE)
        yield ", third"

    async with house() as supervisor:
        reader = Reader(supervisor, supervisor.open(spec(source)))
        await reader.saw("first and second")
        third.set()
        assert text_of(await reader.end()) == "first and second, third"


async def test_queued_sync_producer_streams_truly():
    second, busy = threading.Event(), threading.Event()

    def occupies():
        yield "x"
        assert busy.wait(PATIENCE)

    def source():
        yield "first"
        assert second.wait(PATIENCE)
        yield "second"

    async with house(pool=pool_limits(max_workers=1)) as supervisor:
        first = supervisor.open(spec(occupies))
        reader = Reader(supervisor, supervisor.open(spec(source)))
        await reader.until(lambda reader: reader.named("status"))
        assert reader.named("status")[0].data["status"] == "queued"
        busy.set()
        await reader.saw("first")
        second.set()
        assert text_of(await reader.end()) == "firstsecond"
        await ended(first)


@virtual_time
async def test_first_text_of_an_async_producer_leaves_before_the_second_is_made():
    made_second = []

    async def source():
        yield "first"
        made_second.append(reader.events and text_of(reader.events))
        yield "second"

    async with house() as supervisor:
        reader = Reader(supervisor, supervisor.open(spec(source)))
        await reader.end()
    assert made_second == ["first"]


@virtual_time
async def test_text_waits_no_longer_than_the_interval():
    async def source():
        for number in range(100):
            yield f"{number % 10}"
            await asyncio.sleep(0.01)

    async with house() as supervisor:
        reader = Reader(supervisor, supervisor.open(spec(source)))
        start = now()
        events = await reader.end()
    seen = 0
    for each in [each for each in events if each.name == "content"]:
        oldest_made = start + seen * 0.01
        assert each.at - oldest_made <= 0.05 + 1e-6
        seen += len(each.data["delta"])
    assert seen == 100
    assert events[-1].data["chunks"] <= 25, "and yet five or six characters share an event"


@virtual_time
async def test_a_pause_flushes_what_waits():
    async def source():
        yield "a"
        yield "b"
        await asyncio.sleep(60)
        yield "c"

    async with house() as supervisor:
        start = now()
        events = await Reader(supervisor, supervisor.open(spec(source))).end()
    texts = [(each.data["delta"], each.at - start) for each in events if each.name == "content"]
    assert [text for text, _ in texts] == ["a", "b", "c"]
    assert texts[1][1] == pytest.approx(0.05, abs=0.01)


@virtual_time
async def test_a_source_that_never_suspends_lets_others_run():
    turns: list[Any] = []

    async def source():
        for _ in range(10_000):
            turns[-1] += 1
            yield "x"

    async def other():
        while True:
            turns.append(0)
            await asyncio.sleep(0)

    async with house() as supervisor:
        other_task = asyncio.create_task(other())
        await asyncio.sleep(0)
        await run(supervisor, source)
        other_task.cancel()
    assert max(turns) <= 2 * MAX_PARTS


# --- Output limit -------------------------------------------------------------------------------------


@KINDS
async def test_journal_full_is_truncated_then_complete(kind):
    async with house(max_journal_bytes=5_000) as supervisor:
        events = await run(supervisor, lambda: kind(*["0123456789" * 3] * 1_000))
        durable = [each for each in events if each.id]
        assert [each.name for each in durable[-2:]] == ["truncated", "complete"]
        assert durable[-1].data["finish_reason"] == "length"
        assert durable[-2].data["limit"] == 5_000
        assert durable[-2].data["dropped_chars"] > 0
        assert ("0123456789" * 3_000).startswith(text_of(events))
        assert durable[-1].data["content_length"] == len(text_of(events))
        await eventually(lambda: pool_numbers(supervisor)["running"] == 0)


@KINDS
async def test_journal_full_of_outputs(kind):
    """What was cut is told for rich output, too."""
    parts = [Output(output_type="x", data={"text/plain": "y" * 100})] * 100
    async with house(max_journal_bytes=5_000) as supervisor:
        events = await run(supervisor, lambda: kind(*parts))
    assert events[-1].data["finish_reason"] == "length"
    assert [each.name for each in events if each.id][-2] == "truncated"


@virtual_time
async def test_journal_full_found_by_the_flush_timer():
    """Text that waits in the coalescer is counted as dropped, and the producer is stopped at once."""
    closed = []

    async def source():
        try:
            yield "0123456789" * 10
            yield "y" * 14
            await asyncio.sleep(3_000)
        finally:
            closed.append(now())

    async with house(max_journal_bytes=200, max_flush_interval=0.1) as supervisor:
        start = now()
        events = await run(supervisor, source)
    assert [each.name for each in events if each.id] == ["content", "truncated", "complete"]
    assert events[-2].data["dropped_chars"] == 14
    assert events[-1].data["finish_reason"] == "length"
    assert closed[0] - start < 1


@virtual_time
@pytest.mark.parametrize("reaction", ["ends", "raises"])
async def test_journal_full_is_told_whatever_the_producer_makes_of_the_stop(reaction):
    async def source():
        try:
            yield "0123456789" * 10
            yield "y" * 14
            await asyncio.sleep(3_000)
        except asyncio.CancelledError:
            if reaction == "raises":
                raise RuntimeError("broken clean-up") from None

    async with house(max_journal_bytes=200) as supervisor:
        events = await run(supervisor, source)
    assert [each.name for each in events if each.id] == ["content", "truncated", "complete"]
    assert events[-1].data["finish_reason"] == "length"


@virtual_time
async def test_journal_full_by_the_last_text():
    async def source():
        yield "0123456789" * 10
        yield "y" * 14

    async with house(max_journal_bytes=200) as supervisor:
        events = await run(supervisor, source)
    assert [each.name for each in events if each.id] == ["content", "truncated", "complete"]
    assert events[-2].data["dropped_chars"] == 14


# --- Being cancelled ----------------------------------------------------------------------------------


@virtual_time
@pytest.mark.parametrize("reaction", ["raises", "ends", "goes on", "awaits", "raises in finally"])
async def test_the_reason_of_a_cancel_wins_over_what_the_producer_makes_of_it(reaction):
    async def source():
        yield "before"
        try:
            await asyncio.sleep(1_000)
        except asyncio.CancelledError:
            match reaction:
                case "raises":
                    raise UpstreamRateLimited("connection closed") from None
                case "ends":
                    return
                case "goes on":
                    for _ in range(1_000):
                        yield "and on "
                        await asyncio.sleep(0.01)
                case "awaits":
                    await asyncio.sleep(0.2)
                    raise
        finally:
            if reaction == "raises in finally":
                raise OSError("cannot close")

    async with house() as supervisor:
        task = supervisor.open(spec(source))
        reader = Reader(supervisor, task)
        await reader.saw("before")
        cancelled_at = now()
        supervisor.cancel(task, CancelReason.CLIENT)
        events = await reader.end()
        check_stream(events)
        assert (events[-1].name, events[-1].data["reason"]) == ("cancelled", "client")
        assert now() - cancelled_at <= 1.1
        assert text_of(events).startswith("before")
        await asyncio.sleep(2)
        assert pool_numbers(supervisor)["running"] == 0


@virtual_time
async def test_nested_async_generators_are_closed_on_cancel():
    closed = []

    async def upstream():
        try:
            yield "inner"
            await asyncio.sleep(1_000)
        finally:
            await asyncio.sleep(0.01)
            closed.append("inner")

    async def source():
        inner = upstream()
        try:
            async for part in inner:
                yield part
        finally:
            await inner.aclose()
            closed.append("outer")

    async with house() as supervisor:
        task = supervisor.open(spec(source))
        reader = Reader(supervisor, task)
        await reader.saw("inner")
        supervisor.cancel(task, CancelReason.ADMIN)
        await reader.end()
        assert closed == ["inner", "outer"]
        assert reader.events[-1].data["reason"] == "admin"


@virtual_time
async def test_async_generator_between_two_parts_is_closed_on_cancel():
    """The cancel meets the pump at its own step aside, not the producer in an await."""
    closed = []

    async def source():
        try:
            while True:
                yield "x"
        finally:
            closed.append(True)

    async with house() as supervisor:
        task = supervisor.open(spec(source))
        reader = Reader(supervisor, task)
        await reader.saw("x")
        supervisor.cancel(task, CancelReason.CLIENT)
        await reader.end()
    assert closed == [True]


async def test_sync_producer_is_closed_in_its_thread_at_its_next_part():
    go, closed_in = threading.Event(), []

    def source():
        try:
            yield "first"
            assert go.wait(PATIENCE)
            yield "second"
            closed_in.append("asked for a third")
        finally:
            closed_in.append(threading.current_thread().name)

    async with house() as supervisor:
        task = supervisor.open(spec(source))
        reader = Reader(supervisor, task)
        await reader.saw("first")
        supervisor.cancel(task, CancelReason.CLIENT)
        events = await reader.end()
        assert events[-1].name == "cancelled"
        assert text_of(events) == "first"
        assert closed_in == []
        assert pool_numbers(supervisor)["running"] == 1, "a thread that is busy keeps its permit"
        go.set()
        await eventually(lambda: pool_numbers(supervisor)["running"] == 0)
        assert len(closed_in) == 1
        assert closed_in[0].startswith("sluice-agent_pool")


async def test_tidy_thread_is_called_in_the_producers_thread():
    seen = []
    async with house(tidy_thread=lambda: seen.append(threading.current_thread().name)) as supervisor:
        await run(supervisor, lambda: in_thread("x"))
        await eventually(lambda: seen)
    assert seen[0].startswith("sluice-agent_pool")


# --- Context ------------------------------------------------------------------------------------------

caller = contextvars.ContextVar("caller", default="nobody")


async def test_producer_runs_in_the_context_of_its_spec():
    context = contextvars.Context()
    context.run(caller.set, "alice")

    async def source():
        yield caller.get()
        caller.set("changed")

    def blocking():
        yield caller.get()
        caller.set("changed")

    token = caller.set("the request")
    try:
        async with house() as supervisor:
            for make in (source, blocking):
                assert text_of(await run(supervisor, make, context=context)) == "alice"
                assert text_of(await run(supervisor, make)) == "nobody", "a clean context otherwise"
        assert context[caller] == "alice"
    finally:
        caller.reset(token)


@virtual_time
async def test_no_reader_is_needed():
    async def source():
        for number in range(300):
            yield f"{number} "
            await asyncio.sleep(0.01)

    async with house() as supervisor:
        task = supervisor.open(spec(source))
        await ended(task)
        assert "299" in text_of(await Reader(supervisor, task).end())
