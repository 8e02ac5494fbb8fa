"""Deleting what is older than it has to be kept: ended tasks with their events, counts of
refusals, tickets that nobody used."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from django.db import transaction
from django.db.models import QuerySet

from streaming.core.states import State
from streaming.models import Alert, IdempotencyKey, LostProcess, Refusal, Segment, StreamTask, Ticket

CHUNK: Final = 500
"""Tasks deleted in one transaction: short enough that no writer waits for long."""

_ENDED: Final = tuple(state.value for state in State if state.terminal)


@dataclass(frozen=True, slots=True)
class Pruned:
    """How many rows went, or would go."""

    tasks: int
    refusals: int


def prunable(before: datetime) -> tuple[QuerySet[StreamTask], QuerySet[Refusal]]:
    """The tasks that ended before `before`, and the refusals of minutes before it. What waits or runs is
    never among them."""
    # What ended before was accepted before: there is an index for that, and it spares all younger ones.
    tasks = StreamTask.objects.filter(state__in=_ENDED, created_at__lt=before, finished_at__lt=before)
    return tasks, Refusal.objects.filter(minute__lt=before)


def prune(before: datetime) -> Pruned:
    """Delete them, in short transactions."""
    count = 0
    while chunk := prune_some(before):
        count += chunk
    return Pruned(count, prune_refusals(before))


def prune_refusals(before: datetime) -> int:
    """Delete the counts of refusals; how many rows that were."""
    _, refusals = prunable(before)
    return refusals.delete()[0]


def prune_alerts(before: datetime) -> int:
    """Delete the alerts that were resolved before, and what is known of processes lost before."""
    lost = LostProcess.objects.filter(at__lt=before).delete()[0]
    return lost + Alert.objects.filter(resolved_at__lt=before).delete()[0]


def prune_some_keys(before: datetime) -> int:
    """Delete at most CHUNK of the idempotency keys that are older than `before`; how many that were."""
    keys = IdempotencyKey.objects.filter(created_at__lt=before)
    ids = list(keys.order_by("created_at").values_list("pk", flat=True)[:CHUNK])
    # Asked again: a key may have been given to a new task meanwhile.
    return keys.filter(pk__in=ids).delete()[0] if ids else 0


def prune_some_tickets(moment: datetime) -> int:
    """Delete at most CHUNK of the tickets that are too old at `moment`; how many that were."""
    tickets = Ticket.objects.filter(expires_at__lt=moment)
    digests = list(tickets.order_by("expires_at").values_list("pk", flat=True)[:CHUNK])
    return Ticket.objects.filter(pk__in=digests).delete()[0] if digests else 0


def prune_some(before: datetime) -> int:
    """Delete at most CHUNK of the tasks, the oldest first; how many that were."""
    tasks, _ = prunable(before)
    ids = list(tasks.order_by("finished_at").values_list("pk", flat=True)[:CHUNK])
    if ids:
        with transaction.atomic():
            Segment.objects.filter(task_id__in=ids).delete()
            IdempotencyKey.objects.filter(task_id__in=ids).delete()
            StreamTask.objects.filter(pk__in=ids).delete()
    return len(ids)
