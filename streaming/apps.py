"""The Django app."""

import codecs
from typing import Final

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _

CODECS: Final = ("unicode_escape", "idna")
"""What Django takes for the line of a refusal in the log, and a connection for the name of its host."""


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

        for name in CODECS:
            # Python reads them from a file when first asked, and a process may have no file left then.
            codecs.lookup(name)
        starting.connect(begin)
        revocation.connect()
