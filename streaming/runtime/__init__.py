"""The running system: permits, tasks, pumps, journals and followers of one process.

Adds threads and asyncio to the pure core; knows nothing of Django, HTTP, providers or prompts. All
objects here belong to one event loop and are used on its thread only, unless a docstring says otherwise.
"""
