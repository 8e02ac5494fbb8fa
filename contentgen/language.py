"""Tells a Chinese brief from any other."""

from __future__ import annotations

from typing import Final, Literal

_IDEOGRAPH_SHARE: Final = 0.2


def detect(*texts: str) -> Literal["zh", "en"]:
    """``"zh"`` if at least a fifth of the letters of ``texts`` taken together are ideographs, else ``"en"``.

    Ideographs weigh more than their number, hence the low share: ``iPhone 手机测评`` is Chinese. Where kana
    outnumber the ideographs the text is Japanese and counts as ``"en"``, as does one without letters.
    """
    letters = ideographs = kana = 0
    for char in "".join(texts):
        if not char.isalpha():
            continue
        letters += 1
        ideographs += _is_ideograph(char)
        kana += "\u3040" <= char <= "\u30ff" or "\uff66" <= char <= "\uff9d"
    enough = ideographs > 0 and ideographs >= letters * _IDEOGRAPH_SHARE
    return "zh" if enough and kana <= ideographs else "en"


def _is_ideograph(char: str) -> bool:
    return (
        "\u4e00" <= char <= "\u9fff"
        or "\u3400" <= char <= "\u4dbf"
        or "\uf900" <= char <= "\ufaff"
        or "\U00020000" <= char <= "\U000323af"
    )
