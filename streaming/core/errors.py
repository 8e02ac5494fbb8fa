"""One tree of errors; each leaf says whose fault it is and whether trying again can help.

Two families: a `StreamError` ends or refuses a task and has a stable `code` (the `code` of an `error`
event or of a problem response); everything a producer raises that is not one of these is a fault of
ours or of the producer and becomes `producer_failed`.
"""

from __future__ import annotations

from typing import ClassVar


class StreamError(Exception):
    """Base of everything that Sluice raises on purpose.

    `code` is stable and public. `retryable` tells a program whether the same call may succeed later.
    The exception's own text is for logs; people are shown a localised message chosen by `code`.
    """

    code: ClassVar[str] = "stream_error"
    retryable: ClassVar[bool] = False


class GenerationError(StreamError):
    """The task failed after it was accepted. Producers raise its subclasses.

    `detail`: foreign words, such as those of a service that refused, which may repeat what people asked. They
    are in no log.
    """

    code = "producer_failed"

    def __init__(self, *args: object, detail: str = "") -> None:
        super().__init__(*args)
        self.detail = detail


class ProducerFailed(GenerationError):
    """The producer raised something that nobody foresaw."""


class Interrupted(GenerationError):
    """The process that ran the task stopped."""

    code = "interrupted"
    retryable = True


class QueueTimeout(GenerationError):
    """No permit became free within `queue_timeout`."""

    code = "queue_timeout"
    retryable = True


class RunTimeout(GenerationError):
    """The producer did not end within `run_timeout`."""

    code = "run_timeout"


class UpstreamError(GenerationError):
    """The service that the producer calls failed."""

    code = "upstream_failed"
    retryable = True


class UpstreamAuthFailed(UpstreamError):
    """Our credentials were refused upstream: an operator must act."""

    code = "upstream_auth"
    retryable = False


class UpstreamRateLimited(UpstreamError):
    """Upstream asks us to slow down."""

    code = "upstream_rate_limited"


class UpstreamRejected(UpstreamError):
    """Upstream understood the request and will not do it: an unknown model, a text that is too long."""

    code = "upstream_rejected"
    retryable = False


class UpstreamTimeout(UpstreamError):
    """Upstream did not answer, or stopped answering, in time."""

    code = "upstream_timeout"


class UpstreamTruncated(UpstreamError):
    """Upstream's answer ended without its end mark."""

    code = "upstream_truncated"


class StorageFull(GenerationError):
    """The journal cannot take more events."""

    code = "storage_full"
    retryable = True


class KernelDied(GenerationError):
    """The kernel process behind a notebook is gone."""

    code = "kernel_died"
    retryable = True


class KernelStopped(GenerationError):
    """Somebody shut the kernel down, or began with a new one."""

    code = "kernel_stopped"


class KernelNotStarted(GenerationError):
    """The kernel behind a notebook did not become ready."""

    code = "kernel_not_started"
    retryable = True


class TooManyKernels(GenerationError):
    """`max_kernels` kernels run, or `per_owner` of this user."""

    code = "too_many_kernels"
    retryable = True


class Refused(StreamError):
    """The task was not accepted; nothing was started."""

    code = "refused"
    retryable = True


class CursorError(StreamError):
    """The position that a reader asked for cannot be served."""


class BadCursor(CursorError):
    """Not an event id at all."""

    code = "bad_event_id"


class CursorAhead(CursorError):
    """An id that no event of this task has had yet."""

    code = "ahead_of_stream"


class EventsPruned(CursorError):
    """The task is known, its events are no longer kept."""

    code = "events_pruned"


class TaskNotFound(StreamError):
    """No such task, or not the caller's."""

    code = "not_found"


class AccessRevoked(StreamError):
    """Whoever reads or waits may do so no more: the key was revoked, the session has ended, the user may not
    sign in, or a permission was withdrawn. The task itself does not end by it."""

    code = "access_revoked"


class NotPermitted(StreamError):
    """The task is the caller's, but reading tasks of its kind needs a permission that is missing."""

    code = "permission_denied"


class NotFinished(StreamError):
    """What was asked for exists only once the task has ended."""

    code = "not_finished"
    retryable = True


class StorageUnavailable(StreamError):
    """The database did not answer in time; nothing was promised."""

    code = "storage_unavailable"
    retryable = True


class RedisAway(StorageUnavailable):
    """The Redis that processes share did not answer in time, or cannot write; nothing was promised."""

    code = "redis_unavailable"


class RedisFull(RedisAway):
    """Redis has no memory left for what was to be written; clients are told `storage_full`."""

    code = "redis_full"


class KeyReused(StreamError):
    """The Idempotency-Key stands for another call already."""

    code = "idempotency_key_reused"


class NotNow(StreamError):
    """A reader cannot be served here at the moment, and shall come back."""


class TooManyFollowers(NotNow):
    """`max_followers` readers follow this task already."""

    code = "too_many_followers"
    retryable = True


class Draining(NotNow):
    """The task belongs to another process, and this one is going down."""

    code = "draining"
    retryable = True


def generation_errors() -> tuple[type[GenerationError], ...]:
    """All errors that may end a task, each code once, in the order of definition."""
    found: list[type[GenerationError]] = []
    seen: set[str] = set()

    def visit(kind: type[GenerationError]) -> None:
        if kind.code not in seen:
            seen.add(kind.code)
            found.append(kind)
        for child in kind.__subclasses__():
            visit(child)

    visit(GenerationError)
    return tuple(found)
