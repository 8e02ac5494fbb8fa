"""The pure layer: how events, queues and decisions work, without I/O, threads, clocks or Django.

Modules here import the standard library and msgspec only; time comes in as an argument. A test
(`tests/unit/test_layers.py`) keeps it so.
"""
