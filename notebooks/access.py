"""Who may do what with notebooks: `ping` everybody, running code those who were given the right to."""

from __future__ import annotations

from django.contrib.auth import get_user_model
from django.http import HttpRequest
from django.utils.translation import gettext as _

from streaming.access import Caller, is_local
from streaming.problems import Problem

from . import conf

RUN_CODE = "notebooks.run_code"


def account_of(caller: Caller) -> str:
    """The primary key of the caller's account. Raises `Problem` 401 for everybody who has none."""
    if caller.account is None:
        raise Problem(
            401, "not_authenticated", _("Notebooks belong to somebody: sign in, or send an API key.")
        )
    return caller.account


async def require_runner(request: HttpRequest, caller: Caller) -> str:
    """`account_of` a caller who may run code here. Raises `Problem` 401, and 403 where kernels are off or the
    permission is missing."""
    account = account_of(caller)
    policy = conf.kernels_enabled()
    if policy == "false":
        raise Problem(403, "kernels_disabled", _("Nobody can run code on this server (KERNELS_ENABLED)."))
    if policy == "loopback" and not is_local(request, caller.address):
        detail = _("Code can be run from the server's own machine only (KERNELS_ENABLED).")
        raise Problem(403, "kernels_disabled", detail)
    if not await may_run(account):
        raise Problem(403, "permission_denied", _("Running code needs the permission %s.") % RUN_CODE)
    return account


async def may_run(account: str) -> bool:
    """Whether the account may run code, as the database has it now."""
    user = await get_user_model().objects.filter(pk=account, is_active=True).afirst()
    return user is not None and await user.ahas_perm(RUN_CODE)
