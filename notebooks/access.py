"""Who may do what with notebooks: `ping` everybody, running code those who were given the right to."""

from __future__ import annotations

from django.contrib.auth import get_user_model
from django.http import HttpRequest
from django.utils.translation import gettext as _

from streaming.access import Caller, identify
from streaming.problems import Problem

from . import conf

RUN_CODE = "notebooks.run_code"


async def user_of(request: HttpRequest) -> str:
    """The primary key of the caller's account. Raises `Problem` 401 for everybody who has none."""
    caller = await identify(request)
    return _account(caller)


async def runner_of(request: HttpRequest) -> str:
    """The same, of a caller who may run code here. Raises `Problem` 401, and 403 where kernels are off or the
    permission is missing."""
    account = await user_of(request)
    await require_runner(account)
    return account


async def require_runner(account: str) -> None:
    """Raises `Problem` 403 for an account that may not run code here."""
    if not conf.kernels_enabled():
        raise Problem(403, "kernels_disabled", _("Nobody can run code on this server (KERNELS_ENABLED)."))
    user = await get_user_model().objects.filter(pk=account, is_active=True).afirst()
    if user is None or not await user.ahas_perm(RUN_CODE):
        raise Problem(
            403, "permission_denied", _("Running code needs the permission %s.") % RUN_CODE
        )


def _account(caller: Caller) -> str:
    if caller.account is None:
        raise Problem(401, "not_authenticated", _("Notebooks belong to somebody: sign in, or send an API key."))
    return caller.account
