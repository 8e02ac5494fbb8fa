/* A load client for event streams over HTTP/1.1 on loopback: one thread, epoll, libc only.
 *
 *     client key=value ...
 *
 * sends the prepared request in the file `request` over one or many connections, decodes chunks and
 * server-sent events as they come, and checks each stream: status 200, tokens "0 1 2 ... " in order and
 * complete (they stand in "delta" members of `content` events), then a `complete` event. Whatever differs
 * is an error, and an error is the result.
 *
 * Where the request holds the 17 characters @@@@@@@@@@@@@@@@@ the moment of sending is put in, in Unix
 * seconds with six decimals: peers make token k due at that moment + k * interval, so that the client
 * knows exactly when each was due.
 *
 * Modes: start (one stream after another), paced (streams * interval, measured while all are open),
 * loop (connections that begin a new stream whenever one ends), idle (streams that stay open until
 * standard input ends). Output: JSON lines. {"mark": ...} tells the caller to look at the server;
 * the last line is {"result": ...}.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

/* --- Options ------------------------------------------------------------------------------------------- */

static const char *mode = "start", *request_path = NULL;
static int port = 0, core = -1;
static long connections = 1;       /* of paced, loop, idle */
static long tokens = 1;            /* that each stream must bring */
static double interval = 0;        /* seconds between two due times */
static double seconds = 1;         /* length of the measured window */
static double ramp = 0;            /* seconds over which paced and idle open their streams, loop its warm-up */
static double settle = 0.5;        /* seconds between the ramp and the window of paced */
static double patience = 15;       /* seconds beyond the plan after which what is missing is an error */
static long samples = 1, warmup = 0; /* of start */
static double pause_s = 0.003;     /* seconds between two streams of start */
static bool keep_alive = true;
static bool end_by_event = false;  /* the peer never ends a response: `complete` is the end, then close */

static void take_option(char *text) {
    char *value = strchr(text, '=');
    if (!value) { fprintf(stderr, "not key=value: %s\n", text); exit(2); }
    *value++ = 0;
    if (!strcmp(text, "mode")) mode = value;
    else if (!strcmp(text, "request")) request_path = value;
    else if (!strcmp(text, "port")) port = atoi(value);
    else if (!strcmp(text, "core")) core = atoi(value);
    else if (!strcmp(text, "connections")) connections = atol(value);
    else if (!strcmp(text, "tokens")) tokens = atol(value);
    else if (!strcmp(text, "interval")) interval = atof(value);
    else if (!strcmp(text, "seconds")) seconds = atof(value);
    else if (!strcmp(text, "ramp")) ramp = atof(value);
    else if (!strcmp(text, "settle")) settle = atof(value);
    else if (!strcmp(text, "patience")) patience = atof(value);
    else if (!strcmp(text, "samples")) samples = atol(value);
    else if (!strcmp(text, "warmup")) warmup = atol(value);
    else if (!strcmp(text, "pause")) pause_s = atof(value);
    else if (!strcmp(text, "keep_alive")) keep_alive = atoi(value);
    else if (!strcmp(text, "end_by_event")) end_by_event = atoi(value);
    else { fprintf(stderr, "unknown option: %s\n", text); exit(2); }
}

/* --- Time, numbers, output ----------------------------------------------------------------------------- */

static int64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static double cpu_seconds(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return u.ru_utime.tv_sec + u.ru_stime.tv_sec + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

typedef struct { float *at; size_t count, room; } Values;

static void push(Values *v, double value) {
    if (v->count == v->room) {
        v->room = v->room ? 2 * v->room : 4096;
        v->at = realloc(v->at, v->room * sizeof *v->at);
        if (!v->at) { perror("realloc"); exit(2); }
    }
    v->at[v->count++] = (float)value;
}

static int by_size(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Nearest rank; the values must be sorted. */
static double percentile(const Values *v, double share) {
    size_t rank = (size_t)(share * v->count + 0.999999);
    return v->at[rank ? (rank > v->count ? v->count : rank) - 1 : 0];
}

static void print_summary(const char *name, Values *v, double scale) {
    if (!v->count) { printf(", \"%s\": null", name); return; }
    qsort(v->at, v->count, sizeof *v->at, by_size);
    printf(", \"%s\": {\"count\": %zu, \"p50\": %.3f, \"p95\": %.3f, \"p99\": %.3f, \"max\": %.3f}", name,
           v->count, percentile(v, .5) * scale, percentile(v, .95) * scale, percentile(v, .99) * scale,
           v->at[v->count - 1] * scale);
}

static void mark(const char *name) {
    printf("{\"mark\": \"%s\"}\n", name);
    fflush(stdout);
}

static char failure[1024];

static void fail(const char *format, ...) {
    if (*failure) return; /* the first one tells most */
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(failure, sizeof failure, format, arguments);
    va_end(arguments);
}

static void print_quoted(const char *text) {
    putchar('"');
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\') printf("\\%c", c);
        else if (c < 0x20 || c > 0x7e) printf("\\u%04x", c);
        else putchar(c);
    }
    putchar('"');
}

/* --- One connection ------------------------------------------------------------------------------------ */

enum Phase { CLOSED, CONNECTING, HEAD, BODY_SIZE, BODY_DATA, BODY_DATA_END, BODY_TRAILER, BODY_PLAIN, IDLE };
enum Event { NO_EVENT, CONTENT, COMPLETE, STATUS, OTHER };

typedef struct {
    int fd;
    enum Phase phase;
    bool close_after, begun_once;
    /* of the response */
    int status;
    bool chunked;
    int64_t left;      /* bytes of the chunk, or of the body; -1: until it closes */
    char *line;        /* an unfinished line of the head, a chunk's size, or of the event stream */
    size_t held, room;
    char *text;        /* the same for the event stream */
    size_t text_held, text_room;
    /* of the stream */
    enum Event event;
    int64_t began, sent; /* connect or send; send, microseconds */
    long next_token;
    bool complete, ended, has_content;
    int statuses;
} Connection;

static Connection *all;
static int poller, alarm_fd;
static char *request_bytes, *stamp_at;
static size_t request_size;

static int64_t window_from = INT64_MAX, window_to = INT64_MAX; /* microseconds */
static Values first_content, late;
static double tokens_in_window, events_in_window, bytes_in_window, streams_in_window, due_delivered;
static long opened, with_content, finished, statuses_seen;
static double total_tokens;
static int64_t now;

static void on_first_content(Connection *c);
static void on_stream_end(Connection *c);

static void close_connection(Connection *c) {
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
    c->phase = CLOSED;
}

static void send_request(Connection *c) {
    c->sent = now_us();
    if (stamp_at) {
        char stamp[32];
        snprintf(stamp, sizeof stamp, "%010lld.%06lld", (long long)(c->sent / 1000000), (long long)(c->sent % 1000000));
        memcpy(stamp_at, stamp, 17);
    }
    if (send(c->fd, request_bytes, request_size, MSG_NOSIGNAL) != (ssize_t)request_size) {
        fail("the request could not be sent: %s", strerror(errno));
        close_connection(c);
        return;
    }
    c->phase = HEAD;
}

static void begin_stream(Connection *c) {
    c->event = NO_EVENT;
    c->next_token = c->statuses = c->status = 0;
    c->complete = c->ended = c->has_content = c->chunked = c->close_after = false;
    c->held = c->text_held = 0;
    c->left = -1;
    c->began = now_us();
    opened++;
    if (c->phase == IDLE) { send_request(c); return; }
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) { fail("socket: %s", strerror(errno)); return; }
    int one = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->phase = CONNECTING;
    int done = connect(c->fd, (struct sockaddr *)&to, sizeof to);
    if (done < 0 && errno != EINPROGRESS) { fail("connect: %s", strerror(errno)); close_connection(c); return; }
    struct epoll_event interest = {.events = EPOLLIN | (done < 0 ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &interest);
    if (done == 0) send_request(c);
}

static void on_connected(Connection *c) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) { fail("connect: %s", strerror(error)); close_connection(c); return; }
    struct epoll_event interest = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &interest);
    send_request(c);
}

static void keep(char **buffer, size_t *held, size_t *room, const char *data, size_t size) {
    if (*held + size > *room) {
        *room = 2 * (*held + size) + 128;
        *buffer = realloc(*buffer, *room);
        if (!*buffer) { perror("realloc"); exit(2); }
    }
    memcpy(*buffer + *held, data, size);
    *held += size;
}

/* The tokens of one `content` event: numbers, each with a space behind it. */
static void on_content(Connection *c, const char *data, size_t size) {
    const char *at = memmem(data, size, "\"delta\":", 8), *end = data + size;
    if (at) for (at += 8; at < end && *at == ' '; at++) {}
    if (!at || at >= end || *at++ != '"') { fail("a content event without delta: %.*s", (int)(size < 200 ? size : 200), data); return; }
    long first = c->next_token;
    while (at < end && *at != '"') {
        long number = 0;
        const char *digits = at;
        while (at < end && *at >= '0' && *at <= '9') number = 10 * number + (*at++ - '0');
        if (at == digits || at >= end || *at != ' ' || number != c->next_token) {
            fail("token %ld was expected: %.*s", c->next_token, (int)(size < 200 ? size : 200), data);
            return;
        }
        at++;
        c->next_token++;
    }
    long count = c->next_token - first;
    if (!count) return;
    total_tokens += count;
    if (!c->has_content) { c->has_content = true; with_content++; on_first_content(c); }
    if (now >= window_from && now < window_to) { tokens_in_window += count; events_in_window++; }
    if (interval > 0 && stamp_at) {
        int64_t step = (int64_t)(interval * 1e6 + .5), due = c->sent + first * step;
        /* The first token waits for nothing: its time is the start, not a lateness. */
        if (first > 0 && due >= window_from && due < window_to) push(&late, (double)(now - due));
        if (now < window_to + 1000000)
            for (long k = 0; k < count; k++, due += step)
                if (due >= window_from && due < window_to) due_delivered++;
    }
}

static void on_line(Connection *c, const char *line, size_t size) {
    if (size && line[size - 1] == '\r') size--;
    if (!size) { c->event = NO_EVENT; return; }
    if (size > 6 && !memcmp(line, "event:", 6)) {
        const char *name = line + 6 + (line[6] == ' ');
        size_t length = size - (size_t)(name - line);
        c->event = OTHER;
        if (length == 7 && !memcmp(name, "content", 7)) c->event = CONTENT;
        else if (length == 8 && !memcmp(name, "complete", 8)) c->event = COMPLETE;
        else if (length == 6 && !memcmp(name, "status", 6)) { c->event = STATUS; c->statuses++; statuses_seen++; }
        else if ((length == 5 && !memcmp(name, "error", 5)) || (length == 9 && !memcmp(name, "cancelled", 9)) ||
                 (length == 9 && !memcmp(name, "truncated", 9)) || (length == 9 && !memcmp(name, "reconnect", 9)) ||
                 (length == 12 && !memcmp(name, "stream-error", 12)))
            fail("an event %.*s after token %ld", (int)length, name, c->next_token);
    } else if (size > 5 && !memcmp(line, "data:", 5)) {
        if (c->complete && c->event != COMPLETE) return;
        if (c->event == CONTENT) on_content(c, line + 5, size - 5);
        else if (c->event == COMPLETE) {
            c->complete = true;
            if (c->next_token != tokens) fail("complete after %ld of %ld tokens", c->next_token, tokens);
            if (end_by_event) { c->close_after = c->ended = true; }
        }
    }
}

static void on_text(Connection *c, const char *data, size_t size) {
    while (size) {
        const char *end = memchr(data, '\n', size);
        if (!end) { keep(&c->text, &c->text_held, &c->text_room, data, size); return; }
        size_t length = (size_t)(end - data);
        if (c->text_held) {
            keep(&c->text, &c->text_held, &c->text_room, data, length);
            on_line(c, c->text, c->text_held);
            c->text_held = 0;
        } else on_line(c, data, length);
        data = end + 1;
        size -= length + 1;
    }
}

static void on_head_line(Connection *c, const char *line, size_t size) {
    if (size && line[size - 1] == '\r') size--;
    if (!c->status) {
        if (size < 12 || sscanf(line, "HTTP/1.%*d %d", &c->status) != 1) { fail("no HTTP answer"); c->status = -1; }
        else if (c->status != 200) fail("status %d", c->status);
    } else if (!size) {
        c->phase = c->chunked ? BODY_SIZE : BODY_PLAIN;
        if (!c->chunked && !c->left) c->ended = true;
    } else if (size > 18 && !strncasecmp(line, "transfer-encoding:", 18)) {
        c->chunked = memmem(line, size, "chunked", 7) != NULL;
    } else if (size > 15 && !strncasecmp(line, "content-length:", 15)) {
        c->left = atoll(line + 15);
    } else if (size > 11 && !strncasecmp(line, "connection:", 11)) {
        if (memmem(line, size, "close", 5)) c->close_after = true;
    } else if (size > 17 && !strncasecmp(line, "content-encoding:", 17)) {
        if (!memmem(line, size, "identity", 8)) fail("an encoded body: %.*s", (int)size, line);
    }
}

/* Takes what came; returns when it is used up or the response has ended. */
static void on_bytes(Connection *c, const char *data, size_t size) {
    if (now >= window_from && now < window_to) bytes_in_window += (double)size;
    while (size && !c->ended) {
        if (c->phase == BODY_DATA || c->phase == BODY_PLAIN) {
            size_t part = c->left >= 0 && (int64_t)size > c->left ? (size_t)c->left : size;
            on_text(c, data, part);
            data += part;
            size -= part;
            if (c->left >= 0) c->left -= (int64_t)part;
            if (!c->left) { if (c->phase == BODY_DATA) c->phase = BODY_DATA_END; else c->ended = true; }
            continue;
        }
        const char *end = memchr(data, '\n', size);
        if (!end) { keep(&c->line, &c->held, &c->room, data, size); return; }
        size_t length = (size_t)(end - data);
        keep(&c->line, &c->held, &c->room, data, length);
        keep(&c->line, &c->held, &c->room, "", 1);
        size_t held = c->held - 1;
        c->held = 0;
        data = end + 1;
        size -= length + 1;
        if (c->phase == HEAD) on_head_line(c, c->line, held);
        else if (c->phase == BODY_SIZE) {
            char *stop;
            c->left = strtoll(c->line, &stop, 16);
            if (stop == c->line) { fail("no chunk size: %.60s", c->line); c->ended = true; }
            c->phase = c->left ? BODY_DATA : BODY_TRAILER;
        } else if (c->phase == BODY_DATA_END) c->phase = BODY_SIZE;
        else if (c->phase == BODY_TRAILER) {
            if (!held || (held == 1 && c->line[0] == '\r')) c->ended = true;
        }
    }
    if (size && c->ended && !end_by_event) fail("bytes after the end of a response");
}

static char received[1 << 18];

static void on_readable(Connection *c) {
    ssize_t size = recv(c->fd, received, sizeof received, 0);
    now = now_us();
    if (size < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (size <= 0) {
        if (c->phase == IDLE) { close_connection(c); return; } /* between two streams: a new connection, then */
        if (size == 0 && c->phase == BODY_PLAIN && c->left < 0) { c->ended = c->close_after = true; }
        else {
            fail("a connection ended after %ld of %ld tokens (%s)", c->next_token, tokens,
                 size ? strerror(errno) : "closed by the server");
            close_connection(c);
            return;
        }
    } else on_bytes(c, received, (size_t)size);
    if (*failure || !c->ended) return;
    if (!c->complete) fail("a stream ended without `complete` after %ld of %ld tokens", c->next_token, tokens);
    finished++;
    if (now >= window_from && now < window_to) streams_in_window++;
    if (c->close_after || !keep_alive) close_connection(c);
    else c->phase = IDLE;
    on_stream_end(c);
}

/* --- Modes --------------------------------------------------------------------------------------------- */

static bool looping;

static void on_first_content(Connection *c) {
    double took = (double)(now - c->began);
    if (*mode != 's' || finished >= warmup) push(&first_content, took);
}

static void on_stream_end(Connection *c) {
    if (looping) begin_stream(c);
}

static void set_alarm(int64_t at) {
    int64_t left = at - now_us();
    if (left < 1) left = 1;
    struct itimerspec setting = {.it_value = {left / 1000000, (left % 1000000) * 1000}};
    timerfd_settime(alarm_fd, 0, &setting, NULL);
}

/* Handle what comes until `at`. */
static void run_until(int64_t at) {
    struct epoll_event ready[512];
    set_alarm(at);
    while (!*failure) {
        int count = epoll_wait(poller, ready, 512, -1);
        bool over = false;
        for (int i = 0; i < count && !*failure; i++) {
            Connection *c = ready[i].data.ptr;
            if (!c) { uint64_t times; over = read(alarm_fd, &times, sizeof times) > 0; continue; }
            if (c->phase == CONNECTING) on_connected(c);
            else if (c->phase != CLOSED) on_readable(c);
        }
        if (over) return;
    }
}

static void run_start(void) {
    Connection *c = &all[0];
    for (long i = 0; i < warmup + samples && !*failure; i++) {
        if (!keep_alive && c->phase == IDLE) close_connection(c);
        begin_stream(c);
        int64_t limit = now_us() + (int64_t)(patience * 1e6);
        set_alarm(limit);
        struct epoll_event ready[2];
        while (finished <= i && !*failure) {
            int count = epoll_wait(poller, ready, 2, -1);
            for (int k = 0; k < count; k++) {
                if (!ready[k].data.ptr) { uint64_t times; if (read(alarm_fd, &times, 8) > 0) fail("a stream took longer than %.0f s", patience); }
                else if (c->phase == CONNECTING) on_connected(c);
                else if (c->phase != CLOSED) on_readable(c);
            }
        }
        if (pause_s > 0) run_until(now_us() + (int64_t)(pause_s * 1e6));
    }
}

/* Open all at an even pace, but let no more than `at_once` wait for their first content: a listener that is
 * overrun forgets connections. */
static void open_all(long at_once, int64_t limit) {
    int64_t begin = now_us(), pace = connections > 1 ? (int64_t)(ramp * 1e6 / connections) : 0;
    for (long i = 0; i < connections && !*failure; i++) {
        int64_t at = begin + i * pace;
        if (at > now_us()) run_until(at);
        while (!*failure && opened - with_content >= at_once && now_us() < limit) run_until(now_us() + 1000);
        if (now_us() >= limit) return;
        begin_stream(&all[i]);
    }
}

static double due_in_window;

static void run_paced(void) {
    int64_t begin = now_us() + 1000;
    window_from = begin + (int64_t)((ramp + settle) * 1e6);
    window_to = window_from + (int64_t)(seconds * 1e6);
    run_until(begin);
    open_all(connections, window_from);
    run_until(window_from);
    if (!*failure && opened < connections) fail("the client opened only %ld of %ld streams in time", opened, connections);
    if (*failure) return;
    mark("begin");
    double cpu = cpu_seconds();
    run_until(window_to);
    if (*failure) return;
    mark("end");
    printf("{\"client_cpu_share\": %.4f}\n", (cpu_seconds() - cpu) / seconds);
    int64_t limit = window_to + (int64_t)(patience * 1e6);
    while (!*failure && finished < connections && now_us() < limit) run_until(now_us() + 20000);
    if (!*failure && finished < connections)
        fail("%ld of %ld streams incomplete %.0f s after their end was due", connections - finished, connections, patience);
    int64_t step = (int64_t)(interval * 1e6 + .5);
    for (long i = 0; i < connections; i++)
        for (long k = 0; k < tokens; k++) {
            int64_t due = all[i].sent + k * step;
            if (due >= window_from && due < window_to) due_in_window++;
        }
}

static void run_loop(void) {
    looping = true;
    int64_t begin = now_us();
    window_from = begin + (int64_t)(ramp * 1e6);
    window_to = window_from + (int64_t)(seconds * 1e6);
    for (long i = 0; i < connections; i++) begin_stream(&all[i]);
    run_until(window_from);
    if (*failure) return;
    mark("begin");
    double cpu = cpu_seconds();
    run_until(window_to);
    if (*failure) return;
    mark("end");
    printf("{\"client_cpu_share\": %.4f}\n", (cpu_seconds() - cpu) / seconds);
    looping = false;
    int64_t limit = window_to + (int64_t)(patience * 1e6);
    while (!*failure && finished < opened && now_us() < limit) run_until(now_us() + 20000);
    if (!*failure && finished < opened) fail("%ld streams incomplete %.0f s after the end", opened - finished, patience);
}

static double open_took;

static void run_idle(void) {
    int64_t begin = now_us(), limit = begin + (int64_t)((ramp + patience) * 1e6);
    open_all(500, limit);
    while (!*failure && with_content < connections && now_us() < limit) run_until(now_us() + 5000);
    if (!*failure && with_content < connections)
        fail("%ld of %ld streams brought nothing within %.0f s", connections - with_content, connections, ramp + patience);
    if (*failure) return;
    open_took = (double)(now_us() - begin) / 1e6;
    mark("open");
    fcntl(0, F_SETFL, fcntl(0, F_GETFL) | O_NONBLOCK);
    for (;;) {
        char byte;
        ssize_t size = read(0, &byte, 1);
        if (size >= 0 || errno != EAGAIN || *failure) break;
        run_until(now_us() + 20000);
    }
    if (finished) fail("%ld idle streams ended", finished);
}

static void load_request(void) {
    FILE *file = fopen(request_path, "rb");
    if (!file) { perror(request_path); exit(2); }
    request_bytes = calloc(1, 1 << 16);
    request_size = fread(request_bytes, 1, (1 << 16) - 1, file);
    fclose(file);
    stamp_at = strstr(request_bytes, "@@@@@@@@@@@@@@@@@");
}

int main(int count, char **arguments) {
    for (int i = 1; i < count; i++) take_option(arguments[i]);
    if (!request_path || !port) { fprintf(stderr, "request= and port= are needed\n"); return 2; }
    load_request();
    if (core >= 0) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(core, &set);
        if (sched_setaffinity(0, sizeof set, &set)) { perror("sched_setaffinity"); return 2; }
    }
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    if (!strcmp(mode, "start")) connections = 1;
    if (connections + 16 > (long)files.rlim_cur) { fprintf(stderr, "only %ld files may be open\n", (long)files.rlim_cur); return 2; }

    poller = epoll_create1(EPOLL_CLOEXEC);
    alarm_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event interest = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(poller, EPOLL_CTL_ADD, alarm_fd, &interest);
    all = calloc((size_t)connections, sizeof *all);
    for (long i = 0; i < connections; i++) all[i].fd = -1;

    if (!strcmp(mode, "start")) run_start();
    else if (!strcmp(mode, "paced")) run_paced();
    else if (!strcmp(mode, "loop")) run_loop();
    else if (!strcmp(mode, "idle")) run_idle();
    else { fprintf(stderr, "unknown mode: %s\n", mode); return 2; }

    printf("{\"result\": {\"failed\": ");
    if (*failure) print_quoted(failure); else printf("null");
    printf(", \"opened\": %ld, \"finished\": %ld, \"statuses\": %ld, \"total_tokens\": %.0f", opened, finished, statuses_seen, total_tokens);
    printf(", \"tokens\": %.0f, \"events\": %.0f, \"bytes\": %.0f, \"streams\": %.0f", tokens_in_window, events_in_window, bytes_in_window, streams_in_window);
    if (due_in_window) printf(", \"delivered\": %.6f", due_delivered / due_in_window);
    if (open_took) printf(", \"open_seconds\": %.3f", open_took);
    print_summary("first_content_us", &first_content, 1);
    print_summary("late_ms", &late, .001);
    printf("}}\n");
    return *failure ? 1 : 0;
}
