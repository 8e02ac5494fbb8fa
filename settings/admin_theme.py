"""The admin's theme (django-unfold): name, colours, navigation."""

from typing import Any

from django.templatetags.static import static
from django.urls import reverse_lazy
from django.utils.translation import gettext_lazy


def _link(title: Any, icon: str, place: str, permission: str = "") -> dict[str, Any]:
    """A line of the admin's navigation: an icon of Material Symbols, the name of a URL, who sees it."""
    line = {"title": title, "icon": icon, "link": reverse_lazy(place)}
    if not permission:
        # A way out of the admin is never where one is, though its URL may begin that of every page.
        return line | {"active": False}
    return line | {"permission": lambda request: request.user.has_perm(permission)}


UNFOLD = {
    "SITE_TITLE": "Sluice",
    "SITE_HEADER": "Sluice",
    "SITE_SUBHEADER": gettext_lazy("Streams of generated text"),
    "SITE_SYMBOL": "water",
    "SITE_URL": reverse_lazy("home"),
    "SITE_FAVICONS": [
        {"rel": "icon", "type": "image/svg+xml", "href": lambda request: static("streaming/page/icon.svg")}
    ],
    "SHOW_VIEW_ON_SITE": False,
    "SHOW_LANGUAGES": True,
    "BORDER_RADIUS": "6px",
    "COLORS": {
        # The blue-green of deep water; 600 on white and 500 on dark grounds are readable.
        "primary": {
            "50": "oklch(97.7% .013 225)",
            "100": "oklch(94.8% .028 225)",
            "200": "oklch(89.6% .055 226)",
            "300": "oklch(82.2% .093 228)",
            "400": "oklch(74.0% .118 230)",
            "500": "oklch(65.5% .125 232)",
            "600": "oklch(51.5% .110 234)",
            "700": "oklch(45.5% .098 236)",
            "800": "oklch(39.8% .083 237)",
            "900": "oklch(34.5% .068 238)",
            "950": "oklch(26.0% .052 240)",
        },
    },
    "SIDEBAR": {
        "show_search": False,
        "show_all_applications": False,
        "navigation": [
            {
                "title": gettext_lazy("Streams"),
                "items": [
                    _link(
                        gettext_lazy("Tasks"),
                        "stream",
                        "admin:streaming_streamtask_changelist",
                        "streaming.view_streamtask",
                    ),
                    _link(
                        gettext_lazy("Statistics"),
                        "monitoring",
                        "admin:streaming_statistics_changelist",
                        "streaming.view_streamtask",
                    ),
                    _link(
                        gettext_lazy("Refusals"),
                        "block",
                        "admin:streaming_refusal_changelist",
                        "streaming.view_refusal",
                    ),
                    _link(
                        gettext_lazy("Alerts"),
                        "notifications",
                        "admin:streaming_alert_changelist",
                        "streaming.view_alert",
                    ),
                    _link(
                        gettext_lazy("API keys"),
                        "key",
                        "admin:streaming_apikey_changelist",
                        "streaming.view_apikey",
                    ),
                ],
            },
            {
                "title": gettext_lazy("Notebooks"),
                "items": [
                    _link(
                        gettext_lazy("Notebooks"),
                        "code_blocks",
                        "admin:notebooks_notebook_changelist",
                        "notebooks.view_notebook",
                    ),
                ],
            },
            {
                "title": gettext_lazy("People"),
                "items": [
                    _link(gettext_lazy("Users"), "person", "admin:auth_user_changelist", "auth.view_user"),
                    _link(gettext_lazy("Groups"), "group", "admin:auth_group_changelist", "auth.view_group"),
                ],
            },
            {
                "title": gettext_lazy("Service"),
                "items": [
                    _link(gettext_lazy("The page"), "home", "home"),
                    _link(gettext_lazy("Your notebooks"), "terminal", "notebooks"),
                    _link(gettext_lazy("API documentation"), "description", "sluice:openapi-view"),
                ],
            },
        ],
    },
}
