from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('streaming', '0012_priority_requested_and_last_value'),
    ]

    operations = [
        migrations.AddField(
            model_name='streamtask',
            name='error_detail',
            field=models.TextField(blank=True, default='', help_text='What the service said that failed; nobody else is told.', verbose_name='error detail'),
            preserve_default=False,
        ),
    ]
