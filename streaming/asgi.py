"""The ASGI application for projects without one of their own, with the settings of DJANGO_SETTINGS_MODULE."""

from streaming.handler import get_asgi_application

application = get_asgi_application()
