"""The numbers that bound streams, and what happened to them since the process started."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from streaming.core.coalescer import Coalescer

RETRY_JITTER: Final = 0.5
"""Share by which the reconnect delay varies, so that many readers do not come back at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLimits:
    """The settings of streams (SSE_CONFIG, BUFFER_CONFIG, CLUSTER_CONFIG). Seconds, bytes, counts.

    `restarts`: whether a task whose process goes begins anew although readers have some of it;
    `max_attempts`: how often it may begin in all.
    """

    heartbeat_interval: float
    connection_timeout: float
    cleanup_interval: float
    status_interval: float
    retry: float
    replay_ttl: float
    max_journal_bytes: int
    journal_memory: int
    max_followers: int
    flush_chars: int
    flush_interval: float
    buffer_size: int
    max_flush_interval: float
    restarts: bool = False
    max_attempts: int = 3

    def jittered_retry(self) -> float:
        """Seconds that a reader who is sent away shall wait before it comes back."""
        return self.retry * (1 + random.uniform(0, RETRY_JITTER))  # noqa: S311 (no secret)

    def coalescer(self, *, joining: bool = True, eager: bool = False) -> Coalescer:
        """The buffer of one stream; without `joining` each piece stays as it is. `eager`: see `Coalescer`."""
        return Coalescer(
            flush_chars=self.flush_chars if joining else 0,
            flush_interval=self.flush_interval,
            buffer_size=self.buffer_size,
            max_flush_interval=self.max_flush_interval,
            eager=eager,
        )


@dataclass(slots=True)
class Counters:
    """What happened since the process started; every bound of `StreamLimits` that was hit is in here."""

    routes: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    status_messages: int = 0
    slow_readers_closed: int = 0
    readers_revoked: int = 0
    late_commits: int = 0
    evicted_journals: int = 0
    trimmed_journals: int = 0
