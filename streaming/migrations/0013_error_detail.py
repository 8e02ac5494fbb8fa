from django.db import migrations, models


class Migration(migrations.Migration):
    """With a default of the database's own: servers of the older version go on inserting rows meanwhile."""

    dependencies = [
        ('streaming', '0012_priority_requested_and_last_value'),
    ]

    operations = [
        migrations.AddField(
            model_name='streamtask',
            name='error_detail',
            field=models.TextField(blank=True, db_default='', default='', help_text='What the service said that failed; nobody else is told.', verbose_name='error detail'),
        ),
    ]
