"""Tells a Chinese brief from any other."""

from __future__ import annotations

import re
from typing import Final, Literal

_IDEOGRAPH_SHARE: Final = 0.2
_IDEOGRAPHS: Final = re.compile("[\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\U00020000-\U000323af]")
_KANA: Final = re.compile("[\u3040-\u30ff\uff66-\uff9d]")


def detect(*texts: str) -> Literal["zh", "en"]:
    """``"zh"`` if at least a fifth of the letters of ``texts`` taken together are ideographs, else ``"en"``.

    Ideographs weigh more than their number, hence the low share: ``iPhone 手机测评`` is Chinese. Where kana
    outnumber the ideographs the text is Japanese and counts as ``"en"``, as does one without letters.
    """
    text = "".join(texts)
    if text.isascii():
        return "en"
    letters = "".join(filter(str.isalpha, text))
    ideographs = len(_IDEOGRAPHS.findall(letters))
    enough = ideographs > 0 and ideographs >= len(letters) * _IDEOGRAPH_SHARE
    return "zh" if enough and len(_KANA.findall(letters)) <= ideographs else "en"
