"""The Django app."""

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class ContentgenConfig(AppConfig):
    """Text from briefs."""

    name = "contentgen"
    verbose_name = _("Content")

    def ready(self) -> None:
        """Register the producer and the system checks."""
        from . import checks, producers  # noqa: F401
