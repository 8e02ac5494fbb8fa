"""Spans of a real server at a collector that is away at first, and the trace that the model service gets."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.client import STREAM, client, eventually, read_stream
from tests.support.servers import free_port, running
from tests.support.upstream import KEY, model_service

pytestmark = pytest.mark.server

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"


@contextmanager
def collecting(port: int) -> Iterator[list[Any]]:
    """A collector; what it was sent."""
    found: list[Any] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                found.extend(span for scope in resource.scope_spans for span in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", port), Collector) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()


async def test_a_trace_goes_through_and_a_collector_that_is_away_is_two_lines(tmp_path: Path):
    port = free_port()
    async with model_service() as fake:
        settings = {
            "OPENAI_API_KEY": KEY,
            "OPENAI_API_BASE": fake.base,
            "OPENAI_MODEL": "good",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "0.5",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }
        with running("serve", tmp_path, **settings) as server:

            async def logged(text: str) -> bool:
                return text in server.log()

            async with client(server.url) as http:

                async def generate(**headers: str) -> None:
                    reading = await read_stream(
                        http, "POST", STREAM, json={"user_id": "u", "topic": "tea"}, headers=headers
                    )
                    assert reading.end.name == "complete"

                await generate()
                assert "traceparent" not in fake.chats[-1].headers
                assert await eventually(lambda: logged("spans are lost until they can be sent (again): "))
                with collecting(port) as spans:
                    await generate(traceparent=f"00-{TRACE}-{SPAN}-01")

                    async def mine() -> dict[str, Any] | None:
                        found = {each.name: each for each in spans if each.trace_id.hex() == TRACE}
                        return found if len(found) == 2 else None

                    made = await eventually(mine)
                    assert await eventually(lambda: logged("spans are sent again; "))
        assert made is not None
        root, generated = made["stream content"], made["generate"]
        assert root.parent_span_id.hex() == SPAN
        assert generated.parent_span_id == root.span_id
        told = fake.chats[-1].headers["traceparent"]
        assert told == f"00-{TRACE}-{generated.span_id.hex()}-01"
        assert server.log().count("spans are") == 2
        assert "due to timeout" not in server.log()
