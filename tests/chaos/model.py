"""What the fake model service writes in these rounds: numbered tokens, each call of it counted."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from typing import Final

from tests.support.upstream import Answer, ModelService, behaviour, chunk

from .checker import Call

MODEL: Final = "numbered"

_ORDER: Final = re.compile(r"numbers (\S+): (\d+) each (\S+) s, cut after (-?\d+)")

_PREFIX: Final = "numbered "


def order(call: Call) -> str:
    """The topic that makes the model write the text of `call`."""
    cut = -1 if call.fails_after is None else call.fails_after
    return f"numbers {call.name}: {call.tokens} each {call.interval} s, cut after {cut}"


def calls(service: ModelService) -> Counter[str]:
    """How often it was asked, by the name of the call."""
    return Counter(
        {name.removeprefix(_PREFIX): n for name, n in service.tries.items() if name.startswith(_PREFIX)}
    )


@behaviour(MODEL)
async def _numbered(answer: Answer) -> None:
    asked = _ORDER.search(str(answer.request.body["messages"][-1]["content"]))
    assert asked is not None
    name, tokens, interval, cut = asked[1], int(asked[2]), float(asked[3]), int(asked[4])
    key = _PREFIX + name
    answer.service.tries[key] = answer.service.tries.get(key, 0) + 1
    await answer.head()
    loop = asyncio.get_running_loop()
    begun = loop.time()
    for number in range(tokens):
        if number == cut:
            answer.cut()
            return
        await asyncio.sleep(begun + number * interval - loop.time())
        await answer.event(chunk({"content": f"{name}.{number} "}))
    await answer.event(chunk({}, "stop"))
    await answer.event("[DONE]")
    await answer.end()
