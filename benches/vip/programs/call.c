/* Calls a server, at little cost.
 *
 *     call WHAT ADDRESS[:PORT][,ADDRESS..] ..     several addresses: in turns, each with a port of its own or with PORT
 *     call connects ADDRESS PORT COUNT            connect and close, one after another
 *     call requests ADDRESS PORT COUNT            connect, GET, answer, end, one after another
 *     call down|up ADDRESS PORT SECONDS           one stream
 *     call datagrams ADDRESS PORT SECONDS SIZE WINDOW    echoes, WINDOW of them under way
 *     call steady ADDRESS PORT RATE SECONDS NAME [OWN]   RATE new connections a second whatever becomes of them, until
 *                                                 SIGTERM or so long (0: for ever); an answer must begin with NAME; with
 *                                                 several addresses: NAME[,NAME..], each with its own; OWN: from there
 *
 * Prints `name value` lines. `steady` prints each failure when it happens: `fail EPOCH MILLISECONDS PORT WHAT ANSWER`,
 * where WHAT is refused, reset, timeout, short, wrong or another error, and PORT is its own; at the end how many answers
 * of each kind there were. A connect that took 990 ms or longer lost a packet: `slow`. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 16384, KINDS = 4096, LIMIT_MS = 5000, SLOW_MS = 990 };

enum { ADDRESSES = 64 };
static struct sockaddr_in targets[ADDRESSES];
static long many_targets, turn;
static volatile sig_atomic_t told;
static void on_term(int signal) { (void)signal; told = 1; }

/* Whose turn it is. */
static const struct sockaddr *target(void) { return (const struct sockaddr *)&targets[turn++ % many_targets]; }

static double clock_of(clockid_t which) {
    struct timespec it;
    clock_gettime(which, &it);
    return it.tv_sec + it.tv_nsec / 1e9;
}
static double now(void) { return clock_of(CLOCK_MONOTONIC); }

static double spent(void) {
    struct rusage it;
    getrusage(RUSAGE_SELF, &it);
    return it.ru_utime.tv_sec + it.ru_stime.tv_sec + (it.ru_utime.tv_usec + it.ru_stime.tv_usec) / 1e6;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void quantiles(double *times, long count) {
    if (!count) return;
    qsort(times, count, sizeof *times, compare);
    printf("p50 %.2f\np99 %.2f\nworst %.2f\n", times[count / 2] * 1e6, times[count * 99 / 100] * 1e6, times[count - 1] * 1e6);
}

static int sequence(long count, int request) {
    static const char get[] = "GET / HTTP/1.1\r\nHost: bench\r\n\r\n";
    double *times = calloc(count, sizeof *times), begun = now(), cpu = spent();
    long failed = 0;
    for (long i = 0; i < count; i++) {
        char answer[1024];
        double before = now();
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (connect(fd, target(), sizeof *targets)) {
            if (!failed++) perror("connect");
            close(fd);
            continue;
        }
        times[i - failed] = now() - before;
        if (request) {
            ssize_t n, all = 0;
            if (send(fd, get, sizeof get - 1, MSG_NOSIGNAL) < 0) failed++;
            else { while ((n = recv(fd, answer, sizeof answer, 0)) > 0) all += n; if (n < 0 || !all) failed++; }
        }
        close(fd);
    }
    double took = now() - begun;
    printf("count %ld\nfailed %ld\nrate %.0f\ncpu_us %.3f\n", count, failed, count / took, (spent() - cpu) / count * 1e6);
    quantiles(times, count - failed);
    return failed != 0;
}

static int stream(double seconds, int up) {
    static char block[262144];
    const char *ask = up ? "PUT / HTTP/1.1\r\n\r\n" : "GET /bytes/1000000000000 HTTP/1.1\r\n\r\n";
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, target(), sizeof *targets) || send(fd, ask, strlen(ask), 0) < 0) { perror("connect"); return 1; }
    long long all = 0;
    ssize_t n = 0;
    double begun = now(), cpu = spent(), end = begun + seconds;
    while (now() < end && (n = up ? send(fd, block, sizeof block, MSG_NOSIGNAL) : recv(fd, block, sizeof block, 0)) > 0) all += n;
    printf("rate %.0f\ncpu_s_per_gb %.4f\n", all / (now() - begun), (spent() - cpu) / (all / 1e9));
    return n <= 0;
}

static int datagrams(double seconds, int size, int window) {
    char text[65536] = {0};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct timeval patience = {.tv_usec = 200000};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (connect(fd, target(), sizeof *targets)) { perror("connect"); return 1; }
    long back = 0, lost = 0;
    double begun = now(), cpu = spent(), end = begun + seconds;
    for (int i = 0; i < window; i++) send(fd, text, size, 0);
    while (now() < end) {
        if (recv(fd, text, sizeof text, 0) < 0) lost++; else back++;
        send(fd, text, size, 0);
    }
    printf("rate %.0f\ncpu_us %.3f\nlost %ld\n", back / (now() - begun), (spent() - cpu) / (back ? back : 1) * 1e6, lost);
    return back == 0;
}

struct call { double begun, epoch; int port, used, state; const char *name; char text[512]; };
static const char *names[ADDRESSES];
static struct sockaddr_in own = {.sin_family = AF_INET};
static long many_names;
static struct call *calls[MOST];
static int poller, under_way;
static long done, failed, slow, late;
static char *kinds[KINDS];
static long counts[KINDS];
static double *times;
static long timed, room;

static void kind(const char *text) {
    for (int i = 0; i < KINDS; i++) {
        if (!kinds[i]) kinds[i] = strdup(text);
        if (!strcmp(kinds[i], text)) { counts[i]++; return; }
    }
}

static void end(int fd, const char *what) {
    struct call *it = calls[fd];
    done++;
    if (what) {
        char *cut = strchr(it->text, '\n');
        if (cut) *cut = 0;
        failed++;
        printf("fail %.6f %.1f %d %s %s\n", it->epoch, (now() - it->begun) * 1e3, it->port, what, it->used ? it->text : "-");
        fflush(stdout);
    }
    close(fd);
    free(it);
    calls[fd] = NULL;
    under_way--;
}

static const char *word(int error) {
    switch (error) {
    case ECONNREFUSED: return "refused";
    case ECONNRESET: case EPIPE: return "reset";
    case EHOSTUNREACH: return "no_route_to_host";
    case ETIMEDOUT: return "timeout";
    default: return strerrorname_np(error);
    }
}

static void begin(void) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || fd >= MOST) { if (fd >= 0) close(fd); failed++; done++; printf("fail %.6f 0 0 no_descriptor -\n", clock_of(CLOCK_REALTIME)); return; }
    struct call *it = calls[fd] = calloc(1, sizeof *it);
    under_way++;
    it->begun = now();
    it->epoch = clock_of(CLOCK_REALTIME);
    it->name = names[turn % many_targets % many_names];
    /* The port is chosen with the connect, by its target. */
    int late = 1;
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &late, sizeof late);
    if (own.sin_addr.s_addr) bind(fd, (struct sockaddr *)&own, sizeof own);
    if (connect(fd, target(), sizeof *targets) && errno != EINPROGRESS) { end(fd, word(errno)); return; }
    struct sockaddr_in mine;
    socklen_t size = sizeof mine;
    if (!getsockname(fd, (struct sockaddr *)&mine, &size)) it->port = ntohs(mine.sin_port);
    struct epoll_event event = {.events = EPOLLOUT, .data.fd = fd};
    epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
}

static void finished(int fd) {
    struct call *it = calls[fd];
    const char *name = it->name;
    char *body = strstr(it->text, "\r\n\r\n");
    if (!it->used || !body || !strchr(body, '\n') || !body[4]) { end(fd, "short"); return; }
    memmove(it->text, body + 4, strlen(body + 4) + 1);
    it->text[strcspn(it->text, "\n")] = 0;
    size_t size = strlen(name);
    if (strncmp(it->text, name, size) || it->text[size] != ' ') { end(fd, "wrong"); return; }
    char who[128] = "", host[128] = "", peer[64] = "", state[16] = "";
    sscanf(it->text, "%127s %127s %63s %15s", who, host, peer, state);
    peer[strcspn(peer, ":")] = 0;
    if (!strcmp(state, "late")) { late++; printf("late %.6f %s\n", it->epoch, host); fflush(stdout); }
    char text[400];
    snprintf(text, sizeof text, "%s %s %s", who, host, peer);
    kind(text);
    end(fd, NULL);
}

static void step(int fd) {
    struct call *it = calls[fd];
    if (it->state == 0) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error) { end(fd, word(error)); return; }
        double took = now() - it->begun;
        if (took * 1e3 >= SLOW_MS) { slow++; printf("slow %.6f %.1f %d\n", it->epoch, took * 1e3, it->port); fflush(stdout); }
        if (timed == room) times = realloc(times, (room = room ? room * 2 : 4096) * sizeof *times);
        times[timed++] = took;
        static const char get[] = "GET / HTTP/1.1\r\nHost: show\r\n\r\n";
        if (send(fd, get, sizeof get - 1, MSG_NOSIGNAL) < 0) { end(fd, word(errno)); return; }
        it->state = 1;
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        epoll_ctl(poller, EPOLL_CTL_MOD, fd, &event);
        return;
    }
    ssize_t n = recv(fd, it->text + it->used, sizeof it->text - 1 - it->used, 0);
    if (n > 0) { it->used += n; return; }
    if (n < 0 && errno == EAGAIN) return;
    if (n < 0) end(fd, word(errno)); else finished(fd);
}

static int steady(double rate, double seconds) {
    struct sigaction action = {.sa_handler = on_term};
    sigaction(SIGTERM, &action, NULL);
    poller = epoll_create1(EPOLL_CLOEXEC);
    double begun = now(), swept = begun;
    long started = 0;
    for (;;) {
        double at = now();
        int over = told || (seconds && at - begun >= seconds);
        if (over && (!under_way || at - begun > seconds + 6)) break;
        while (!over && started < (at - begun) * rate) { begin(); started++; }
        double next = begun + started / rate - now();
        struct epoll_event events[256];
        int wait = over ? 20 : next <= 0 ? 0 : next > 0.02 ? 20 : (int)(next * 1e3) + 1;
        int many = epoll_wait(poller, events, 256, wait);
        for (int i = 0; i < many; i++) if (calls[events[i].data.fd]) step(events[i].data.fd);
        if (now() - swept < 0.1) continue;
        swept = now();
        for (int fd = 0; fd < MOST; fd++)
            if (calls[fd] && (swept - calls[fd]->begun) * 1e3 > LIMIT_MS) end(fd, calls[fd]->state ? "timeout_of_answer" : "timeout");
    }
    for (int i = 0; i < KINDS && kinds[i]; i++) printf("answers %ld %s\n", counts[i], kinds[i]);
    printf("count %ld\nfailed %ld\nslow %ld\nlate %ld\n", done, failed, slow, late);
    quantiles(times, timed);
    return 0;
}

int main(int argc, char **argv) {
    if (argc < 5) return 2;
    for (char *one = strtok(argv[2], ","); one && many_targets < ADDRESSES; one = strtok(NULL, ",")) {
        char *port = strchr(one, ':');
        if (port) *port++ = 0;
        targets[many_targets] = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(atoi(port ? port : argv[3]))};
        if (inet_pton(AF_INET, one, &targets[many_targets++].sin_addr) != 1) return 2;
    }
    if (!many_targets) return 2;
    if (!strcmp(argv[1], "connects")) return sequence(atol(argv[4]), 0);
    if (!strcmp(argv[1], "requests")) return sequence(atol(argv[4]), 1);
    if (!strcmp(argv[1], "down") || !strcmp(argv[1], "up")) return stream(atof(argv[4]), argv[1][0] == 'u');
    if (!strcmp(argv[1], "datagrams") && argc > 6) return datagrams(atof(argv[4]), atoi(argv[5]), atoi(argv[6]));
    if (strcmp(argv[1], "steady") || argc < 7) return 2;
    for (char *one = strtok(argv[6], ","); one && many_names < ADDRESSES; one = strtok(NULL, ",")) names[many_names++] = one;
    if (argc > 7 && inet_pton(AF_INET, argv[7], &own.sin_addr) != 1) return 2;
    return many_names ? steady(atof(argv[4]), atof(argv[5])) : 2;
}
