"""Lines out of bytes that come in pieces, for the decoders."""

from __future__ import annotations


def completed(pieces: list[bytes], tail: bytearray, max_line: int) -> list[bytes]:
    """The lines that new bytes complete. `pieces`: those bytes, split at line ends, at least one; `tail`: the
    unfinished line, which is changed to what is unfinished now.

    One that is over `max_line` bytes already comes last as it is, to be refused in its turn, after the lines
    before it.
    """
    lines, rest = pieces[:-1], pieces[-1]
    if lines and tail:
        lines[0] = bytes(tail) + lines[0]
        tail.clear()
    tail += rest
    if len(tail) > max_line:
        lines.append(bytes(tail))
    return lines
