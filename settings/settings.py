"""Settings of every mode: one file, safe by default, the only reader of the environment.

Each value can be set by an environment variable or in the file `.env` (the environment wins). The name
of the variable follows from the place: `SSE_CONFIG["heartbeat_interval"]` is `SSE_HEARTBEAT_INTERVAL`.
Every value is checked by `manage.py check`; no server starts with a wrong one.
`docs/settings.md` is the reference.
"""

import sys
from pathlib import Path
from typing import Any
from zoneinfo import available_timezones

from . import environment
from .admin_theme import UNFOLD as UNFOLD
from .environment import cookie_name, database, env, flag, mail, number, one_of, origins, overridden

BASE_DIR = Path(__file__).resolve().parent.parent

environment.read_file(BASE_DIR / ".env")
ENVIRONMENT_PROBLEMS = environment.PROBLEMS

# --- Streams -------------------------------------------------------------------------------------------

SSE_CONFIG = overridden(
    "SSE",
    {
        # s without bytes before a heartbeat: proxies cut connections that are silent for 60 s; 0: none
        "heartbeat_interval": 30,
        # s that one send may block before a slow reader is closed: it can resume, its memory is ours
        "connection_timeout": 60,
        # s between sweeps of finished and expired tasks
        "cleanup_interval": 30,
        # s, base of the adaptive schedule, where only polling can see a change (never within one process)
        "poll_interval": 0.1,
        # until age s -> x poll_interval: 50, 100, 200 ms; young tasks change soon, old ones seldom
        "poll_schedule": [[1, 0.5], [5, 1], [None, 2]],
        # x poll_interval = 5 s between status messages while nothing changes; 0: only on change
        "status_message_interval": 50,
        # s, the client's reconnect delay
        "retry": 2.0,
        # s that a task outlives its last reader, unless the request says otherwise
        "disconnect_grace": 30.0,
        # s that running tasks get to finish at shutdown: below every supervisor's patience
        "drain_grace": 4.0,
        # s that an ended task can be replayed from memory
        "replay_ttl": 600.0,
        # s by which the durable copy may trail behind
        "journal_flush_interval": 0.25,
        # bytes of one task's events; beyond it `truncated`, then `complete` with finish_reason "length"
        "max_journal_bytes": 8_388_608,
        # bytes of all events in memory; ended tasks leave first
        "journal_memory": 268_435_456,
        # readers of one task at once
        "max_followers": 1000,
        # s that an Idempotency-Key is remembered
        "idempotency_ttl": 86_400,
        # days that ended tasks are kept in the database, with their events
        "retention_days": 30,
    },
)

BUFFER_CONFIG = overridden(
    "BUFFER",
    {
        # code points of text that are enough for an event; 0 or 1: one event per delta
        "flush_chars": 15,
        # s that the oldest buffered character may wait: below what a reader notices
        "flush_interval": 0.05,
        # code points of a delta that is never held back
        "buffer_size": 20,
        # s to which the interval may widen while the event loop is late
        "max_flush_interval": 0.1,
    },
)

# max_workers: tasks running at once; queue_size: tasks waiting, 0: none may; queue_timeout, run_timeout:
# s before a waiting or running task ends with an error; per_owner: running and waiting tasks of one owner;
# aging_seconds: s of waiting that lift a task by one priority class, so that nobody waits for ever.
THREAD_CONFIG = {
    "agent_pool": overridden(
        "AGENT_POOL",
        {
            "max_workers": 5,
            "queue_size": 30,
            "queue_timeout": 300,
            "run_timeout": 300,
            "per_owner": 3,
            "aging_seconds": 30,
        },
    ),
    "kernel_pool": overridden(
        "KERNEL_POOL",
        {
            "max_workers": 4,
            "queue_size": 30,
            "queue_timeout": 300,
            "run_timeout": 300,
            "per_owner": 3,
            "aging_seconds": 30,
        },
    ),
}

# From where users with the permission notebooks.run_code may run code: "false" nowhere, "loopback" this
# machine without a proxy, "true". It runs with the rights of this server's user unless KERNEL_SANDBOX says
# otherwise (docs/notebooks.md).
KERNELS_ENABLED = env.str("KERNELS_ENABLED", default="false").lower()
# With several users, no sandbox and this off, no server starts with kernels.
KERNELS_WITHOUT_SANDBOX = flag("KERNELS_WITHOUT_SANDBOX", default=False)

KERNEL_CONFIG = overridden(
    "KERNEL",
    {
        # s of silence after which it is looked whether a busy kernel lives; output never waits for it
        "message_timeout": 0.1,
        # s for one cell
        "execution_timeout": 300,
        # s after which a kernel that does nothing ends
        "idle_timeout": 3600,
        # kernels at once
        "max_kernels": 8,
        # of them, kernels of one user; 0: any
        "per_owner": 4,
        # bytes of one cell's output; beyond it `truncated`
        "output_limit": 1_048_576,
        # bytes of address space of each process of a kernel; 0: any
        "memory_limit": 2_147_483_648,
        # bytes of a file that a kernel writes; 0: any
        "file_limit": 1_073_741_824,
        # s of processor time of each process of a kernel; 0: any
        "cpu_limit": 7200,
        # processes of a kernel and of all that it starts; 0: any
        "processes": 64,
        # kernels that are ready before somebody asks
        "prestarted": 0,
        # the interpreter of kernels; empty: the server's
        "python": "",
        # words before a kernel's command, as a shell splits them; {folder}: its folder (see deploy/)
        "sandbox": "",
        # names of variables that kernels get from the server's environment
        "environment": [],
    },
)

# Kernels of a Jupyter Server or Kernel Gateway instead of this machine's.
KERNEL_GATEWAY = overridden(
    "KERNEL_GATEWAY",
    {
        # its address; empty: kernels run here
        "url": "",
        # the name of its kernel specification
        "kernel": "python3",
        # s until it must have answered at all, and a call
        "connect_timeout": 1.5,
        "answer_timeout": 10,
    },
)
# What it knows us by: text also where it looks like a number.
KERNEL_GATEWAY["token"] = env.str("KERNEL_GATEWAY_TOKEN", default="")

# 0 is the highest class: streams 0, whole answers 1, 202-tasks 2 unless the request says otherwise.
PRIORITIES = overridden("PRIORITY", {"interactive": 0, "normal": 1, "batch": 2})

ACCESS_CONFIG = overridden(
    "ACCESS",
    {
        # days that a new API key lives at most, and if nothing is said; 0: as long as is said, or for ever
        "key_max_days": 0,
        # s that a ticket for an EventSource or a WebSocket is good for
        "ticket_ttl": 60,
        # s within which open streams end when the right to read them is gone, also if nobody announced that
        "recheck_interval": 30.0,
    },
)

# Work that was done a moment ago, or is being done, is not done again.
CACHE_CONFIG = overridden(
    "CACHE",
    {
        # who shares: "off" nobody, "owner" each account with itself, "all" everybody with everybody
        "scope": "off",
        # s that an ended text is good for
        "ttl": 600.0,
    },
)

# Of each owner (an account with all its end users, or the address of an anonymous caller), over all pools;
# 0: no quota. Who has spent one gets 429 until there is some again.
QUOTA_CONFIG = overridden(
    "QUOTA",
    {
        # tasks at once, running and waiting
        "streams": 0,
        # of them, waiting ones
        "places": 0,
        # as providers count them; until a provider tells, pieces of text
        "tokens_per_minute": 0,
        # of events, however many read them
        "bytes_per_minute": 0,
        # that operations on notebooks run
        "kernel_seconds_per_hour": 0,
    },
)

SERVER_CONFIG = overridden(
    "SERVER",
    {
        # s that an idle connection is kept: longer than a proxy's, so that the proxy closes first
        "timeout_keep_alive": 75,
        # connections at once; beyond it the server answers 503 by itself
        "limit_concurrency": 10_000,
        # bytes of a request body
        "max_body_bytes": 1_048_576,
        # s for a whole request body to arrive
        "body_timeout": 30,
        # whether calls of programs pass by middleware that does nothing for them
        "hot_door": True,
        # s; the log says where the event loop is when it stands still for longer; 0: never
        "stall_limit": 1.0,
    },
)

# Django's own limit must not be the lower one.
DATA_UPLOAD_MAX_MEMORY_SIZE = SERVER_CONFIG["max_body_bytes"]
# No page takes a file, so large multipart forms, which are slow to parse, are refused (streaming/forms.py).
DATA_UPLOAD_MAX_NUMBER_FILES = 0

# Proxies, addresses and networks, whose X-Forwarded-For and X-Forwarded-Proto count; nobody else's.
TRUSTED_PROXIES = environment.words("TRUSTED_PROXIES") or environment.words("FORWARDED_ALLOW_IPS")

HOST = env.str("HOST", default="127.0.0.1")
PORT = number("PORT", 8000, 0, 65_535)

# Content codings of streams, for readers who take them, the best first: gzip, br, zstd. Empty: none.
STREAM_COMPRESSION = [each.strip() for each in env.list("STREAM_COMPRESSION", default=[])]

# Who may read /metrics: "false" nobody, "loopback" this machine without a proxy, "token" who sends
# METRICS_TOKEN, "true" everybody. In `directory` processes that share a port add up their numbers; those that
# `manage.py serve` starts need none.
METRICS_CONFIG = {
    "access": env.str("METRICS_ACCESS", default="loopback").lower(),
    "token": env.str("METRICS_TOKEN", default=""),
    "directory": env.str("METRICS_DIRECTORY", default=""),
}

# --- Alerts ----------------------------------------------------------------------------------------------

# kind: what is looked at; threshold: s, or a share from 0 to 1, null: the rule is off; window: s that are
# looked at, where things are counted; for: s above the threshold before the alert is raised; calm: s below it
# before it is resolved; min_count: tasks that there must be to tell anything; pool: empty for all.
_RULE = {"window": 300, "for": 60, "calm": 120, "severity": "warning", "min_count": 20, "pool": ""}
ALERTS = {
    name: overridden(f"ALERT_{name}", {**_RULE, **rule})
    for name, rule in {
        # s, of one task in twenty; cells of notebooks may work for minutes before they print something
        "first_content": {"kind": "first_content", "threshold": 5, "pool": "agent_pool"},
        # of the tasks that ended
        "error_share": {"kind": "error_share", "threshold": 0.05, "severity": "critical"},
        # of the calls, refused because the queue is full
        "rejected_share": {"kind": "rejected_share", "threshold": 0.05, "severity": "critical"},
        # s, of the task that waits longest
        "oldest_wait": {"kind": "oldest_wait", "threshold": 60},
        # s by which an event loop is late
        "loop_lag": {"kind": "loop_lag", "threshold": 1, "for": 30},
        # s without a sign of life from a process
        "no_heartbeat": {"kind": "no_heartbeat", "threshold": 10, "for": 10, "severity": "critical"},
        # what `manage.py doctor --watch` reports
        "doctor": {"kind": "reported", "threshold": 0, "for": 0},
    }.items()
}

ALERT_CONFIG = overridden(
    "ALERT",
    {
        # s between two looks, by one process at a time; 0: only `manage.py check_alerts` looks
        "interval": 15,
        # s that the webhook's receiver has for its answer
        "timeout": 5,
    },
) | {
    # Who gets mails; nobody named: Django's ADMINS.
    "emails": env.list("ALERT_EMAILS", default=[]),
    # Where alerts are posted as JSON. It may hold a secret, and is in no log.
    "webhook_url": env.str("ALERT_WEBHOOK_URL", default=""),
}

# Who sends mails, and from whom. EMAIL_URL: smtp://host:25, smtp+tls://user:password@host:587, smtp+ssl://…
vars().update(mail("EMAIL_URL", timeout=number("EMAIL_TIMEOUT", 10, 1, 300)))
DEFAULT_FROM_EMAIL = SERVER_EMAIL = env.str("SERVER_EMAIL", default="sluice@localhost")
EMAIL_SUBJECT_PREFIX = "[Sluice] "

# --- Who and what --------------------------------------------------------------------------------------

# Who may use the API without signing in: "false" nobody, "loopback" this machine without a proxy, "true".
ALLOW_ANONYMOUS = env.str("ALLOW_ANONYMOUS", default="false").lower()
# Pages of which other origins may call the API from a browser: scheme://host[:port], never a wildcard.
CORS_ALLOWED_ORIGINS = origins("CORS_ALLOWED_ORIGINS")
CORS_EXPOSE_HEADERS = [
    "X-Stream-Id",
    "X-Stream-Route",
    "Location",
    "Retry-After",
    "RateLimit",
    "RateLimit-Policy",
    "Idempotent-Replayed",
    "X-Request-ID",
]
CORS_ALLOW_HEADERS = [
    "accept",
    "authorization",
    "content-type",
    "last-event-id",
    "idempotency-key",
    "x-request-id",
    "traceparent",
]

# The model service: any that speaks OpenAI's chat completions. Without a key nothing leaves this machine.
OPENAI_API_KEY = env.str("OPENAI_API_KEY", default="")
OPENAI_API_BASE = env.str("OPENAI_API_BASE", default="https://api.openai.com/v1")
OPENAI_MODEL = env.str("OPENAI_MODEL", default="gpt-4o-mini")
# Further models that a brief may ask for by name.
OPENAI_MODELS = env.list("OPENAI_MODELS", default=[])
OPENAI_CONFIG = overridden(
    "OPENAI",
    {
        # s to open a connection
        "connect_timeout": 5,
        # s from the request to the first token, tries included
        "first_token_timeout": 30,
        # s between two tokens
        "token_timeout": 30,
        # connections at once; what is more waits for one
        "max_connections": 100,
        # s that an idle connection is kept for the next request
        "keepalive": 60,
        # tries after the first one, all before the first token
        "retries": 2,
    },
)
# Which provider writes when a brief names none.
CONTENT_PROVIDER = env.str("CONTENT_PROVIDER", default="openai" if OPENAI_API_KEY else "offline")
# Exact tokens at an exact pace, for tests, demos and benchmarks; never on a public server.
ALLOW_SCRIPTED_PROVIDER = flag("ALLOW_SCRIPTED_PROVIDER", default=False)

# --- Several machines -----------------------------------------------------------------------------------

# What processes share: queue, limits, events on their way. Empty: they share the database only.
# redis://[user:password@]host[:port]/number, rediss:// with TLS, unix:///path.
REDIS_URL = env.str("REDIS_URL", default="")
# Who runs tasks that wait: "local" this process or another one like it, "celery" workers (manage.py worker).
STREAM_ENGINE = one_of("STREAM_ENGINE", "local", ("local", "celery"))
# Through what workers get their tasks; a Redis, which may be the same.
CELERY_BROKER_URL = env.str("CELERY_BROKER_URL", default=REDIS_URL)
CLUSTER_CONFIG = overridden(
    "CLUSTER",
    {
        # before every key in Redis: installations that share one need different ones
        "prefix": "sluice",
        # s that Redis has for an answer; then what needs it is refused (503)
        "redis_timeout": 1.0,
        # what becomes of a task that had sent something when its process died: "error": it ends
        # `interrupted`; "restart": it begins anew, and its readers get `restart`
        "on_lost": "error",
        # times that a task is begun at most
        "max_attempts": 3,
        # tasks of a pool that run at once in all processes; 0: as many as all processes have workers
        "max_running": 0,
        # whether workers take only what is signed with SECRET_KEY
        "signed": False,
    },
)
# Wake-ups between consumers of the host project. The sockets here use no layer: events come from journals,
# which lose nothing. Two connections per process, however many sockets.
if REDIS_URL:
    CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": {
                # redis-py would end a connection on which nothing comes for 5 s, with the sockets behind it.
                "hosts": [{"address": REDIS_URL, "socket_timeout": None}],
                "prefix": f"{CLUSTER_CONFIG['prefix']}:channels:",
            },
        }
    }

# --- Django --------------------------------------------------------------------------------------------

DEBUG = flag("DEBUG", default=False)
SECRET_KEY = env.str("SECRET_KEY", default="")
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=[])
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[])

# Django looks for its own middleware by name and does not see that ours are subclasses of it
# (streaming/middleware.py); streaming.W006 and W007 look at what these would have looked at.
SILENCED_SYSTEM_CHECKS = ["security.W001", "security.W002", "security.W003"]

# Cookies only over TLS, except where somebody develops on their own machine.
SECURE_COOKIES = flag("SECURE_COOKIES", default=not DEBUG)
SESSION_COOKIE_SECURE = flag("SESSION_COOKIE_SECURE", default=SECURE_COOKIES)
CSRF_COOKIE_SECURE = flag("CSRF_COOKIE_SECURE", default=SECURE_COOKIES)
# With __Host- browsers take the cookie from this very host over TLS only, so no neighbour plants one.
SESSION_COOKIE_NAME = cookie_name("SESSION_COOKIE_NAME", "sessionid", secure=SESSION_COOKIE_SECURE)
CSRF_COOKIE_NAME = cookie_name("CSRF_COOKIE_NAME", "csrftoken", secure=CSRF_COOKIE_SECURE)
# s that somebody stays signed in
SESSION_COOKIE_AGE = number("SESSION_COOKIE_AGE", 1_209_600, 300, 31_536_000)

# No SECURE_PROXY_SSL_HEADER: TRUSTED_PROXIES says whose X-Forwarded-Proto counts, and so who came over TLS.
SECURE_SSL_REDIRECT = flag("SECURE_SSL_REDIRECT", default=False)
# Programs on the same machine or network ask for these, without TLS.
SECURE_REDIRECT_EXEMPT = [r"^(healthz|readyz|metrics)$"]
# s that browsers come by TLS alone; sent over TLS only. An hour harms nobody, a year is for who is sure.
SECURE_HSTS_SECONDS = number("SECURE_HSTS_SECONDS", 0 if DEBUG else 3600, 0, 315_360_000)
# All names below this one have TLS, too; and the browsers' own lists may hold it (hstspreload.org).
SECURE_HSTS_INCLUDE_SUBDOMAINS = flag("SECURE_HSTS_INCLUDE_SUBDOMAINS", default=False)
SECURE_HSTS_PRELOAD = flag("SECURE_HSTS_PRELOAD", default=False)

INSTALLED_APPS = [
    # An ASGI `runserver`; must come before staticfiles. Twisted is 20 MB, which no other command pays for.
    *(["daphne"] if "runserver" in sys.argv[1:2] else []),
    "unfold",  # the admin's theme; must come before the admin
    "unfold.contrib.filters",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "servestatic",
    "corsheaders",
    "ninja",  # its own copy of the API documentation page: nothing from a CDN
    "streaming",
    "contentgen",
    "notebooks",
    "accounts",
]

# Django's own, without the thread hops (see streaming/middleware.py).
MIDDLEWARE = [
    "corsheaders.middleware.CorsMiddleware",
    "streaming.middleware.SecurityMiddleware",
    "servestatic.middleware.ServeStaticMiddleware",
    "streaming.middleware.ContentSecurityPolicyMiddleware",
    "streaming.middleware.SessionMiddleware",
    "streaming.middleware.LocaleMiddleware",
    "streaming.middleware.CommonMiddleware",
    "streaming.middleware.CsrfViewMiddleware",
    "streaming.middleware.AuthenticationMiddleware",
    "streaming.middleware.MessageMiddleware",
    "streaming.middleware.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "settings.urls"
WEBSOCKET_URLCONF = "settings.websockets"
ASGI_APPLICATION = "settings.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

DATABASES: dict[str, dict[str, Any]] = {
    "default": database(
        "DATABASE_URL", {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "db.sqlite3"}
    )
}
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    # Readers do not wait for the writer (WAL), a writer waits for its turn instead of failing; pages that are
    # written again and again (those of indexes) go from the log to the file each 16 MB only.
    DATABASES["default"]["OPTIONS"] = {
        "timeout": 20,
        "transaction_mode": "IMMEDIATE",
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA wal_autocheckpoint=4000;",
    }
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

LOGIN_URL = "login"
LOGIN_REDIRECT_URL = LOGOUT_REDIRECT_URL = "home"

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]

LANGUAGES = [("en", "English"), ("zh-hans", "简体中文")]
LANGUAGE_CODE = one_of("LANGUAGE_CODE", "en", dict(LANGUAGES))
TIME_ZONE = one_of("TIME_ZONE", "UTC", available_timezones())
USE_I18N = True
LOCALE_PATHS = [BASE_DIR / "locale"]
USE_TZ = True

STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
# Files come straight from the apps: no collectstatic between a checkout and a running server.
SERVESTATIC_USE_FINDERS = True
# Looked up once at the start, not for each request (that costs a thread hop each).
SERVESTATIC_AUTOREFRESH = False

# --- Logs ----------------------------------------------------------------------------------------------

LOG_LEVEL = one_of("LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"))
# "console": lines for people, "json": an object a line for programs.
LOG_FORMAT = one_of("LOG_FORMAT", "console", ("console", "json"))
# Where lines go; empty: standard error.
LOG_FILE = env.str("LOG_FILE", default="")
# A line for each request.
ACCESS_LOG = flag("ACCESS_LOG", default=True)
# Where spans of tasks go: "none", "otlp" (to OTEL_EXPORTER_OTLP_ENDPOINT), "console".
OTEL_TRACES_EXPORTER = environment.spans_to()

_OURS = {"handlers": ["lines"], "level": LOG_LEVEL, "propagate": False}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {
            "()": "streaming.telemetry.lines.LineFormatter",
            "style": LOG_FORMAT,
            # The tokens of sign-in links work until they are used.
            "hide": [r"(/signin/)[^/\s?\"']+"],
        }
    },
    "filters": {
        "counted_refusals": {"()": "streaming.logs.CountedRefusals"},
        "foreign_hosts": {"()": "streaming.logs.ForeignHosts"},
        "without_traceback": {"()": "streaming.logs.WithoutTraceback"},
        "without_peers_faults": {"()": "streaming.logs.WithoutPeersFaults"},
    },
    "handlers": {
        "lines": {
            "class": "streaming.telemetry.lines.LinesHandler",
            "path": LOG_FILE,
            "formatter": "line",
            "filters": ["without_traceback"],
        }
    },
    # What libraries say, and asyncio.
    "root": {"handlers": ["lines"], "level": "WARNING"},
    "loggers": {
        "streaming": _OURS,
        "streaming.access": {"level": LOG_LEVEL if ACCESS_LOG else "WARNING"},
        "contentgen": _OURS,
        "notebooks": _OURS,
        "accounts": _OURS,
        "django": {"handlers": ["lines"], "level": "INFO", "propagate": False},
        "django.request": {"filters": ["counted_refusals"]},
        "django.security.DisallowedHost": {"filters": ["foreign_hosts"]},
        "uvicorn": {"handlers": ["lines"], "level": "WARNING", "propagate": False},
        "uvicorn.error": {"filters": ["without_peers_faults"]},
    },
}

# Variables that look like ours and that nothing above has read: slips of the hand. (Name, the nearest.)
ENVIRONMENT_UNKNOWN = environment.unknown()
