from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ('streaming', '0015_key_scopes_expiry_and_use'),
    ]

    operations = [
        migrations.CreateModel(
            name='Ticket',
            fields=[
                ('digest', models.CharField(max_length=64, primary_key=True, serialize=False)),
                ('resource', models.CharField(max_length=255)),
                ('holder', models.CharField(help_text='A digest of the account, or of the address of who has none.', max_length=64)),
                ('credential_kind', models.CharField(max_length=10)),
                ('credential', models.CharField(blank=True, max_length=64)),
                ('expires_at', models.DateTimeField(db_index=True)),
            ],
            options={
                'verbose_name': 'ticket',
                'verbose_name_plural': 'tickets',
                'indexes': [models.Index(fields=['holder', 'expires_at'], name='streaming_ticket_holder')],
            },
        ),
    ]
