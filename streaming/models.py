"""What is kept: one row per task, what is counted of them, and how often tasks were refused."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from streaming.core.states import State

from .scopes import ALL, text_of


class StreamTask(models.Model):
    """The record of one generation, written behind while it runs and complete once it has ended."""

    class Status(models.TextChoices):
        """The states of `streaming.core.states`, for people."""

        QUEUED = State.QUEUED, _("waiting")
        RUNNING = State.RUNNING, _("running")
        COMPLETE = State.COMPLETE, _("complete")
        ERROR = State.ERROR, _("failed")
        CANCELLED = State.CANCELLED, _("cancelled")

    class Counted(models.IntegerChoices):
        """How much of a task the rollups have; nothing where the column is empty."""

        ACCEPTED = 1
        ENDED = 2

    id = models.CharField(_("task id"), max_length=32, primary_key=True, help_text=_("32 hex digits"))
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        verbose_name=_("owner"),
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        related_name="+",
        help_text=_("The signed-in caller; empty for an anonymous one."),
    )
    end_user = models.CharField(
        _("end user"), max_length=255, blank=True, help_text=_("On whose behalf the caller acts.")
    )
    kind = models.CharField(_("kind"), max_length=64)
    pool = models.CharField(_("pool"), max_length=64)
    priority = models.PositiveSmallIntegerField(_("priority class"), help_text=_("0 is the highest."))
    state = models.CharField(_("state"), max_length=10, choices=Status.choices)
    route = models.CharField(_("route"), max_length=10)
    reason = models.CharField(_("reason of the route"), max_length=32)
    snapshot = models.JSONField(_("load at the decision"), default=dict)
    arguments = models.JSONField(_("arguments"), null=True, blank=True)
    language = models.CharField(_("language"), max_length=16, blank=True)
    created_at = models.DateTimeField(_("accepted"))
    started_at = models.DateTimeField(_("started"), null=True, blank=True)
    finished_at = models.DateTimeField(_("finished"), null=True, blank=True)
    queued_ms = models.FloatField(_("queued, ms"), null=True, blank=True)
    first_content_ms = models.FloatField(_("first content, ms"), null=True, blank=True)
    total_ms = models.FloatField(_("total, ms"), null=True, blank=True)
    last_event_id = models.PositiveBigIntegerField(_("last event id"), default=0)
    chunks = models.PositiveIntegerField(_("content events"), default=0)
    content_length = models.PositiveIntegerField(_("code points"), default=0)
    status_messages = models.PositiveIntegerField(_("status messages"), default=0)
    resumes = models.PositiveIntegerField(_("resumes"), default=0)
    timing = models.JSONField(_("timing"), null=True, blank=True)
    finish_reason = models.CharField(_("finish reason"), max_length=32, blank=True)
    model = models.CharField(_("model"), max_length=128, blank=True)
    usage = models.JSONField(_("usage"), null=True, blank=True)
    error_code = models.CharField(_("error code"), max_length=32, blank=True)
    error_message = models.TextField(_("error message"), blank=True)
    error_detail = models.TextField(
        _("error detail"),
        blank=True,
        default="",
        db_default="",
        help_text=_("What the service said that failed; nobody else is told."),
    )
    cancel_reason = models.CharField(_("cancelled by"), max_length=16, blank=True)
    text = models.TextField(_("text"), blank=True)
    process = models.CharField(
        _("process"), max_length=32, blank=True, help_text=_("Which process runs it, or ran it last.")
    )
    epoch = models.PositiveIntegerField(
        _("epoch"), default=1, help_text=_("Rises when another process takes the task over.")
    )
    attempts = models.SmallIntegerField(
        _("attempts"), default=0, db_default=0, help_text=_("How often a process has begun to run it.")
    )
    grace = models.FloatField(
        _("grace, s"),
        null=True,
        blank=True,
        help_text=_("How long it outlives its last reader; empty: it goes on."),
    )
    followed_at = models.DateTimeField(
        _("followed elsewhere"), null=True, blank=True, help_text=_("When another process last had a reader.")
    )
    cancel_requested = models.CharField(
        _("cancel asked for by"), max_length=16, blank=True, help_text=_("Asked of the process that runs it.")
    )
    priority_requested = models.SmallIntegerField(
        _("priority class asked for"),
        null=True,
        blank=True,
        help_text=_("Asked of the process in which it waits; empty once that has looked."),
    )
    purged_at = models.DateTimeField(_("purged"), null=True, blank=True)
    fingerprint = models.CharField(
        max_length=64, blank=True, editable=False, help_text=_("By which the same work is found again.")
    )
    counted = models.PositiveSmallIntegerField(
        null=True, editable=False, help_text=_("How much of it the statistics have.")
    )

    class Meta:
        verbose_name = _("stream task")
        verbose_name_plural = _("stream tasks")
        ordering = ("-created_at", "-id")
        indexes = (
            models.Index(fields=("-created_at", "-id"), name="streaming_task_newest"),
            models.Index(fields=("owner", "-created_at", "-id"), name="streaming_task_owner"),
            models.Index(fields=("state", "-created_at"), name="streaming_task_state"),
            models.Index(fields=("process", "state"), name="streaming_task_process"),
            models.Index(
                fields=("purged_at",),
                condition=models.Q(purged_at__isnull=False),
                name="streaming_task_purged",
            ),
            models.Index(
                fields=("fingerprint", "-finished_at"),
                condition=~models.Q(fingerprint=""),
                name="streaming_task_fingerprint",
            ),
        )
        permissions = (
            ("read_content", _("Can read prompts and texts")),
            ("cancel_streamtask", _("Can cancel tasks")),
            ("retry_streamtask", _("Can start tasks again")),
        )

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"


class Process(models.Model):
    """A process that runs tasks. Its beat rises once a second; if it stands still, the process is dead."""

    id = models.CharField(max_length=32, primary_key=True)
    machine = models.CharField(
        max_length=64, blank=True, help_text=_("Where its process number means something; empty if unknown.")
    )
    pid = models.PositiveIntegerField()
    beat = models.PositiveBigIntegerField(default=0)
    statistics = models.JSONField(null=True, blank=True)
    revocations = models.PositiveBigIntegerField(
        null=True, blank=True, help_text=_("How many it knows of; empty: it remembers nobody.")
    )
    started_at = models.DateTimeField(default=timezone.now)

    class Meta:
        verbose_name = _("process")
        verbose_name_plural = _("processes")

    def __str__(self) -> str:
        return f"{self.id[:8]} ({self.pid})"


class Segment(models.Model):
    """Some events of a task that follow each other, as they are sent: each still with its own id."""

    # The unique constraint finds a task's segments as well as an index of its own would.
    task = models.ForeignKey(StreamTask, on_delete=models.CASCADE, related_name="segments", db_index=False)
    first_id = models.PositiveBigIntegerField()
    last_id = models.PositiveBigIntegerField()
    frames = models.BinaryField()

    class Meta:
        verbose_name = _("segment of events")
        verbose_name_plural = _("segments of events")
        constraints = (models.UniqueConstraint(fields=("task", "first_id"), name="streaming_segment_once"),)

    def __str__(self) -> str:
        return f"{self.task_id} {self.first_id}-{self.last_id}"


class IdempotencyKey(models.Model):
    """A caller's key for one call: the same key again is the same task. `scope`: digest of who called what;
    `fingerprint`: digest of what was asked for."""

    scope = models.CharField(max_length=64)
    key = models.CharField(max_length=255)
    fingerprint = models.CharField(max_length=64)
    task = models.ForeignKey(StreamTask, on_delete=models.CASCADE, related_name="+")
    created_at = models.DateTimeField(default=timezone.now, db_index=True)

    class Meta:
        verbose_name = _("idempotency key")
        verbose_name_plural = _("idempotency keys")
        constraints = (models.UniqueConstraint(fields=("scope", "key"), name="streaming_key_once"),)

    def __str__(self) -> str:
        return f"{self.key} {self.task_id}"


class Refusal(models.Model):
    """How many tasks a pool refused within one minute, and why."""

    minute = models.DateTimeField(_("minute"))
    pool = models.CharField(_("pool"), max_length=64)
    reason = models.CharField(_("reason"), max_length=32)
    count = models.PositiveIntegerField(_("count"), default=0)

    class Meta:
        verbose_name = _("refusals per minute")
        verbose_name_plural = _("refusals per minute")
        ordering = ("-minute", "pool", "reason")
        constraints = (
            models.UniqueConstraint(fields=("minute", "pool", "reason"), name="streaming_refusal_once"),
        )

    def __str__(self) -> str:
        return f"{self.minute:%Y-%m-%d %H:%M} {self.pool} {self.reason}: {self.count}"


class TaskRollup(models.Model):
    """Part of what happened to the tasks of a pool and kind in one period (`streaming.core.rollup`). There
    may be several of a period: they add up."""

    start = models.DateTimeField()
    seconds = models.PositiveIntegerField(help_text=_("Length of the period."))
    pool = models.CharField(max_length=64)
    kind = models.CharField(max_length=64)
    numbers = models.TextField(help_text=_("JSON"))

    class Meta:
        verbose_name = _("counts of tasks in a period")
        verbose_name_plural = _("counts of tasks in periods")
        indexes = (models.Index(fields=("seconds", "start"), name="streaming_rollup_period"),)

    def __str__(self) -> str:
        return f"{self.start:%Y-%m-%d %H:%M} {self.seconds} s {self.pool} {self.kind}"


class Statistics(TaskRollup):
    """What was counted, as the page in the admin that shows it. Who may see tasks may see it."""

    class Meta:
        proxy = True
        default_permissions = ()
        verbose_name = _("statistics")
        verbose_name_plural = _("statistics")


class Backfill(models.Model):
    """Tasks that are still to be counted: those accepted up to `before`, and of that moment the ids below
    `before_id`, if there is one. `moment`: when this was begun; what ended since counts by itself. `anew`:
    also what has been counted already."""

    moment = models.DateTimeField()
    before = models.DateTimeField()
    before_id = models.CharField(max_length=32, blank=True)
    anew = models.BooleanField(default=False)

    class Meta:
        verbose_name = _("tasks to be counted")
        verbose_name_plural = _("tasks to be counted")

    def __str__(self) -> str:
        return f"{self.before:%Y-%m-%d %H:%M}"


class Alert(models.Model):
    """An alert from its raising to its resolving. Of each rule one is open at most: who writes that row is
    who tells of it."""

    class Severity(models.TextChoices):
        """How bad it is."""

        INFO = "info", _("info")
        WARNING = "warning", _("warning")
        CRITICAL = "critical", _("critical")

    rule = models.CharField(_("rule"), max_length=200)
    kind = models.CharField(_("kind"), max_length=32)
    severity = models.CharField(_("severity"), max_length=10, choices=Severity.choices)
    sentence = models.TextField(_("what is wrong"))
    value = models.FloatField(_("value"), help_text=_("When it was raised."))
    worst = models.FloatField(_("worst value"))
    last = models.FloatField(
        _("value now"), null=True, blank=True, help_text=_("At the last look; empty: nobody can tell.")
    )
    threshold = models.FloatField(_("threshold"))
    raised_at = models.DateTimeField(_("since"))
    resolved_at = models.DateTimeField(_("until"), null=True, blank=True)

    class Meta:
        verbose_name = _("alert")
        verbose_name_plural = _("alerts")
        ordering = ("-raised_at", "-id")
        indexes = (models.Index(fields=("-raised_at", "-id"), name="streaming_alert_newest"),)
        constraints = (
            models.UniqueConstraint(
                fields=("rule",), condition=models.Q(resolved_at=None), name="streaming_alert_open_once"
            ),
        )

    def __str__(self) -> str:
        return f"{self.rule} {self.raised_at:%Y-%m-%d %H:%M}"


class AlertNotice(models.Model):
    """That somebody is told of an alert, once of its raising and once of its resolving."""

    class State(models.TextChoices):
        """Whether it has arrived."""

        DUE = "due", _("on its way")
        SENT = "sent", _("sent")
        FAILED = "failed", _("given up")

    alert = models.ForeignKey(Alert, on_delete=models.CASCADE, related_name="notices")
    change = models.CharField(max_length=10, help_text=_("raised or resolved"))
    channel = models.CharField(max_length=10, help_text=_("email or webhook"))
    state = models.CharField(max_length=10, choices=State.choices, default=State.DUE)
    attempts = models.PositiveSmallIntegerField(default=0)
    due_at = models.DateTimeField()
    error = models.CharField(max_length=200, blank=True, help_text=_("Of the last attempt that failed."))

    class Meta:
        verbose_name = _("notice of an alert")
        verbose_name_plural = _("notices of alerts")
        indexes = (
            models.Index(fields=("due_at",), condition=models.Q(state="due"), name="streaming_notice_due"),
        )

    def __str__(self) -> str:
        return f"{self.alert_id} {self.change} {self.channel}: {self.state}"


class AlertRound(models.Model):
    """One row: when alerts were last looked at, and where each rule stands (`streaming.alerts.rounds`)."""

    at = models.DateTimeField()
    memory = models.TextField(default="{}", help_text=_("JSON"))

    class Meta:
        verbose_name = _("look at alerts")
        verbose_name_plural = _("looks at alerts")

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M:%S}"


class LostProcess(models.Model):
    """A process that ended without a word, as those noticed that took its tasks over."""

    id = models.CharField(max_length=32, primary_key=True)
    pid = models.PositiveIntegerField()
    at = models.DateTimeField(default=timezone.now)

    class Meta:
        verbose_name = _("lost process")
        verbose_name_plural = _("lost processes")

    def __str__(self) -> str:
        return f"{self.id[:8]} ({self.pid})"


class ApiKey(models.Model):
    """A key by which a program speaks for a user. The key itself is shown once and never stored."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        verbose_name=_("user"),
        on_delete=models.CASCADE,
        related_name="+",
        help_text=_("Whose streams the key starts and reads."),
    )
    name = models.CharField(
        _("name"), max_length=100, blank=True, help_text=_("What the key is for, in your own words.")
    )
    prefix = models.CharField(_("begins with"), max_length=16, editable=False)
    digest = models.CharField(_("digest"), max_length=64, unique=True, editable=False)
    # The default is that of rows from before there were scopes, whose keys were for everything.
    scopes = models.CharField(
        _("scopes"),
        max_length=200,
        db_default=text_of(ALL),
        help_text=_("What the key may be used for; never for more than its user may do."),
    )
    created_at = models.DateTimeField(_("created"), default=timezone.now, editable=False)
    expires_at = models.DateTimeField(
        _("expires"), null=True, blank=True, help_text=_("When the key ends by itself; empty: never.")
    )
    last_used_at = models.DateTimeField(
        _("last used"), null=True, blank=True, editable=False, help_text=_("Exact to about a minute.")
    )
    revoked_at = models.DateTimeField(_("revoked"), null=True, blank=True, editable=False)
    replaces = models.ForeignKey(
        "self",
        verbose_name=_("replaces"),
        on_delete=models.SET_NULL,
        related_name="successors",
        null=True,
        blank=True,
        editable=False,
        help_text=_("The key whose place it took."),
    )

    class State(models.TextChoices):
        """Whether it speaks for its user."""

        VALID = "valid", _("valid")
        EXPIRED = "expired", _("expired")
        REVOKED = "revoked", _("revoked")

    class Meta:
        verbose_name = _("API key")
        verbose_name_plural = _("API keys")
        ordering = ("-created_at", "-id")

    def __str__(self) -> str:
        return f"{self.prefix}…"

    @property
    def state(self) -> ApiKey.State:
        """Whether it speaks for its user at this moment, if that one is active."""
        if self.revoked_at is not None:
            return self.State.REVOKED
        expired = self.expires_at is not None and self.expires_at <= timezone.now()
        return self.State.EXPIRED if expired else self.State.VALID


class Ticket(models.Model):
    """What opens one stream or socket once (`streaming.access_tickets`). Its text is never stored."""

    digest = models.CharField(max_length=64, primary_key=True)
    resource = models.CharField(max_length=255)
    holder = models.CharField(
        max_length=64, help_text=_("A digest of the account, or of the address of who has none.")
    )
    credential_kind = models.CharField(max_length=10)
    credential = models.CharField(max_length=64, blank=True)
    expires_at = models.DateTimeField(db_index=True)

    class Meta:
        verbose_name = _("ticket")
        verbose_name_plural = _("tickets")
        indexes = (models.Index(fields=("holder", "expires_at"), name="streaming_ticket_holder"),)

    def __str__(self) -> str:
        return f"{self.resource} {self.expires_at:%Y-%m-%d %H:%M:%S}"


class RevocationCount(models.Model):
    """One row: how often somebody lost a right, a key or a session. Each makes processes forget who calls."""

    number = models.PositiveBigIntegerField(default=0)

    class Meta:
        verbose_name = _("number of revocations")
        verbose_name_plural = _("numbers of revocations")

    def __str__(self) -> str:
        return str(self.number)
