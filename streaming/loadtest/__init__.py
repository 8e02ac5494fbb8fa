"""Load from outside, and a report: `manage.py loadtest`."""
