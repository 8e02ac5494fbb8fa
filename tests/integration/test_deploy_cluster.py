"""What `deploy/` ships for several machines, as far as it can be tried without them: names, files, syntax."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import get_commands

from settings import environment
from tests.support.servers import ROOT

DEPLOY = ROOT / "deploy"
UNITS = ("sluice-web@.service", "sluice-worker@.service")
SANDBOX = (DEPLOY / "sluice-.service.d/sandbox.conf").read_text()

COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: each for name, each in SERVICES.items() if each["image"] == "sluice"}

OTHERS_VARIABLES = {"POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD", "REDISCLI_AUTH"}


def test_the_parts_are_there():
    assert set(SERVICES) == {
        *("web1", "web2", "worker1", "worker2", "migrate"),
        *("redis", "postgresql", "nginx"),
    }
    assert set(OURS) == {"web1", "web2", "worker1", "worker2", "migrate"}
    assert "NOT RUN" in (DEPLOY / "compose.yaml").read_text()


def test_each_variable_is_a_setting():
    for name, service in OURS.items():
        assert service["environment"]["STREAM_ENGINE"] == "celery"
        assert set(service["environment"]) - environment.KNOWN == set(), name
    for name in set(SERVICES) - set(OURS):
        assert set(SERVICES[name].get("environment", {})) <= OTHERS_VARIABLES
    example = (DEPLOY / "sluice.env.example").read_text()
    named = set(re.findall(r"^#?([A-Z][A-Z_]+)=", example, re.MULTILINE))
    assert {"REDIS_URL", "STREAM_ENGINE", "CELERY_BROKER_URL"} <= named
    assert named - environment.KNOWN == set()


def test_each_command_is_one_of_ours():
    commands = [service["command"] for service in OURS.values() if "command" in service]
    assert {command[2] for command in commands} == {"worker", "migrate"}
    for command in commands:
        assert command[:2] == ["python", "manage.py"]
        assert command[2] in get_commands()


def test_what_is_named_is_defined():
    for name, service in SERVICES.items():
        assert set(service["networks"]) <= set(COMPOSE["networks"]), name
        assert set(service.get("depends_on", ())) <= set(SERVICES), name
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert (DEPLOY / source).is_file() if source.startswith(".") else source in COMPOSE["volumes"]
    assert (DEPLOY / OURS["web1"]["build"]["context"] / OURS["web1"]["build"]["dockerfile"]).is_file()
    trusted = OURS["web1"]["environment"]["TRUSTED_PROXIES"]
    assert SERVICES["nginx"]["networks"]["inside"]["ipv4_address"] == trusted


def test_nginx_gets_both_webs_and_a_port_that_is_reached(tmp_path):
    script = SERVICES["nginx"]["command"][2].split("&&")[0]
    script = script.replace("/shipped", str(DEPLOY)).replace("/etc/nginx/conf.d", str(tmp_path))
    subprocess.run(["sh", "-c", script], check=True, timeout=20)
    made = (tmp_path / "default.conf").read_text()
    active = re.sub(r"^\s*#.*$", "", made, flags=re.MULTILINE)
    assert re.findall(r"\bserver ([\w.:]+)", active) == ["web1:8000", "web2:8000"]
    assert re.findall(r"\blisten ([\w.:]+);", active) == ["18600"]


def test_redis_is_durable_and_evicts_nothing():
    words = SERVICES["redis"]["command"]
    given = dict(zip(words[1::2], words[2::2], strict=True))
    assert given["--appendonly"] == "yes"
    assert given["--appendfsync"] == "everysec"
    assert given["--maxmemory-policy"] == "noeviction"


def _lines(text: str) -> set[str]:
    return {line for line in text.splitlines() if line and not line.startswith(("#", "["))}


def test_the_sandbox_is_that_of_the_single_unit():
    single = (DEPLOY / "sluice.service").read_text()
    assert _lines(SANDBOX) <= _lines(single)
    hardening = single[single.index("NoNewPrivileges") : single.index("[Install]")]
    assert _lines(hardening) <= _lines(SANDBOX)


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd-analyze here: apt-get install systemd"
)
def test_systemd_understands_the_units(tmp_path: Path):
    home = tmp_path / "home"
    (home / ".venv/bin").mkdir(parents=True)
    (home / ".venv/bin/python").symlink_to(sys.executable)
    folder = tmp_path / "sluice-.service.d"
    folder.mkdir()
    (folder / "sandbox.conf").write_text(SANDBOX.replace("/srv/sluice", str(home)))
    paths = []
    for name in UNITS:
        path = tmp_path / name.replace("@", "@1")
        path.write_text((DEPLOY / name).read_text().replace("/srv/sluice", str(home)))
        paths.append(str(path))

    def verify() -> str:
        done = subprocess.run(
            ["systemd-analyze", "--no-pager", "verify", "--man=no", *paths],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning", "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        )
        return str(done.returncode or "") + done.stdout + done.stderr

    assert verify() == ""
    (folder / "sandbox.conf").write_text(SANDBOX.replace("ProtectSystem=strict", "ProtectSystem=srtict"))
    assert verify() != "", "the drop-in is read"
