"""Streams of Sluice beside those of what a user would pick instead, and beside the limit of Python."""
