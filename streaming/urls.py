"""The app's URLs; hot routes first."""

from django.urls import path
from django.views.i18n import JavaScriptCatalog

from .api import api
from .metrics.views import metrics
from .pages import stream_page
from .probe import probe, probe_report
from .readiness import readyz
from .ticket_views import tickets
from .views import events

urlpatterns = [
    path("streams/probe", probe, name="stream-probe"),
    path("streams/probe/report", probe_report, name="stream-probe-report"),
    path("streams/<str:task_id>/events", events, name="stream-events"),
    path("streams/<str:task_id>/view", stream_page, name="stream-page"),
    path("tickets", tickets, name="tickets"),
    path("metrics", metrics, name="metrics"),
    path("readyz", readyz, name="readyz"),
    path("jsi18n/", JavaScriptCatalog.as_view(packages=["streaming"]), name="javascript-catalog"),
    path("", api.urls),
]
