"""Signing in and out."""

from __future__ import annotations

from django.contrib.auth import login
from django.contrib.auth.views import LoginView
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from . import links
from .doors import guarded


class SignIn(LoginView):
    """The page that asks for name and password; who is signed in already goes on."""

    template_name = "accounts/login.html"
    redirect_authenticated_user = True


sign_in = guarded(SignIn.as_view())
"""`/accounts/login/`."""


@never_cache
@require_http_methods(["GET"])
def use_link(request: HttpRequest, token: str) -> HttpResponse:
    """`GET /accounts/signin/<token>/` signs in once; 410 for a link that is used, expired or unknown. HEAD is
    refused: programs that only look at a link must not use it up."""
    user = links.use(token)
    if user is None:
        return render(request, "accounts/link_gone.html", status=410)
    login(request, user)
    return redirect("home")
