"""The admin: what ran, how it went, why it went that way; keys; and what to do about tasks.

`theme` alone knows whether django-unfold is installed; everything here works with Django's own admin, too.
"""

from .alerts import AlertAdmin
from .keys import ApiKeyAdmin
from .refusals import RefusalAdmin
from .statistics import StatisticsAdmin
from .tasks import StreamTaskAdmin

__all__ = ["AlertAdmin", "ApiKeyAdmin", "RefusalAdmin", "StatisticsAdmin", "StreamTaskAdmin"]
