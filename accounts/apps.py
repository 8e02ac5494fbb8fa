"""The Django app."""

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class AccountsConfig(AppConfig):
    """Sign-in for people."""

    name = "accounts"
    verbose_name = _("Sign-in")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Listen for the start of a server."""
        from streaming.signals import serving

        from .receivers import announce

        serving.connect(announce, dispatch_uid="accounts.announce")
