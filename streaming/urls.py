"""The app's URLs; hot routes first."""

from django.urls import path
from django.views.i18n import JavaScriptCatalog

from .api import api
from .metrics.views import metrics
from .pages import stream_page
from .readiness import readyz
from .views import events

urlpatterns = [
    path("streams/<str:task_id>/events", events, name="stream-events"),
    path("streams/<str:task_id>/view", stream_page, name="stream-page"),
    path("metrics", metrics, name="metrics"),
    path("readyz", readyz, name="readyz"),
    path("jsi18n/", JavaScriptCatalog.as_view(packages=["streaming"]), name="javascript-catalog"),
    path("", api.urls),
]
