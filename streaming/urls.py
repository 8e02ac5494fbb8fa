"""The app's URLs; hot routes first."""

from django.urls import path

from .api import api
from .views import events

urlpatterns = [
    path("streams/<str:task_id>/events", events, name="stream-events"),
    path("", api.urls),
]
