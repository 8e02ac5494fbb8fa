"""Make or repair .venv and install one locked set of packages into it. Called by scripts/bootstrap.

    make_venv.py SET               install requirements/SET.txt
    make_venv.py --is-ready SET    exit status 0 if that has been done already

Standard library only: it runs before anything is installed. What is done is remembered in .venv itself, as a
stamp for each set: the Python and the place of the environment, then the requirements word for word. While
packages are being installed a mark stands in .venv; an environment found with the mark was interrupted and is
made anew, because half a package can look like a whole one.
"""

import ast
import fcntl
import os
import shutil
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
VENV = os.path.join(ROOT, ".venv")
VENV_PYTHON = os.path.join(VENV, "bin", "python")
UNFINISHED = os.path.join(VENV, ".sluice-unfinished")
CONTAINS = {
    "full": ["run"],
    "test": ["run", "full"],
    "bench": ["run", "full", "test"],
}  # sets whose packages are all in another set, too

# How uv, which does not read pip's configuration, is told what pip is told.
PIP_INDEX_OPTIONS = {"index-url": "UV_DEFAULT_INDEX", "extra-index-url": "UV_INDEX"}
UV_INDEX_VARIABLES = ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL")
PIP_OTHER_OPTIONS = {
    "find-links": "UV_FIND_LINKS",
    "no-index": "UV_NO_INDEX",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "proxy": "ALL_PROXY",
    "default-timeout": "UV_HTTP_TIMEOUT",
    "timeout": "UV_HTTP_TIMEOUT",
}


def main(arguments: list[str]) -> int:
    """Answer --is-ready, or make it so."""
    name = arguments[-1]
    if arguments[0] == "--is-ready":
        return 0 if is_ready(name) else 1
    leave_own_venv(arguments)
    with one_at_a_time():
        if not is_ready(name):  # another process may have done it while this one waited
            set_up(name)
    return 0


# What has been done


def requirements_path(name: str) -> str:
    return os.path.join(ROOT, "requirements", f"{name}.txt")


def stamp_path(name: str) -> str:
    return os.path.join(VENV, f".sluice-{name}")


def stamps() -> list[str]:
    return [
        stamp_path(name)
        for name in ("run", "full", "test", "bench", "uv")
        if os.path.exists(stamp_path(name))
    ]


def read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return None


def identity(version: str) -> str:
    """The first line of a stamp: an environment does not survive another Python or another place."""
    return f"Python {version} in {VENV}\n"


def version_of(python: str) -> str | None:
    """The "3.11" of an interpreter, or None if it does not run."""
    try:
        return output_of(python, "-ISc", "import sys; print('%d.%d' % sys.version_info[:2])").strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def output_of(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def is_ready(name: str) -> bool:
    """Whether the set is installed as it is locked now, with the Python that is asked for."""
    stamp = read(stamp_path(name))
    if stamp is None or os.path.exists(UNFINISHED):
        return False
    version = own_version() if in_venv() else version_of(VENV_PYTHON)
    if version is None or stamp != identity(version) + (read(requirements_path(name)) or ""):
        return False
    wanted = os.environ.get("PYTHON")
    return not wanted or version_of(wanted) == version


def own_version() -> str:
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def in_venv() -> bool:
    """Whether this very process runs on .venv's Python."""
    return os.path.dirname(os.path.abspath(sys.executable)) == os.path.dirname(VENV_PYTHON)


# Doing it


def set_up(name: str) -> None:
    if not is_usable():
        make_environment()
    with open(UNFINISHED, "w", encoding="utf-8"):
        pass
    if name != "uv":  # which changes no package of the other sets
        for stamp in stamps():
            os.unlink(stamp)
    install(name)
    version = version_of(VENV_PYTHON) or own_version()
    for done in [name, *CONTAINS.get(name, [])]:
        with open(stamp_path(done), "w", encoding="utf-8") as file:
            file.write(identity(version) + (read(requirements_path(done)) or ""))
    os.unlink(UNFINISHED)


def is_usable() -> bool:
    """Whether .venv is whole, of the right Python and in its right place, so that packages can be added."""
    version = version_of(VENV_PYTHON)
    if version is None or os.path.exists(UNFINISHED):
        return False
    if [int(part) for part in version.split(".")] < [3, 11]:
        return False
    if os.environ.get("PYTHON") and version != own_version():
        return False
    if not all((read(stamp) or "").startswith(identity(version)) for stamp in stamps()):
        return False
    try:
        output_of(VENV_PYTHON, "-m", "pip", "--version")
    except subprocess.CalledProcessError:
        return False
    return True


def make_environment() -> None:
    found = os.path.lexists(VENV_PYTHON)
    with step(f"{'re-making' if found else 'making'} .venv with Python {sys.version.split()[0]}"):
        os.makedirs(VENV, exist_ok=True)
        with open(UNFINISHED, "w", encoding="utf-8"):
            pass
        for entry in list(os.scandir(VENV)):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            elif entry.path != UNFINISHED:
                os.unlink(entry.path)
        call([sys.executable, "-m", "venv", VENV], dict(os.environ))


def install(name: str) -> None:
    """Install with uv if it can be had, else (or if it fails) with pip."""
    requirements = requirements_path(name)
    pip = [VENV_PYTHON, "-m", "pip", "install", "--quiet", "--require-hashes", "-r"]
    pip_environment = {
        **os.environ,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INPUT": "1",
        "PIP_USER": "0",
    }
    try:
        with step("installing uv"):
            call([*pip, requirements_path("uv"), "--only-binary", ":all:"], pip_environment)
        if name == "uv":
            return
        with step(f"installing requirements/{name}.txt with uv"):
            uv = [os.path.join(VENV, "bin", "uv"), "pip", "install", "--python", VENV_PYTHON]
            call([*uv, "--no-progress", "--require-hashes", "-r", requirements], uv_environment())
        return
    except Failed as failure:
        if name == "uv":
            raise
        print(f"{failure}\nbootstrap: going on with pip", file=sys.stderr, flush=True)
    with step(f"installing requirements/{name}.txt with pip"):
        call([*pip, requirements], pip_environment)


def uv_environment() -> dict[str, str]:
    """The environment for uv: what is set for uv wins; for the rest it is told what pip is told."""
    environment = {**os.environ, "UV_COMPILE_BYTECODE": "1", "UV_PYTHON_DOWNLOADS": "never"}
    environment.pop("VIRTUAL_ENV", None)
    if not os.access(os.path.expanduser("~"), os.W_OK) and "XDG_CACHE_HOME" not in os.environ:
        environment.setdefault("UV_NO_CACHE", "1")  # a user without a home, as in some containers
    handed_on = dict(PIP_OTHER_OPTIONS)
    if not any(os.environ.get(variable) for variable in UV_INDEX_VARIABLES):
        handed_on |= PIP_INDEX_OPTIONS
        # With several indexes uv takes a package from the first that knows it; hashes make pip's way safe.
        environment.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
    configured = pip_configuration()
    for option, variable in handed_on.items():
        if configured.get(option) and not os.environ.get(variable):
            environment[variable] = configured[option]
    if "UV_FIND_LINKS" not in os.environ and "UV_FIND_LINKS" in environment:
        places = environment.pop("UV_FIND_LINKS").split()
        if places := [place for place in places if "://" in place or os.path.exists(place)]:
            environment["UV_FIND_LINKS"] = ",".join(places)
    return environment


def pip_configuration() -> dict[str, str]:
    """pip's options from its files and PIP_* variables, the stronger source last."""
    options: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in output_of(VENV_PYTHON, "-m", "pip", "config", "list").splitlines():
        name, _, value = line.partition("=")
        section, _, option = name.partition(".")
        if section in options:
            options[section][option] = str(ast.literal_eval(value)).strip()
    return options["global"] | options["install"] | options[":env:"]


# Helpers


class Failed(Exception):
    """A command failed; the text is the end of its output."""


def call(command: list[str], environment: dict[str, str]) -> None:
    """Run a command, show nothing of it unless it fails."""
    # stdin is closed: nobody sees a question that is asked in silence.
    result = subprocess.run(
        command,
        env=environment,
        cwd=ROOT,
        check=False,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if result.returncode:
        raise Failed("\n".join(f"  | {line}" for line in result.stdout.strip().splitlines()[-15:]))


class step:  # noqa: N801 - reads as a statement
    """Say what is being done, and at the end how long it took."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> None:
        print(f"bootstrap: {self.what} ... ", end="", flush=True)
        self.started = time.monotonic()

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        took = time.monotonic() - self.started
        print(f"{'failed after ' if error else ''}{took:.1f} s", flush=True)


class one_at_a_time:  # noqa: N801 - reads as a statement
    """Keep two set-ups of one checkout apart. The lock is on this file, and goes when its process goes."""

    def __enter__(self) -> None:
        self.file = open(os.path.realpath(__file__), "rb")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("bootstrap: waiting for another set-up of this checkout", flush=True)
            fcntl.flock(self.file, fcntl.LOCK_EX)
        except OSError:
            pass  # a file system without locks

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.file.close()


def leave_own_venv(arguments: list[str]) -> None:
    """Go on with the Python beneath an active virtual environment, which may be .venv itself."""
    if sys.prefix != sys.base_prefix:
        python = os.path.join(sys.base_prefix, "bin", f"python{own_version()}")
        if os.access(python, os.X_OK):
            os.execv(python, [python, os.path.realpath(__file__), *arguments])  # noqa: S606


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Failed as failure:
        print(f"{failure}\nbootstrap: failed; run it again once the cause is gone", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\nbootstrap: interrupted; the next run repairs it", file=sys.stderr)
        sys.exit(130)
