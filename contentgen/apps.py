"""The Django app."""

from typing import Any

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _

from streaming.signals import serving, starting, stopping

from . import conf


class ContentgenConfig(AppConfig):
    """Text from briefs."""

    name = "contentgen"
    verbose_name = _("Content")

    def ready(self) -> None:
        """Register the producer and the system checks; take part in a server's start and end."""
        from . import checks, code, metrics, producers  # noqa: F401

        serving.connect(_announce, dispatch_uid="contentgen")
        starting.connect(_warm, dispatch_uid="contentgen")
        stopping.connect(_close, dispatch_uid="contentgen")


def _announce(sender: Any, *, url: str, **kwargs: Any) -> list[str]:
    from .announcement import first_call, who_writes

    return [*first_call(url), who_writes()]


async def _warm(**kwargs: Any) -> None:
    # The client takes a quarter second to import, so who has no service does without.
    if conf.service() is not None:
        from .upstream import warm

        warm()


async def _close(**kwargs: Any) -> None:
    if conf.service() is not None:
        from .upstream import close_upstream

        await close_upstream()
