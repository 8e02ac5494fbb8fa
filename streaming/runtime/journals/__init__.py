"""Append-only logs of durable events, one per task; one contract, several stores."""
