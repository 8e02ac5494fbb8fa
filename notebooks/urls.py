"""The app's URLs."""

from django.urls import path

from . import views

urlpatterns = [
    path("send_operation", views.send_operation, name="send-operation"),
]
