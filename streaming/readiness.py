"""Whether this process should be given work: `GET /readyz`, for what starts, restarts and balances servers.

Answered within two seconds whatever the database does (see `storage.probe`). Nothing here says more than a
stranger may know.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, Literal

import msgspec
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from .api import api
from .core.errors import RedisFull
from .problems import Problem
from .requests import endpoint
from .runtime.supervisor import Supervisor
from .schema import REF, problem_response
from .service import service
from .storage.probe import Answer

if TYPE_CHECKING:
    from .cluster.sharing import Sharing

MAX_BEHIND: Final = 5.0
"""Seconds that news of tasks may wait for the database; usually it is a quarter of one. Also those for which
it may take nothing at all, which is noticed where nothing happens, too: each process shows once a second that
it lives."""

WORTH_A_LOOK: Final = 2.0
"""Seconds after which that is worth a look: calls that have to write are refused by now."""

MAX_LAG: Final = 1.0
"""Seconds that the event loop may have been late of late: then every stream was held up for as long."""


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at. `state`: `ok`; `warning`, worth a look; `failed`, no work for now."""

    name: str
    state: Literal["ok", "warning", "failed"]
    message: str


class Readiness(msgspec.Struct, frozen=True):
    """The answer where nothing has failed."""

    status: Literal["ready"]
    checks: list[Check]


async def checks() -> list[Check]:
    """Everything, in the language of the request."""
    here = service()
    database, redis = await asyncio.gather(here.probe.ask(), _of_redis(here.sharing))
    return [
        *_of_database(database),
        *redis,
        _of_records(here.recorder.behind, here.recorder.stalled),
        *_of_pools(here.supervisor),
        _of_loop(here.loop_lag.recent),
        _of_drain(here.supervisor.draining),
    ]


def _of_database(answer: Answer) -> Iterator[Check]:
    if answer.reached:
        yield Check("database", "ok", _("The database answers."))
    elif answer.in_time:
        yield Check("database", "failed", _("The database cannot be used."))
    else:
        yield Check("database", "failed", _("The database does not answer."))
    match answer.pending:
        case None:
            yield Check("migrations", "failed", _("Nobody knows, because the database does not say."))
        case 0:
            yield Check("migrations", "ok", _("All migrations are applied."))
        case count:
            message = ngettext(
                "%d migration is not applied: run manage.py migrate.",
                "%d migrations are not applied: run manage.py migrate.",
                count,
            )
            yield Check("migrations", "failed", message % count)


async def _of_redis(sharing: Sharing | None) -> list[Check]:
    """What is shared by all processes; nothing where they share the database only."""
    if sharing is None:
        return []
    match await sharing.trouble():
        case None:
            return [Check("redis", "ok", _("Redis answers."))]
        case RedisFull():
            return [Check("redis", "failed", _("Redis has no memory left."))]
    return [Check("redis", "failed", _("Redis does not answer."))]


def _of_records(behind: float, stalled: float) -> Check:
    """`behind`, `stalled`: see the recorder."""
    if max(behind, stalled) < WORTH_A_LOOK:
        return Check("records", "ok", _("What happens to tasks is written in time."))
    state: Literal["warning", "failed"] = "failed" if max(behind, stalled) >= MAX_BEHIND else "warning"
    if stalled >= WORTH_A_LOOK:
        return Check("records", state, _("For %d s the database has taken nothing.") % stalled)
    return Check("records", state, _("What happened to tasks has waited for %d s to be written.") % behind)


def _of_loop(late: float) -> Check:
    message = _("In the last seconds the event loop was late by up to %.2f s.") % late
    return Check("loop", "ok" if late < MAX_LAG else "failed", message)


def _of_drain(draining: bool) -> Check:
    if draining:
        return Check("draining", "failed", _("The server is going down."))
    return Check("draining", "ok", _("The server takes work."))


def _of_pools(supervisor: Supervisor) -> Iterator[Check]:
    """A producer that does not come back keeps its permit; a pool that has no other is stuck."""
    for name, pool in supervisor.pools.items():
        stuck, workers = supervisor.stuck_in(name), pool.limits.max_workers
        message = _("No worker is held by a producer that does not come back.")
        if stuck:
            message = _("%(stuck)d of %(workers)d workers are held by producers that do not come back.") % {
                "stuck": stuck,
                "workers": workers,
            }
        state: Literal["ok", "warning", "failed"] = (
            "ok" if not stuck else "failed" if stuck >= workers else "warning"
        )
        yield Check(f"pool {name}", state, message)


@endpoint("GET", "HEAD")
async def readyz(request: HttpRequest) -> HttpResponse:
    """200 while this process should be given work, else 503; each check with its state and a sentence."""
    found = await checks()
    if any(check.state == "failed" for check in found):
        detail = " ".join(check.message for check in found if check.state == "failed")
        raise Problem(503, "not_ready", detail, checks=msgspec.to_builtins(found))
    body = msgspec.json.encode(Readiness("ready", found))
    response = HttpResponse(body, content_type="application/json")
    response["Cache-Control"] = "no-store"
    return response


api.document(
    "get",
    "/readyz",
    {
        "operationId": "readyz",
        "summary": "Readyz",
        "description": "Whether this process should be given work, and each thing that was looked at.",
        "tags": ["operations"],
        "security": [],
        "responses": {
            "200": {
                "description": "It should",
                "content": {"application/json": {"schema": {"$ref": REF.format(name="Readiness")}}},
            },
            "503": problem_response("It should not; `checks` tells why"),
        },
    },
    msgspec.json.schema_components((Readiness,), ref_template=REF)[1],
)
