#!/usr/bin/env python
"""Django's command line for this project: `manage.py serve` runs it."""

import os
import sys


def main() -> None:
    """Run the command named on the command line."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings.settings")
    from django.core.management import execute_from_command_line

    try:
        execute_from_command_line(sys.argv)
    except KeyboardInterrupt:
        # Ctrl-C before a command took the signal over: the shell's convention, no traceback.
        sys.exit(130)


if __name__ == "__main__":
    main()
