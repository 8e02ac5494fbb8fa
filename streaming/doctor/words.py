"""What the doctor says: a sentence for each finding, and what to do about it, in plain words."""

from __future__ import annotations

from typing import Any, Final

from django.utils.translation import gettext, gettext_noop

from streaming.core.diagnosis import Finding

SENTENCES: Final = {
    "fine": gettext_noop("Fine: events arrive as they are sent."),
    "not_measured": gettext_noop("It answers; too few events to tell whether somebody holds them."),
    # The way
    "name_unknown": gettext_noop("The name of the server is not known here (%(detail)s)."),
    "unreachable": gettext_noop("Nobody answers at that address (%(detail)s)."),
    "tls_failed": gettext_noop("TLS could not be agreed upon (%(detail)s)."),
    "wrong_scheme": gettext_noop("The address says http where https is spoken, or the other way round."),
    "not_http": gettext_noop("Whoever listens there does not speak HTTP (%(detail)s)."),
    "no_answer": gettext_noop(
        "The connection stands, but no answer came (%(detail)s): the server hangs, or a proxy holds "
        "everything."
    ),
    "redirected": gettext_noop(
        "The call was sent on to %(location)s; streams must be called where they are."
    ),
    "not_sluice": gettext_noop("Somebody answers there, but no Sluice with that call (status %(status)s)."),
    "server_away": gettext_noop("A proxy answers (status %(status)s), but the server behind it does not."),
    "buffered_by_proxy": gettext_noop(
        "A proxy is buffering: %(bunched_percent)s %% of the events that were sent apart arrived together"
        " (bursts: %(bursts)s); events were held for up to %(held_ms)s ms."
    ),
    "buffered_by_proxy:one_behind": gettext_noop(
        "A proxy is buffering: it is always one piece behind. Each event came only when the next one was "
        "sent; events were held for up to %(held_ms)s ms."
    ),
    "buffered_by_proxy:timer": gettext_noop(
        "A proxy is buffering: it sends on a timer of its own, whatever comes in between; events were held "
        "for up to %(held_ms)s ms."
    ),
    "compressed_without_flush": gettext_noop(
        "A proxy is buffering: it compresses (%(encoding)s) and does not pass on each event. Events were "
        "held for up to %(held_ms)s ms; uncompressed they arrive in time."
    ),
    "held_at_start": gettext_noop(
        "The beginning was held for %(held_ms)s ms: events that were sent apart arrived together "
        "(%(events)s), and all others in time."
    ),
    "compressed_too": gettext_noop(
        "What is held back is compressed, too (%(encoding)s), and not by our pace."
    ),
    "compressed": gettext_noop("The stream is compressed (%(encoding)s), and still arrives event by event."),
    "undecodable": gettext_noop(
        "The stream is not what its Content-Encoding says (%(encoding)s): %(detail)s"
    ),
    "collected": gettext_noop(
        "The answer has a length (%(content_length)s bytes): somebody collected the whole stream first."
    ),
    "headers_changed": gettext_noop(
        "The headers that keep a stream from being stored or changed did not arrive (Cache-Control: "
        "%(cache_control)s)."
    ),
    "http_1_0": gettext_noop("The answer is HTTP/1.0, which knows no pieces."),
    "uneven_network": gettext_noop(
        "The network is uneven: one event in twenty was %(p95_ms)s ms or more later than the fastest one."
    ),
    "late_answer": gettext_noop(
        "The answer began %(waited_ms)s ms after the call, although every stream begins at once."
    ),
    "far_away": gettext_noop("Connecting alone took %(connect_ms)s ms."),
    "reader_busy": gettext_noop(
        "This machine was late itself, by %(lag_ms)s ms: measure again when it rests."
    ),
    # The server
    "busy_server": gettext_noop(
        "The server is busy: one event in twenty left it %(p95_ms)s ms or more after it was due."
    ),
    "queued": gettext_noop("The task waited %(queued_ms)s ms for its turn."),
    "queued_too_long": gettext_noop("After %(after_ms)s ms the task still waited for its turn."),
    "pool_full": gettext_noop("The pool is full: no more tasks are taken."),
    "pool_busy": gettext_noop(
        "All %(max_workers)s places of %(pool)s are taken, and the next task has to wait (waiting now: "
        "%(waiting)s)."
    ),
    "stuck_producers": gettext_noop(
        "In %(pool)s %(stuck)s producers do not come back and keep their places."
    ),
    "own_limit": gettext_noop("This caller has as many streams as one may have (%(problem)s)."),
    "restarting": gettext_noop("The server is going down or starting again."),
    "status_flood": gettext_noop("Status messages flood the stream: %(rate)s a second."),
    "lost_events": gettext_noop("Of %(expected)s events only %(came)s came, or not in their order."),
    "cut": gettext_noop(
        "The stream was cut after %(after_ms)s ms, %(silent_ms)s ms after the last that came of it, "
        "without its last event. %(detail)s"
    ),
    "silent": gettext_noop(
        "The stream stands still: no end in %(after_ms)s ms, and nothing at all in the last %(silent_ms)s"
        " ms. A proxy holds it, or the server hangs."
    ),
    "unfinished": gettext_noop(
        "After %(after_ms)s ms the stream still ran; what came until then was measured."
    ),
    "server_stalls": gettext_noop(
        "The server stalls: by its own clock %(gap_ms)s ms passed between two events, and no provider was"
        " asked."
    ),
    "server_failed": gettext_noop("The server failed (status %(status)s)."),
    "task_failed": gettext_noop("The task failed: %(code)s. %(message)s"),
    # The provider
    "slow_provider": gettext_noop(
        "The provider is slow: by the server's own clock its first text took %(first_ms)s ms. The way is "
        "not to "
        "blame."
    ),
    "provider_stalls": gettext_noop(
        "The provider stalls: by the server's own clock %(gap_ms)s ms passed between two pieces of text."
    ),
    "provider_hangs": gettext_noop(
        "The provider hangs: the server shows signs of life, but no more text came, and after "
        "%(after_ms)s ms it had not ended."
    ),
    "provider_failed": gettext_noop("The provider failed: %(code)s. %(message)s"),
    # We
    "doctor_failed": gettext_noop("The doctor itself failed (%(error)s); nothing is known of the server."),
    # Who calls
    "not_authenticated": gettext_noop("The server wants to know who calls (%(problem)s)."),
    "not_allowed": gettext_noop("The server does not allow this call (%(problem)s)."),
    "wrong_host": gettext_noop("The server does not answer to that host name."),
    "refused": gettext_noop("The server refuses the call (status %(status)s %(problem)s)."),
    "proxy_refuses": gettext_noop(
        "Not the server but a proxy before it refuses the call (status %(status)s, by %(proxy)s)."
    ),
    "server_full": gettext_noop(
        "The server has as many requests and streams open as it takes (%(problem)s)."
    ),
    "storage_away": gettext_noop("The server's database does not answer (%(problem)s)."),
    "too_many_probes": gettext_noop("Too many probes are open already: of this caller, or of all."),
    "wrong_key": gettext_noop("The server does not know this API key, or no longer (%(problem)s)."),
}
"""By the code of a finding; some have another one for how events are held."""

REMEDIES: Final = {
    "name_unknown": gettext_noop("Look for a slip of the pen in the address; ask the name server."),
    "unreachable:refused": gettext_noop(
        "Is the server running (systemctl status, manage.py serve), at this port, and on this address (HOST)?"
    ),
    "unreachable:timeout": gettext_noop("A firewall drops the packets, or the machine is off."),
    "tls_failed:certificate": gettext_noop(
        "Renew the certificate, name this host in it and send its whole chain; for a private one: --insecure."
    ),
    "wrong_scheme": gettext_noop("Call it with the other scheme."),
    "redirected": gettext_noop(
        "Use that address. Where it is the same one with https, which a proxy speaks for the server: list"
        " that proxy in TRUSTED_PROXIES, and let it send X-Forwarded-Proto."
    ),
    "not_sluice": gettext_noop(
        "Look at the address: its root is enough. A path that is none of Sluice's own counts as a prefix "
        "of all its paths."
    ),
    "server_away": gettext_noop(
        "Start the server, or look at its log of this moment; compare its port with the proxy's upstream."
    ),
    "held_at_start": gettext_noop(
        "Measure again: once, it may have been a lost packet; where it is so each time, a proxy or a virus "
        "scanner looks at the beginning before it passes it on."
    ),
    "uneven_network": gettext_noop("Measure again from another place, and over a cable."),
    "late_answer": gettext_noop(
        "Measure directly at the server: where that is fine, a proxy waits; where it is not, the server is "
        "busy."
    ),
    "collected": gettext_noop("Switch off what stores or scans answers between here and the server."),
    "undecodable": gettext_noop(
        "Whoever sets Content-Encoding between here and the server must also encode: look at what the proxy "
        "compresses."
    ),
    "headers_changed": gettext_noop(
        "Let the proxy pass on Cache-Control as it came (nginx: no expires, no add_header)."
    ),
    "http_1_0": gettext_noop(
        "nginx: proxy_http_version 1.1;  Apache: remove downgrade-1.0 and force-response-1.0."
    ),
    "busy_server": gettext_noop(
        "Look at the processor (top) and at what blocks the event loop; serve with more --workers."
    ),
    "queued": gettext_noop("More workers in the pool (AGENT_POOL_MAX_WORKERS), or fewer tasks at a time."),
    "queued_too_long": gettext_noop(
        "More workers in the pool (AGENT_POOL_MAX_WORKERS); look at /stats for what hangs."
    ),
    "pool_full": gettext_noop(
        "More workers (AGENT_POOL_MAX_WORKERS), a longer queue (AGENT_POOL_QUEUE_SIZE), or look at /stats "
        "for what "
        "hangs."
    ),
    "pool_busy": gettext_noop("More workers in the pool (AGENT_POOL_MAX_WORKERS)."),
    "stuck_producers": gettext_noop("Find out what they wait for; only a restart of the server ends them."),
    "own_limit": gettext_noop("Wait until some have ended, or raise AGENT_POOL_PER_OWNER."),
    "restarting": gettext_noop("Measure again in a few seconds."),
    "status_flood": gettext_noop("Raise SSE_STATUS_MESSAGE_INTERVAL."),
    "silent": gettext_noop(
        "Measure directly at the server: where that is fine, the proxy holds the stream. With --brief: "
        "give it a --timeout of more than two heartbeats (SSE_HEARTBEAT_INTERVAL), which tell a provider "
        "that hangs."
    ),
    "server_stalls": gettext_noop(
        "Look at what blocks the event loop (the log, sluice_loop_lag_seconds), and whether the machine "
        "slept or swaps."
    ),
    "server_failed": gettext_noop("Look at the server's log of this moment."),
    "slow_provider": gettext_noop(
        "Look at the model service; a smaller model or a shorter prompt answers sooner."
    ),
    "provider_stalls": gettext_noop("Look at the model service; OPENAI_TOKEN_TIMEOUT bounds such a pause."),
    "provider_hangs": gettext_noop("Look at the model service; AGENT_POOL_RUN_TIMEOUT ends such tasks."),
    "not_authenticated": gettext_noop("Give an API key with --key (manage.py create_api_key makes one)."),
    "not_allowed": gettext_noop("Call with the key of a user who may do this, and with scopes for it."),
    "wrong_host": gettext_noop(
        "Add the name to ALLOWED_HOSTS, and let the proxy pass it on (nginx: proxy_set_header Host $host;)."
    ),
    "doctor_failed": gettext_noop("The log has the details, which belong into a report of this error."),
    # Buffering, by the proxy's name
    "buffering:nginx": "proxy_buffering off; proxy_cache off; proxy_http_version 1.1; gzip off;\n"
    "# and no proxy_ignore_headers X-Accel-Buffering; as a whole: deploy/nginx_streaming.conf",
    "buffering:apache": "ProxyPass / http://127.0.0.1:8000/ flushpackets=on\n"
    "SetEnvIf Request_URI . no-gzip=1",
    "buffering:caddy": "reverse_proxy 127.0.0.1:8000 { flush_interval -1 }",
    "buffering:cloudflare": "Rules → Configuration Rules: Response Buffering off; Cache Rules: Bypass",
    "buffering:varnish": "sub vcl_backend_response { set beresp.do_stream = true; }\n"
    "sub vcl_recv { return (pipe); }",
    "buffering:haproxy": "no option http-buffer-request\ntimeout tunnel 1h",
    "buffering:traefik": "# no middleware `buffering`; responseForwarding.flushInterval: -1",
    "buffering:envoy": "# no envoy.filters.http.buffer; route timeout: 0s",
    "buffering:iis": '<handlers><add … responseBufferLimit="0" /></handlers>',
    "buffering:unknown": gettext_noop(
        "Switch off buffering for /streams/, /content/ and /send_operation in whatever is between (nginx: "
        "proxy_buffering off; Apache: flushpackets=on; Caddy: flush_interval -1); virus scanners and company "
        "proxies hold streams, too. Measure directly at the server to be sure."
    ),
    # Compression
    "compression:nginx": "gzip off;  (brotli off;)",
    "compression:apache": "SetEnvIf Request_URI . no-gzip=1",
    "compression:caddy": "encode: match not path /streams/* /content/*",
    "compression:cloudflare": "Rules → Compression Rules: disable",
    "compression:varnish": "set beresp.do_gzip = false;",
    "compression:unknown": gettext_noop(
        "Switch off compression of text/event-stream in whatever is between."
    ),
    "cut:silent": gettext_noop(
        "Whoever is between ends what is silent for so long: raise its limit (nginx: proxy_read_timeout, "
        "120s in deploy/), or lower SSE_HEARTBEAT_INTERVAL below a quarter of it."
    ),
    "cut:flowing": gettext_noop(
        "Events were still coming, so it was no limit of time for silence: look at the logs of the server"
        " and the proxy of that moment, for a restart, a crash, or a limit for whole answers."
    ),
    "no_answer:timeout": gettext_noop(
        "Measure directly at the server: where an answer begins there, a proxy holds it (buffering, "
        "compression); where not, look at the server's log and its processor."
    ),
    "no_answer:closed": gettext_noop(
        "Somebody closed the connection without a word: look at the logs of the proxy and of the server "
        "of that moment."
    ),
    "no_answer:unknown": gettext_noop("Measure directly at the server, and look at its log of that moment."),
    "not_http": gettext_noop(
        "Another service listens at that port: compare it with PORT of the server, or the proxy's listen "
        "line."
    ),
    "unreachable:unknown": gettext_noop(
        "Look at the address and at the network: is there a way to that machine (ping, traceroute)?"
    ),
    "tls_failed:unknown": gettext_noop(
        "Compare the versions of TLS and the ciphers that both sides take; openssl s_client -connect "
        "tells more."
    ),
    "lost_events": gettext_noop(
        "The server numbers its events and sends each one, so somebody between takes events out or "
        "changes their order: look for proxies and scanners that rewrite answers."
    ),
    "far_away": gettext_noop("Measure the way itself (ping, traceroute), and serve nearer to the readers."),
    "refused": gettext_noop(
        "The code says why (docs/protocol.md, Problems); with --brief it is mostly a field of the brief."
    ),
    "task_failed:unknown": gettext_noop(
        "Look at the server's log for the task; docs/protocol.md explains the code."
    ),
    "task_failed:run_timeout": gettext_noop("Raise AGENT_POOL_RUN_TIMEOUT, or ask for less."),
    "task_failed:cancelled": gettext_noop("Somebody cancelled it; the server's log says who."),
    "provider_failed:unknown": gettext_noop(
        "Look at the model service, its key and its limits; the server's log says more."
    ),
    "provider_failed:upstream_auth": gettext_noop(
        "The model service does not take the server's key: OPENAI_API_KEY."
    ),
    "provider_failed:upstream_rejected": gettext_noop(
        "The model service refuses this brief: its model, or a text that is too long."
    ),
    "proxy_refuses": gettext_noop(
        "Look at the rules, limits and logs of whatever is between (a firewall, a CDN, a gateway with a "
        "sign-in of its own); measure directly at the server to be sure."
    ),
    "server_full": gettext_noop(
        "Raise SERVER_LIMIT_CONCURRENCY (and ulimit -n), serve with more --workers, or set a limit of its"
        " own in the proxy."
    ),
    "storage_away": gettext_noop("Look at the database (DATABASE_URL) and at /readyz."),
    "too_many_probes": gettext_noop(
        "Measure again in a few seconds; let fewer monitors stream the probe at once."
    ),
    "wrong_key": gettext_noop(
        "Compare --key with what manage.py create_api_key printed; it may have been revoked."
    ),
}
"""By the remedy of a finding. Lines of configuration are the same in every language."""


def sentence(finding: Finding) -> str:
    """What was found."""
    how = f"{finding.code}:{finding.evidence.get('how')}"
    template = SENTENCES.get(how) or SENTENCES.get(finding.code)
    return gettext(template) % _Evidence(finding.evidence) if template else finding.code


def remedy(finding: Finding) -> str:
    """What to do about it; empty where nothing is to be done."""
    key = finding.remedy
    if not key:
        return ""
    general = f"{key.partition(':')[0]}:unknown"
    text = REMEDIES.get(key) or REMEDIES.get(general)
    return gettext(text) if text else ""


class _Evidence(dict[str, Any]):
    """Evidence for a sentence; what is missing is a dash."""

    def __missing__(self, key: str) -> str:
        return "–"
