"""The record of notebooks: cells, what they said last, and whose they are."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _

MAX_ID = 64


class Notebook(models.Model):
    """One user's notebook. `slug` is what its owner calls it: the `notebook_id` of the API. `version` grows
    with each change of what its owner wrote."""

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, verbose_name=_("owner"))
    slug = models.CharField(_("id"), max_length=MAX_ID)
    title = models.CharField(_("title"), max_length=200, blank=True, default="")
    version = models.PositiveIntegerField(_("version"), default=0)
    metadata = models.JSONField(_("metadata"), default=dict, blank=True)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)
    updated_at = models.DateTimeField(_("changed"), auto_now=True)

    class Meta:
        verbose_name = _("notebook")
        verbose_name_plural = _("notebooks")
        ordering = ("-updated_at", "-pk")
        constraints = (models.UniqueConstraint(fields=("owner", "slug"), name="one_notebook_of_a_name"),)
        permissions = (("run_code", _("Can run code in notebooks")),)

    def __str__(self) -> str:
        return self.title or self.slug


class Cell(models.Model):
    """A cell. `outputs`: as nbformat 4.5 has them, with `late` where a thread said it after the cell's end.
    `dropped_chars`: of what it said beyond the limit. `position` orders the cells of a notebook. `stream`:
    the id of the run whose outputs are not here yet."""

    class Kind(models.TextChoices):
        """What is in it."""

        CODE = "code", _("Code")
        MARKDOWN = "markdown", _("Text")
        RAW = "raw", _("Raw")

    notebook = models.ForeignKey(Notebook, models.CASCADE, related_name="cells", verbose_name=_("notebook"))
    cell_id = models.CharField(_("id"), max_length=MAX_ID)
    kind = models.CharField(_("kind"), max_length=8, choices=Kind.choices, default=Kind.CODE)
    position = models.PositiveIntegerField(_("position"), default=0)
    source = models.TextField(_("source"), blank=True, default="")
    outputs = models.JSONField(_("outputs"), default=list, blank=True)
    dropped_chars = models.PositiveBigIntegerField(_("left out"), default=0)
    execution_count = models.PositiveIntegerField(_("number"), null=True, blank=True)
    stream = models.CharField(_("stream"), max_length=MAX_ID, blank=True, default="")
    metadata = models.JSONField(_("metadata"), default=dict, blank=True)
    attachments = models.JSONField(_("attachments"), default=dict, blank=True)
    updated_at = models.DateTimeField(_("changed"), auto_now=True)

    class Meta:
        verbose_name = _("cell")
        verbose_name_plural = _("cells")
        ordering = ("position", "pk")
        constraints = (models.UniqueConstraint(fields=("notebook", "cell_id"), name="one_cell_of_an_id"),)

    def __str__(self) -> str:
        return f"{self.notebook} {self.cell_id}"


class KernelElsewhere(models.Model):
    """Which kernel of a Jupyter Server belongs to a notebook, and which process uses it, until when: what
    `notebooks.kernels.elsewhere.Entry` says. Not tied to accounts and notebooks by keys: the kernel of a
    deleted one is ended as all idle ones are."""

    owner = models.CharField(max_length=MAX_ID)
    slug = models.CharField(max_length=MAX_ID)
    kernel = models.CharField(max_length=MAX_ID, blank=True, default="")
    era = models.PositiveIntegerField(default=0)
    interrupts = models.PositiveIntegerField(default=0)
    execution_count = models.PositiveIntegerField(null=True, blank=True)
    holder = models.CharField(max_length=MAX_ID, blank=True, default="")
    held_until = models.DateTimeField(null=True, blank=True)
    used_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        verbose_name = _("kernel elsewhere")
        verbose_name_plural = _("kernels elsewhere")
        default_permissions = ()
        constraints = (models.UniqueConstraint(fields=("owner", "slug"), name="one_kernel_of_a_notebook"),)

    def __str__(self) -> str:
        return f"{self.owner} {self.slug}"
