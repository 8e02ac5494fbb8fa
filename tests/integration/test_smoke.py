from tests.support.client import client, generate
from tests.support.servers import Server

async def test_text(server: Server) -> None:
    async with client(server.url) as http:
        reading = await generate(http, options={"tokens": 5, "interval": 0.01})
        assert reading.text == "0 1 2 3 4 "
        assert reading.end.name == "complete"
        assert reading.retry == 2000
