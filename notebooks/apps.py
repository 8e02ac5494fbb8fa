"""The Django app."""

from typing import Any

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _

from streaming.signals import serving, starting, stopping

from . import conf


class NotebooksConfig(AppConfig):
    """Notebook cells, run by IPython kernels."""

    name = "notebooks"
    verbose_name = _("Notebooks")

    def ready(self) -> None:
        """Register the system checks; take part in a server's start and end."""
        from . import checks, engine  # noqa: F401 (engine: its metric)

        serving.connect(_announce, dispatch_uid="notebooks")
        starting.connect(_warm, dispatch_uid="notebooks")
        stopping.connect(_close, dispatch_uid="notebooks")


def _announce(sender: Any, *, url: str, **kwargs: Any) -> list[str]:
    from django.urls import NoReverseMatch, reverse

    try:
        place = reverse("notebooks")
    except NoReverseMatch:
        return []
    if not conf.has_kernels():
        return []
    sandbox = "in a sandbox" if conf.limits().sandbox else "with the rights of the user of this server"
    whence = " from this machine" if conf.kernels_enabled() == "loopback" else ""
    return [f"Notebooks: {url}{place}", f"  Who has the permission runs code here{whence}, {sandbox}."]


async def _warm(**kwargs: Any) -> None:
    if conf.has_kernels():
        from .engine import kernels

        kernels().warm_up()


async def _close(**kwargs: Any) -> None:
    if conf.has_kernels():
        from .engine import close_kernels

        await close_kernels()
