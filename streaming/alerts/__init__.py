"""Alerts: rules that the processes of a database look at in turn; told once, by log, mail and webhook.

`measuring` reads numbers, `streaming.core.alerts` decides, `rounds` lets one process at a time do so and
keeps what was decided, `notices` tells of it through `channels`, `watch` does all this in a server's thread.
"""

from .rounds import open_alerts, report

__all__ = ["open_alerts", "report"]
