import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    """With a default of the database's own, which gives the keys that there are, and those that servers of the
    older version make meanwhile, all scopes. The other columns may be empty. The table is small, and calls only
    read it."""

    dependencies = [
        ('streaming', '0014_attempts'),
    ]

    operations = [
        migrations.AddField(
            model_name='apikey',
            name='scopes',
            field=models.CharField(db_default='generate read cancel notebooks operate', help_text='What the key may be used for; never for more than its user may do.', max_length=200, verbose_name='scopes'),
        ),
        migrations.AddField(
            model_name='apikey',
            name='expires_at',
            field=models.DateTimeField(blank=True, help_text='When the key ends by itself; empty: never.', null=True, verbose_name='expires'),
        ),
        migrations.AddField(
            model_name='apikey',
            name='last_used_at',
            field=models.DateTimeField(blank=True, editable=False, help_text='Exact to about a minute.', null=True, verbose_name='last used'),
        ),
        migrations.AddField(
            model_name='apikey',
            name='replaces',
            field=models.ForeignKey(blank=True, editable=False, help_text='The key whose place it took.', null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='successors', to='streaming.apikey', verbose_name='replaces'),
        ),
    ]
