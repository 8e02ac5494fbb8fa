"""The app's URLs, and their description."""

from django.urls import path
from django.views.i18n import JavaScriptCatalog

from . import openapi, pages, views

urlpatterns = [
    path("send_operation", views.send_operation, name="send-operation"),
    path("notebooks/<str:notebook_id>.ipynb", views.notebook_file, name="notebook-file"),
    path("notebooks/<str:notebook_id>", views.notebook, name="notebook"),
    path("notebook/", pages.notebooks, name="notebooks"),
    path("notebook/new", pages.new, name="new-notebook"),
    path("notebook/frame", pages.frame, name="output-frame"),
    path("notebook/<str:notebook_id>/", pages.notebook, name="notebook-page"),
    path(
        "notebooks/jsi18n/",
        JavaScriptCatalog.as_view(packages=["notebooks"]),
        name="notebooks-javascript-catalog",
    ),
]

openapi.describe()
