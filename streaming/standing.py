"""What an open stream rests on: a credential that goes on speaking for its account, and for some kinds of
tasks a permission of that account. Each can be asked again (see `rechecks`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from .identities import Credential, Identity

Ask = Callable[[float], Awaitable[Identity | None]]
"""Whom a credential speaks for now, as it was at most so many seconds ago; None: for nobody. May raise what
the database raises."""

Holds = Callable[[str], Awaitable[bool]]
"""Whether the account, the primary key of a user as text, has a right now. May raise what the database
raises."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What must go on holding. `name`: what it is, so that all who rest on the same are asked about once;
    `generation`: that of `IDENTITIES` before it was found to hold; `needs`: the scopes that this reader
    cannot do without, None: all that the credential had."""

    name: Credential
    identity: Identity
    generation: int
    ask: Ask
    needs: frozenset[str] | None = None

    async def holds(self, max_age: float) -> bool:
        """Whether it still does, as it was at most `max_age` seconds ago. Raises what `ask` raises."""
        return self.holds_for(await self.ask(max_age))

    def holds_for(self, now: Identity | None) -> bool:
        """Whether it does where `ask` has answered so."""
        return now is not None and now.account == self.identity.account and self._covered_by(now)

    def _covered_by(self, now: Identity) -> bool:
        if now.scopes is None:
            return True
        needs = self.identity.scopes if self.needs is None else self.needs
        return needs is not None and now.scopes.issuperset(needs)


_rights: Final[dict[str, Holds]] = {}


def require_right(kind: str, holds: Holds) -> None:
    """Tasks of this kind are read, and run, only as long as their owner has a right beside signing in.

    Who loses it is cut off, is not let in again, and such tasks of theirs are cancelled. What `holds` knows
    of users that changes without `User.save()`, `delete()` or a change of permissions and groups is noticed
    within ACCESS_CONFIG's `recheck_interval`.
    """
    _rights[kind] = holds


def right_of(kind: str) -> Holds | None:
    """What `require_right` was told about the kind."""
    return _rights.get(kind)


def right_standing(kind: str, account: str, holds: Holds, generation: int) -> Standing:
    """The right of an account to tasks of a kind, which it had at `generation`."""
    identity = Identity(account, staff=False)
    return Standing(("right", kind, account), identity, generation, partial(_holder, identity, holds))


async def _holder(identity: Identity, holds: Holds, max_age: float) -> Identity | None:
    return identity if await holds(identity.account) else None
