from django.db import migrations, models


class Migration(migrations.Migration):
    """With a default of the database's own, and without a check: PostgreSQL looks at no row, and servers of the
    older version go on inserting rows meanwhile."""

    dependencies = [
        ('streaming', '0013_error_detail'),
    ]

    operations = [
        migrations.AddField(
            model_name='streamtask',
            name='attempts',
            field=models.SmallIntegerField(db_default=0, default=0, help_text='How often a process has begun to run it.', verbose_name='attempts'),
        ),
    ]
