"""The offline copywriter: posts from templates and word banks, with no model and no network."""

from contentgen.copywriter.composer import CopyRequest, Piece, compose

__all__ = ["CopyRequest", "Piece", "compose"]
