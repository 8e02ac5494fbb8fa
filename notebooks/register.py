"""The register of kernels elsewhere, in the database: see `kernels/elsewhere.py`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from functools import reduce
from operator import or_

from asgiref.sync import sync_to_async
from django.db import transaction
from django.db.models import F, Q, QuerySet
from django.utils import timezone

from .kernels.elsewhere import Entry
from .kernels.key import Key
from .models import KernelElsewhere


class DatabaseRegister:
    """`Register` over the table of `KernelElsewhere`: conditional updates, no lock is held. Clocks of
    machines that share it may differ by some seconds, fewer than a lease has."""

    @sync_to_async
    def entries(self, keys: Iterable[Key]) -> dict[Key, Entry]:
        """See `Register`."""
        wanted = [Q(owner=key.owner, slug=key.notebook) for key in keys]
        if not wanted:
            return {}
        rows = KernelElsewhere.objects.filter(reduce(or_, wanted))
        return {entry.key: entry for entry in map(_entry, rows)}

    @sync_to_async
    def take(self, key: Key, holder: str, seconds: float) -> Entry | None:
        """See `Register`."""
        row, _ = KernelElsewhere.objects.get_or_create(owner=key.owner, slug=key.notebook)
        now = timezone.now()
        if row.held_until is not None and row.held_until > now:
            return None
        unchanged = KernelElsewhere.objects.filter(pk=row.pk, holder=row.holder, held_until=row.held_until)
        taken = unchanged.update(holder=holder, held_until=now + timedelta(seconds=seconds))
        if not taken:
            return None
        # `expired` and `holder` are those of before; the rest may have changed since the first look.
        before = _entry(row)
        row.refresh_from_db(fields=["kernel", "era", "interrupts", "execution_count"])
        return replace(_entry(row), holder=before.holder, held=True, expired=before.expired)

    @sync_to_async
    def renew(self, key: Key, holder: str, seconds: float) -> bool:
        """See `Register`."""
        until = timezone.now() + timedelta(seconds=seconds)
        return bool(_of(key, holder=holder).update(held_until=until))

    @sync_to_async
    def give_back(self, key: Key, holder: str, execution_count: int | None) -> None:
        """See `Register`."""
        result = {} if execution_count is None else {"execution_count": execution_count}
        _of(key, holder=holder).update(held_until=None, used_at=timezone.now(), **result)

    @sync_to_async
    def assign(self, key: Key, holder: str, era: int, kernel: str) -> bool:
        """See `Register`."""
        rows = _of(key, holder=holder, era=era, kernel="")
        return bool(rows.update(kernel=kernel, execution_count=None, used_at=timezone.now()))

    @sync_to_async
    def forget(self, key: Key, kernel: str) -> bool:
        """See `Register`."""
        return bool(_of(key, kernel=kernel).update(kernel="", execution_count=None))

    @sync_to_async
    def end_era(self, key: Key) -> Entry | None:
        """See `Register`."""
        with transaction.atomic():
            row = _of(key).select_for_update().first()
            if row is None:
                return None
            _of(key).update(era=F("era") + 1, kernel="", execution_count=None)
        return _entry(row)

    @sync_to_async
    def do_not_wait(self, key: Key) -> None:
        """See `Register`."""
        _of(key, kernel="").update(interrupts=F("interrupts") + 1)

    @sync_to_async
    def number(self, owner: str | None = None) -> int:
        """See `Register`."""
        rows = KernelElsewhere.objects.filter(~Q(kernel="") | Q(held_until__gt=timezone.now()))
        return rows.count() if owner is None else rows.filter(owner=owner).count()

    @sync_to_async
    def idle(self, seconds: float) -> list[Entry]:
        """See `Register`."""
        now = timezone.now()
        free = Q(held_until=None) | Q(held_until__lte=now)
        since = now - timedelta(seconds=seconds)
        rows = KernelElsewhere.objects.filter(free, used_at__lte=since).exclude(kernel="")
        return [_entry(row) for row in rows]


def _of(key: Key, **what: str | int) -> QuerySet[KernelElsewhere]:
    return KernelElsewhere.objects.filter(owner=key.owner, slug=key.notebook, **what)


def _entry(row: KernelElsewhere) -> Entry:
    held = row.held_until is not None and row.held_until > timezone.now()
    return Entry(
        Key(row.owner, row.slug),
        kernel=row.kernel,
        era=row.era,
        interrupts=row.interrupts,
        execution_count=row.execution_count,
        holder=row.holder,
        held=held,
        expired=row.held_until is not None and not held,
    )
