"""Rows E4 and E7: a server starts, says what is missing and does what it can, whatever is around it."""

from __future__ import annotations

from pathlib import Path

from tests.integration.conftest import assert_clean
from tests.support.client import STREAM, brief, client, generate
from tests.support.servers import free_port, running

POEM = "咖啡 👩‍👩‍👧 é"


async def test_e4_a_server_whose_redis_is_away_lives_and_is_not_ready(tmp_path: Path) -> None:
    with running("serve", tmp_path, REDIS_URL=f"redis://:hunter2@127.0.0.1:{free_port()}/0") as server:
        async with client(server.url) as http:
            assert (await http.get("/healthz")).status_code == 200
            ready = await http.get("/readyz")
            assert ready.status_code == 503
            assert "redis" in ready.text
            refused = await http.post(STREAM, json=brief())
            assert (refused.status_code, refused.json()["code"]) == (503, "redis_unavailable")
            assert int(refused.headers["retry-after"]) > 0
            assert (await http.get("/stats")).status_code == 200
            assert "hunter2" not in ready.text + refused.text
        assert "hunter2" not in server.log()
        assert_clean(server)


async def test_e7_locale_c_changes_no_text(tmp_path: Path) -> None:
    bare = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}
    with running("serve", tmp_path, **bare, LOG_FILE=str(tmp_path / "app.log")) as server:
        async with client(server.url) as http:
            reading = await generate(http, topic=POEM, options={"text": POEM, "interval": 0})
            assert reading.text == POEM
            assert (await http.get(f"/streams/{POEM}")).status_code == 404
            record = await http.get(reading.response.headers["location"])
            assert record.json()["text"] == POEM
        assert_clean(server)
