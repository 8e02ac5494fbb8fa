"""The script of the scripted provider, as a part of the brief."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class ScriptedOptions(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """The script. Token k is `k` and a space (k from 0), or, with `text`, its k-th grapheme cluster.

    `interval`, `start_delay`: seconds. `burn`: milliseconds of pure Python per token. `blocking`: a sync
    generator that really sleeps in its thread. `fail_after`, `hang_after`: tokens before it fails or
    falls silent. `start_at`: Unix seconds from which due times count, instead of the moment it begins.
    `step`: suspends once before each token that needs not wait.
    """

    tokens: Annotated[int, Meta(ge=0, le=10_000_000)] = 200
    interval: Annotated[float, Meta(ge=0, le=3_600)] = 0.02
    start_delay: Annotated[float, Meta(ge=0, le=3_600)] = 0
    text: Annotated[str, Meta(max_length=1_000_000)] | None = None
    blocking: bool = False
    burn: Annotated[float, Meta(ge=0, le=10_000)] = 0
    fail_after: Annotated[int, Meta(ge=0)] | None = None
    hang_after: Annotated[int, Meta(ge=0)] | None = None
    start_at: Annotated[float, Meta(ge=0, le=4_294_967_295)] | None = None
    step: bool = False
