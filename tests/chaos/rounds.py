"""One round: from its plan, over clients and faults at work, to what the checker says of it."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import psutil
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tests.support.cluster import Node
from tests.support.toxics import CLEAN, End, Link, Proxy, Toxics, always, cut_after, proxy
from tests.support.toxics import Plan as Line
from tests.support.wire import ask, request

from . import model
from .checker import Call, Facts, Story, Violation, judge
from .clients import Address, Noting, call, cancel, follow, herd_call, reader
from .faults import TABLE
from .house import GRACE, House
from .plan import Client, Plan

PATIENCE: Final = 60.0
"""Seconds after the last fault within which everybody has the end."""

SETTLE: Final = GRACE + 20.0
"""Seconds after that within which nothing is left: who made a call twice, because the answer to the first was
cut, leaves a task that nobody reads."""

TOLD: Final = 20
"""Violations of a round, at most: what goes wrong for one often does for hundreds."""

SLACK: Final = 32
"""Threads, and open files, that a process may have more than after its first round: pool threads come as they
are needed, connections to stores and model are kept."""

STORE_CONNECTIONS: Final = 12
"""To PostgreSQL, of each process at most."""

IMMORTAL_KEYS: Final = 64
"""In Redis, at most so many that do not expire by themselves."""

LINES: Final[dict[str, Line]] = {
    "clean": always(CLEAN),
    "cut": cut_after(lambda dice: dice.randint(300, 6_000), End.RESET, End.FIN),
    "slow": always(Link(down=Toxics(latency=0.05, jitter=0.04, rate=20_000))),
    "sliced": always(Link(up=Toxics(slices=(1, 40)), down=Toxics(slices=(1, 7)))),
}


@dataclass
class Report:
    """A round and its verdict. `figures`: what is worth knowing of one that passed."""

    plan: Plan
    violations: list[Violation] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    timeline: list[tuple[float, str]] = field(default_factory=list)
    stories: list[str] = field(default_factory=list)
    """Of clients to which something happened that may not."""
    seconds: float = 0.0


class Round:
    """A round at work in a house."""

    def __init__(self, house: House, plan: Plan) -> None:
        self._house = house
        self._plan = plan
        self._begun = 0.0
        self._stories: list[Story] = []
        self._lines: dict[tuple[str, int], Proxy] = {}
        self._extra: list[Violation] = []
        self._lag = 0.0
        self._closed: list[tuple[str, float, float]] = []
        """Of idle sockets: whose, since when they were open, and when they were closed."""
        self._pings: dict[str, list[tuple[float, float]]] = {}

    async def run(self) -> Report:
        """From the first call to the verdict."""
        house, plan = self._house, self._plan
        house.begin()
        self._begun = time.monotonic()
        house.note(plan.describe())
        watching = [asyncio.create_task(self._watch_own_loop())]
        watching += [asyncio.create_task(self._ping(node)) for node in house.webs]
        try:
            async with self._with_lines():
                house.cut_lines = self._cut_lines
                idle = [asyncio.create_task(self._idle(k)) for k in range(plan.idle)]
                clients = [asyncio.create_task(self._client(each)) for each in plan.clients]
                if plan.herd:
                    clients.append(asyncio.create_task(self._herd(plan.herd)))
                faults = [asyncio.create_task(self._strike(each)) for each in plan.strikes]
                await asyncio.gather(*faults)
                house.note("the last fault is over")
                await self._until_all_have_their_end(clients)
                house.note("all clients have their end")
                for each in idle:
                    each.cancel()
                await asyncio.gather(*idle, return_exceptions=True)
            if down := await house.see_all_alive():
                self._blame("alive", f"{', '.join(down)} ended by itself")
            await self._settle()
            return await self._verdict()
        finally:
            for task in watching:
                task.cancel()

    # Clients

    async def _client(self, client: Client) -> None:
        await self._at(client.at)
        story = self._story(client.call)
        of = self._address(client.line, client.web)
        made = reader(story, of, client.way)
        jobs: list[Coroutine[Any, Any, None]] = [call(client, made)]
        if client.twin:
            twin = reader(self._story(client.call), self._address("clean", client.web + 1))
            jobs.append(call(client, twin))
        jobs += [self._follower(made, delay, client.web + k) for k, delay in enumerate(client.followers, 1)]
        if client.call.cancelled_at is not None:
            jobs.append(self._cancel(made, client.call.cancelled_at, self._address("clean", client.web)))
        await asyncio.gather(*jobs)

    async def _follower(self, leader: Noting, delay: float, web: int) -> None:
        await asyncio.sleep(delay)
        await leader.known.wait()
        if leader.story.call.leaves or not leader.task_id:
            return
        story = self._story(leader.story.call)
        story.follows, story.task_id = True, leader.task_id
        story.node, story.accepted_at, story.route = (
            leader.story.node,
            leader.story.accepted_at,
            leader.story.route,
        )
        await follow(reader(story, self._address("clean", web), task_id=leader.task_id))

    async def _cancel(self, leader: Noting, delay: float, of: Address) -> None:
        await asyncio.sleep(delay)
        await leader.known.wait()
        if leader.task_id:
            await cancel(leader.story, of)

    async def _herd(self, size: int) -> None:
        """Many readers of one slow task, all through the lines that are cut at once."""
        wanted = herd_call(f"{self._plan.number}-herd", self._plan.seconds)
        client = Client(wanted, 0.0, "later", "clean", 0)
        leader = reader(self._story(wanted), self._address("clean", 0))
        followers = [self._follower(leader, 0.2, k) for k in range(size)]
        await asyncio.gather(call(client, leader), *followers)

    async def _idle(self, number: int) -> None:
        """A socket that nobody uses stays open, unless its web goes (R16)."""
        node = self._house.webs[number % len(self._house.webs)]
        url = f"ws://127.0.0.1:{node.port}/ws/generate/"
        while True:
            since = time.monotonic()
            try:
                async with connect(url, proxy=None, open_timeout=PATIENCE) as socket:
                    since = time.monotonic()
                    await socket.recv()
            except ConnectionClosed:
                self._closed.append((node.name, since, time.monotonic()))
            except (OSError, InvalidHandshake, EOFError):
                pass
            await asyncio.sleep(0.2)

    # Faults and lines

    async def _strike(self, strike: Any) -> None:
        await self._at(strike.at)
        self._house.note(strike.kind)
        await TABLE[strike.kind].harm(self._house, random.Random(strike.seed))

    @asynccontextmanager
    async def _with_lines(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for index, node in enumerate(self._house.webs):
                for name, line in LINES.items():
                    dice = random.Random(f"{self._plan.seed} {self._plan.number} {name} {index}")
                    made = await stack.enter_async_context(proxy(node.port, line, dice))
                    self._lines[name, index] = made
            yield

    def _cut_lines(self) -> int:
        cut = sum(line.open for line in self._lines.values())
        for line in self._lines.values():
            line.cut()
        return cut

    def _address(self, line: str, first: int) -> Address:
        """Through that kind of line to one web after the other."""
        webs = self._house.webs

        def address(turn: int) -> tuple[str, int]:
            index = (first + turn) % len(webs)
            return webs[index].name, self._lines[line, index].port

        return address

    # Time

    async def _at(self, moment: float) -> None:
        await asyncio.sleep(max(0.0, self._begun + moment - time.monotonic()))

    async def _watch_own_loop(self) -> None:
        """How late this process is itself: nobody else can be blamed for that."""
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.05)
            self._lag = max(self._lag, time.monotonic() - before - 0.05)

    async def _ping(self, node: Node) -> None:
        """How long it takes to say that it lives: while a store is away as long as ever."""
        pings = self._pings.setdefault(node.name, [])
        while True:
            before = time.monotonic()
            with suppress(OSError):
                async with request(node.port, "GET", "/healthz", patience=PATIENCE) as answer:
                    await answer.body()
                pings.append((before, time.monotonic() - before))
            await asyncio.sleep(0.25)

    async def _until_all_have_their_end(self, clients: list[asyncio.Task[None]]) -> None:
        _, late = await asyncio.wait(clients, timeout=PATIENCE)
        for task in late:
            task.cancel()
        for result in await asyncio.gather(*clients, return_exceptions=True):
            if isinstance(result, Exception):
                self._blame("client", f"{type(result).__name__}: {result}")
        if late:
            self._house.note(f"{len(late)} clients give up")
            for story in self._stories:
                story.gave_up = story.end is None

    async def _settle(self) -> None:
        """Wait until nothing runs, waits or is read any more."""

        async def left() -> dict[str, int]:
            numbers: Counter[str] = Counter()
            for node in self._house.webs:
                statistics = await ask(node.port, "/stats")
                pool = statistics["pools"]["agent_pool"]
                # Each tells the sum of all; they may differ by what the last second brought.
                numbers |= Counter(
                    running=pool["running"],
                    waiting=pool["waiting"],
                    active=statistics["tasks"]["active"],
                    followers=statistics["followers"],
                )
            rows = await self._house.query(
                "SELECT count(*) FROM streaming_streamtask WHERE state IN ('queued', 'running')"
            )
            return {**numbers, "rows": rows[0][0]}

        deadline = time.monotonic() + SETTLE
        numbers: dict[str, int] = {}
        while time.monotonic() < deadline:
            with suppress(OSError, KeyError):
                numbers = await left()
                if not any(numbers.values()):
                    self._house.note("nothing is left")
                    return
            await asyncio.sleep(0.2)
        self._blame("left", ", ".join(f"{count} {name}" for name, count in numbers.items() if count))

    # The verdict

    async def _verdict(self) -> Report:
        house, plan = self._house, self._plan
        await self._look_for_leaks()
        facts = Facts(
            house.hits,
            house.outages,
            await house.rows_of(f"{plan.number}-"),
            model.calls(house.service),
            self._lag,
            pings=self._pings,
        )
        for name, since, at in self._closed:
            if not facts.troubled(name, since, at):
                self._blame("idle", f"{name} closed a socket that was idle for {at - since:.1f} s")
        house.service.tries.clear()
        house.service.requests.clear()
        violations = [*self._extra, *house.wrongs, *judge(self._stories, facts)]
        timeline = [(at - self._begun, text) for at, text in house.timeline]
        harmed = {violation.call for violation in violations}
        told = [
            f"{each.call.name}: {each.digest(self._begun)}"
            for each in self._stories
            if each.call.name in harmed
        ]
        seconds = time.monotonic() - self._begun
        return Report(plan, violations, self._figures(facts), timeline, told, seconds)

    def _figures(self, facts: Facts) -> dict[str, float]:
        stories = self._stories
        ends: Counter[str] = Counter()
        for story in stories:
            if story.end is not None and not story.follows:
                ends[str(story.end.data.get("code", story.end.name))] += 1
        refused = [refusal for story in stories for refusal in story.refusals]
        return {
            "readers": len(stories),
            "tasks": len(facts.rows),
            **dict(sorted(ends.items())),
            "queued": sum(story.was_queued and not story.follows for story in stories),
            "cuts": sum(story.cuts for story in stories),
            "gaps": sum(seen.name == "gap" for story in stories for seen in story.events),
            "restarts": sum(seen.name == "restart" for story in stories for seen in story.events),
            "refused": len(refused),
            "refused_within_s": max((each.at - each.asked for each in refused), default=0.0),
            "lag_s": self._lag,
            "ping_s": max((took for each in facts.pings.values() for _, took in each), default=0.0),
        }

    async def _look_for_leaks(self) -> None:
        house = self._house
        for node in house.nodes:
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(node.process.pid)
                now = process.num_threads(), process.num_fds()
                first = house.baselines.setdefault(process.pid, now)
                for name, count, before in zip(("threads", "open files"), now, first, strict=True):
                    if count > before + SLACK:
                        self._blame("leak", f"{node.name} has {count} {name}, {before} after its first round")
        connections = await asyncio.to_thread(house.records.connections)
        if connections is not None and connections > STORE_CONNECTIONS * len(house.nodes):
            self._blame("leak", f"{connections} connections to PostgreSQL")
        if house.redis is not None:
            await asyncio.to_thread(self._look_at_redis)

    def _look_at_redis(self) -> None:
        assert self._house.redis is not None
        with self._house.redis.client() as client:
            immortal = [key for key in client.scan_iter(count=1_000) if client.ttl(key) == -1]
        if len(immortal) > IMMORTAL_KEYS:
            self._blame("leak", f"{len(immortal)} keys in Redis never expire: {sorted(immortal)[:5]}")

    def _blame(self, rule: str, detail: str) -> None:
        self._extra.append(Violation(rule, "-", detail))

    def _story(self, wanted: Call) -> Story:
        made = Story(wanted)
        self._stories.append(made)
        return made


async def play(house: House, plan: Plan) -> Report:
    """One round of a house that is settled."""
    return await Round(house, plan).run()


def tell(report: Report, again: str) -> str:
    """A failed round in words; `again`: the command that repeats it."""
    lines = [f"round {report.plan.number}: {len(report.violations)} violations"]
    lines += [f"  {violation}" for violation in report.violations[:TOLD]]
    lines += [f"  and {more} more"] if (more := len(report.violations) - TOLD) > 0 else []
    lines += [f"  {story}" for story in report.stories[:TOLD]]
    lines += ["  what happened:"]
    lines += [f"  {at:7.2f} s  {text}" for at, text in report.timeline]
    lines += [f"  again: {again}"]
    return "\n".join(lines)
