"""The Django app."""

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class StreamingConfig(AppConfig):
    """Streams of generated content: records, admin, checks, commands."""

    name = "streaming"
    verbose_name = _("Streams")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the system checks; have the service begin with its process, and revocations noticed."""
        from . import checks, exposure, installation, revocation, sharing_checks  # noqa: F401
        from .service import begin
        from .signals import starting

        starting.connect(begin)
        revocation.connect()
