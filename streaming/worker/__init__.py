"""Workers: processes without HTTP that run tasks which others have admitted (STREAM_ENGINE=celery).

Celery carries the message that a task is a worker's, and nothing else: what a task is stands in the database,
who may run it is decided there, and its events go the way of all others. So a message that comes twice, late,
or not at all costs time, never a task.
"""
