"""The numbers of several processes as those of one service."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, Final

from .neighbours import others_than

_LONGEST: Final = ("oldest_wait_seconds", "loop_lag_seconds", "late_seconds")
_LONGEST_BY_CLASS: Final = "oldest_wait_by_class"
_MEAN: Final = "mean_service_seconds"


def last_told() -> dict[str, Any]:
    """The numbers of all processes together, and in `processes` of each, as they told with their last beat: a
    second old. For who runs no tasks; `Service.statistics_of_all` knows its own process to the moment. Empty
    but for `processes` where none lives. Synchronous."""
    told = [each for each in others_than("") if each["statistics"] is not None]
    return {**of_all([each["statistics"] for each in told]), "processes": told}


def summed(each: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts add up, name by name at every depth, and so do the sizes of pools; the oldest wait is the
    longest, of each class too, and so is the lag; the mean is that of the processes that have one; something
    is so if it is so everywhere."""
    names = dict.fromkeys(name for numbers in each for name in numbers)
    return {name: _summed(name, [numbers[name] for numbers in each if name in numbers]) for name in names}


def _summed(name: str, values: list[Any]) -> Any:
    if name == _LONGEST_BY_CLASS:
        return {key: max(each.get(key, 0.0) for each in values) for key in sorted({*chain(*values)})}
    if isinstance(values[0], dict):
        return summed(values)
    if isinstance(values[0], bool):
        return all(values)
    known = [value for value in values if value is not None]
    if name in _LONGEST:
        return max(known)
    if name == _MEAN:
        return sum(known) / len(known) if known else None
    return sum(known)


def of_all(each: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The numbers of several processes as those of one. What they share each of them tells, and it is counted
    once: the line, and its places."""
    shared: dict[str, Any] = next((one["shared"] for one in each if one.get("shared")), {})
    whole = summed([{name: each for name, each in numbers.items() if name != "shared"} for numbers in each])
    for name, line in shared.items():
        if name in whole.get("pools", {}):
            whole["pools"][name] = _with_line(whole["pools"][name], line)
    return whole


def _with_line(pool: dict[str, Any], line: dict[str, Any]) -> dict[str, Any]:
    """A pool, of which each process counts what runs there, and the line of all: who waits in a process of
    its own is in that, too, but not whether it can be served."""
    longest = [{_LONGEST_BY_CLASS: each[_LONGEST_BY_CLASS]} for each in (pool, line)]
    return {
        **pool,
        **summed(longest),
        "waiting": line["waiting"],
        "waiting_by_class": line["waiting_by_class"],
        "away": pool["away"] + line["away"],
        "queue_size": line["queue_size"],
        "oldest_wait_seconds": max(pool["oldest_wait_seconds"], line["oldest_wait_seconds"]),
    }
