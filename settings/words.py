"""Words of the admin's theme, for the Chinese catalogue.

django-unfold marks its words for translation and brings no catalogue. Django's own has those that both
share ("Home", "Save"); the rest of what our pages show is listed here, so that it is in the project's
catalogue (`locale/`), and a test finds what is missing. Nothing imports this module.
"""

from __future__ import annotations

from typing import Final

from django.utils.translation import gettext_noop as _

WORDS: Final = (
    # Every page
    _("Dark"),
    _("Light"),
    _("System"),
    _("Go back"),
    _("Type to search"),
    _("True"),
    _("False"),
    # The command line and the shortcuts of its newer releases
    _("Open command tool"),
    _("Create new record"),
    _("Global shortcuts"),
    _("Toggle sidebar"),
    _("Toggle filter"),
    _("Toggle dark/light mode"),
    _("Select"),
    _("Open shortcuts list"),
    _("Open selection"),
    _("Open selection in new tab"),
    _("Navigate"),
    _("Command tool shortcuts"),
    _("Changelist shortcuts"),
    _("Available shortcuts"),
    _("Run the selected action"),
    # Signing in and out
    _("Welcome back to"),
    _("Return to site"),
    _("Toggle password visibility"),
    _("You have been successfully logged out from the administration"),
    # Lists
    _("Filters"),
    _("Apply Filters"),
    _("Reset filters"),
    _("Run"),
    _("Select action"),
    _("Select action to run"),
    _("Select all rows"),
    _("Select record"),
    _("No results found"),
    _("This page yielded into no results."),
    _("This page yielded into no results. Create a new item or reset your filters."),
    # Forms
    _("Select value"),
    _("Date"),
    _("After you've created a user, you’ll be able to edit more user options."),
    _(
        "Raw passwords are not stored, so there is no way to see this user’s password, but you can change "
        'the password using <a href="{}" class="text-primary-600 dark:text-primary-500">this form</a>.'
    ),
)
