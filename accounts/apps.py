"""The Django app."""

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class AccountsConfig(AppConfig):
    """Sign-in for people."""

    name = "accounts"
    verbose_name = _("Sign-in")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Listen for the start of a server, and for sign-ins that fail."""
        from django.contrib.auth.signals import user_login_failed

        from streaming.signals import serving

        from .doors import note_failure
        from .receivers import announce

        serving.connect(announce, dispatch_uid="accounts.announce")
        user_login_failed.connect(note_failure, dispatch_uid="accounts.note_failure")
