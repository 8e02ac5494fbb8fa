"""Kernels: processes that run what people write. Nothing here knows HTTP, tasks or the database."""
