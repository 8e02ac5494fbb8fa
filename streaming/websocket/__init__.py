"""Streams over WebSocket: the same events from the same journals, one JSON message each.

`consumers` (over `base`) holds Channels' consumers, `routing` the URLs and what the handler serves,
`protocol` the messages of clients, `handshake` the opening of a socket, `reader` one stream on it. No channel
layer takes part: events come from the journals alone.
"""
