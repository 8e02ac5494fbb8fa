"""How an alert reaches people: a mail, or a POST of JSON. Each blocks for a bounded time, and raises
`Undelivered` with words that hold no secret.

The webhook's address is the operator's own, out of the environment, and no caller has a say in it. So it may
be on this machine or in a private network, where most receivers are; but redirects are not followed, since
they would let a stranger choose the address. It may hold a secret (chat services give such addresses), so
neither we nor the HTTP client's logger ever write it down.
"""

from __future__ import annotations

import asyncio
import logging
import smtplib
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final

import httpx2
from django.conf import settings
from django.core import mail
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import gettext as _

from streaming import conf
from streaming.core.alerts import Change
from streaming.models import Alert

from .words import ending, quantity


class Undelivered(Exception):
    """It did not arrive; says why, without an address."""


def in_use() -> list[str]:
    """The channels that the settings have a receiver for."""
    config = conf.alerting()
    found = [EMAIL] if config.emails or settings.ADMINS else []
    return [*found, WEBHOOK] if config.webhook_url else found


# Mail


def send_email(alert: Alert, change: Change) -> None:
    """To ALERT_EMAILS, else to ADMINS."""
    title = _("Resolved: %(rule)s") if change is Change.RESOLVED else _("Alert: %(rule)s")
    # A name with a line break would be a header of its own.
    subject = " ".join((title % {"rule": alert.rule}).split())
    try:
        _send(subject, _body(alert, change))
    except smtplib.SMTPResponseException as error:
        raise Undelivered(f"the mail server answered {error.smtp_code}") from error
    except TimeoutError as error:
        raise Undelivered("the mail server did not answer in time") from error
    except (OSError, smtplib.SMTPException) as error:
        raise Undelivered(f"the mail server cannot be used ({type(error).__name__})") from error


def _send(subject: str, body: str) -> None:
    emails = conf.alerting().emails
    if emails:
        message = mail.EmailMessage(
            f"{settings.EMAIL_SUBJECT_PREFIX}{subject}", body, settings.SERVER_EMAIL, emails
        )
        message.send()
    else:
        mail.mail_admins(subject, body)


def _body(alert: Alert, change: Change) -> str:
    over = change is Change.RESOLVED
    lines = [
        ending(alert) if over else alert.sentence,
        "",
        _("Severity: %s") % alert.get_severity_display(),
        _("Since: %s") % _moment(alert.raised_at),
    ]
    if over:
        lines.append(_("Until: %s") % _moment(alert.resolved_at))
        if alert.last is not None:
            lines.append(_("Value at the end: %s") % quantity(alert.kind, alert.last))
        lines += ["", _("What was told when it was raised: %s") % alert.sentence]
    return "\n".join(lines) + "\n"


def _moment(at: Any) -> str:
    local = timezone.localtime(at)
    return f"{date_format(local, 'SHORT_DATE_FORMAT')} {local:%H:%M:%S %Z}"


# Webhook


def send_webhook(alert: Alert, change: Change) -> None:
    """To ALERT_WEBHOOK_URL; an answer of 200 to 299 means that it has arrived."""
    config = conf.alerting()
    token = _telling.set(True)
    try:
        status = asyncio.run(_post(config.webhook_url, document(alert, change), config.timeout))
    except TimeoutError as error:
        raise Undelivered(f"no answer within {config.timeout:g} s") from error
    except httpx2.ConnectError as error:
        raise Undelivered("no connection") from error
    except httpx2.HTTPError as error:
        raise Undelivered(f"no answer ({type(error).__name__})") from error
    finally:
        _telling.reset(token)
    if not 200 <= status < 300:
        raise Undelivered(f"answered {status}")


async def _post(url: str, body: dict[str, Any], seconds: float) -> int:
    async with (
        asyncio.timeout(seconds),
        httpx2.AsyncClient(timeout=None, follow_redirects=False) as client,
        # Nobody reads what it says.
        client.stream("POST", url, json=body, headers={"User-Agent": "Sluice"}) as response,
    ):
        return response.status_code


def document(alert: Alert, change: Change) -> dict[str, Any]:
    """What is posted. `text` is what chat services show."""
    over = change is Change.RESOLVED
    if over:
        sentence, value = ending(alert), alert.last
        text = _("Resolved: %(rule)s. %(sentence)s") % {"rule": alert.rule, "sentence": sentence}
    else:
        sentence, value = alert.sentence, alert.value
        text = _("Alert: %s") % sentence
    return {
        "text": text,
        "event": change.value,
        "id": alert.pk,
        "rule": alert.rule,
        "kind": alert.kind,
        "severity": alert.severity,
        "sentence": sentence,
        "value": value,
        "worst": alert.worst,
        "threshold": alert.threshold,
        "raised_at": alert.raised_at.isoformat(),
        "resolved_at": alert.resolved_at.isoformat() if over and alert.resolved_at else None,
    }


_telling: ContextVar[bool] = ContextVar("_telling", default=False)


class _WithoutAddress(logging.Filter):
    """Nothing while a webhook is called: the client's lines hold the whole address."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not _telling.get()


logging.getLogger("httpx2").addFilter(_WithoutAddress())

EMAIL: Final = "email"
WEBHOOK: Final = "webhook"

CHANNELS: Final[dict[str, Callable[[Alert, Change], None]]] = {EMAIL: send_email, WEBHOOK: send_webhook}
