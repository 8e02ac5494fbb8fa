"""The Django app."""

from typing import Any

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _

from streaming.signals import starting, stopping

from . import conf


class NotebooksConfig(AppConfig):
    """Notebook cells, run by IPython kernels."""

    name = "notebooks"
    verbose_name = _("Notebooks")

    def ready(self) -> None:
        """Register the system checks; take part in a server's start and end."""
        from . import checks  # noqa: F401

        starting.connect(_warm, dispatch_uid="notebooks")
        stopping.connect(_close, dispatch_uid="notebooks")


async def _warm(**kwargs: Any) -> None:
    if conf.kernels_enabled():
        from .engine import kernels

        kernels().warm_up()


async def _close(**kwargs: Any) -> None:
    if conf.kernels_enabled():
        from .engine import close_kernels

        await close_kernels()
