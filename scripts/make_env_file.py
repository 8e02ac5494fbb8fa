"""Write .env once, with what a developer's machine needs. It is git-ignored and never overwritten.

Standard library only. With ENV_FILE in the environment the settings come from elsewhere: nothing is written.
"""

import os
import secrets
from pathlib import Path

TEMPLATE = """\
# Settings of this machine, written once by `make run`; yours to change. docs/ lists every setting.
# The key that signs sessions and tokens. Random; keep it out of version control.
SECRET_KEY={secret_key}
# Pages explain errors and static files are served. Never on a public machine.
DEBUG=true
# Who may call without signing in: callers from this machine only.
ALLOW_ANONYMOUS=loopback
# Who is signed in and has the permission may run code in notebooks, from this machine only; it runs as you.
KERNELS_ENABLED=loopback
"""


def main() -> None:
    """Write the file unless it is there."""
    if "ENV_FILE" in os.environ:
        return
    path = Path(__file__).resolve().parent.parent / ".env"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with open(descriptor, "w", encoding="utf-8") as file:
        # 64 characters of A-Z a-z 0-9 _ and -: no reader of .env files sees more in them.
        file.write(TEMPLATE.format(secret_key=secrets.token_urlsafe(48)))
    print("env-file: wrote .env (random SECRET_KEY, DEBUG=true, callers and kernels from this machine)")


if __name__ == "__main__":
    main()
