"""What is generated: briefs, providers and the calls that start them. Uses the public API of `streaming`."""

__version__ = "0.1.0"
