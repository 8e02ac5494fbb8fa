"""The ASGI application: for `manage.py serve`, uvicorn, daphne and any other ASGI server."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings.settings")

from streaming.handler import get_asgi_application

application = get_asgi_application()
