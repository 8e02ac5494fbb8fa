"""All sockets."""

from contentgen.websocket import websocket_urlpatterns as contentgen
from notebooks.websocket import websocket_urlpatterns as notebooks
from streaming.websocket.routing import websocket_urlpatterns as streaming

websocket_urlpatterns = [*streaming, *contentgen, *notebooks]
