"""The Django app."""

from typing import Any

from django.apps import AppConfig
from django.core.management.base import CommandError
from django.utils.translation import gettext_lazy as _

from streaming.signals import preparing, serving, starting, stopping

from . import conf


class NotebooksConfig(AppConfig):
    """Notebook cells, run by IPython kernels."""

    name = "notebooks"
    verbose_name = _("Notebooks")

    def ready(self) -> None:
        """Register the system checks; take part in a server's start and end."""
        from streaming.standing import require_right

        from . import checks, engine  # noqa: F401 (engine: its metric)
        from .access import may_run
        from .work import RUN_BY_RIGHT, kind_of

        for operation in RUN_BY_RIGHT:
            require_right(kind_of(operation), may_run)
        preparing.connect(_refuse, dispatch_uid="notebooks")
        serving.connect(_announce, dispatch_uid="notebooks")
        starting.connect(_warm, dispatch_uid="notebooks")
        stopping.connect(_close, dispatch_uid="notebooks")


def _refuse(sender: Any, *, workers: int, **kwargs: Any) -> None:
    if workers > 1 and conf.has_kernels() and not conf.gateway().url:
        raise CommandError(
            f"kernels are on and --workers is {workers}: a kernel belongs to one process, and the next call "
            "for its notebook may come to another. Serve with one worker, let kernels run on a Jupyter "
            "server (KERNEL_GATEWAY_URL), or set KERNELS_ENABLED=false."
        )


def _announce(sender: Any, *, url: str, **kwargs: Any) -> list[str]:
    from django.urls import NoReverseMatch, reverse

    try:
        place = reverse("notebooks")
    except NoReverseMatch:
        return []
    if not conf.has_kernels():
        return []
    if conf.gateway().url:
        sandbox = "on the Jupyter server of KERNEL_GATEWAY_URL"
    elif conf.limits().sandbox:
        sandbox = "in a sandbox"
    else:
        sandbox = "with the rights of the user of this server"
    whence = " from this machine" if conf.kernels_enabled() == "loopback" else ""
    return [f"Notebooks: {url}{place}", f"  Who has the permission runs code here{whence}, {sandbox}."]


async def _warm(*, http: bool, **kwargs: Any) -> None:
    # A kernel belongs to the process that takes the calls for its notebook.
    if http and conf.has_kernels():
        from .engine import kernels
        from .kernels.keeper import hide_from_equals

        if not conf.limits().sandbox and not conf.gateway().url:
            hide_from_equals()
        kernels().warm_up()


async def _close(**kwargs: Any) -> None:
    if conf.has_kernels():
        from .engine import close_kernels

        await close_kernels()
