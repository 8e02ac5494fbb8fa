"""Changes of the nginx that is shipped, for `nginx.fronted`: what a proxy must not do to streams."""

GZIP = "proxy_hide_header Content-Encoding; gzip on; gzip_types *; gzip_proxied any; gzip_min_length 1;"

COMPRESSING = {"gzip off;": "", "server_tokens off;": GZIP}
"""A proxy that compresses streams, and passes on each event."""

BUFFERING = {
    "proxy_buffering off;": "proxy_buffering on;",
    "proxy_http_version 1.1;": "proxy_http_version 1.0;",
}
"""What nginx does unless told otherwise. It passes on each chunk of a chunked answer, so before our server it
holds nothing back; but it does before another proxy, whose answers to HTTP/1.0 have no chunks."""

COLLECTING = (
    BUFFERING | COMPRESSING | {"server_tokens off;": f"proxy_ignore_headers X-Accel-Buffering; {GZIP}"}
)
"""Buffering and gzip, which collects until there is enough to compress."""
