/* A task: says who it is over HTTP and UDP, streams and swallows octets, and ends as real servers do.
 *
 *     serve NAME PORT[,PORT..] [LATE]
 *
 * TCP: `GET /` is answered with "NAME HOSTNAME PEER STATE", `GET /bytes/N` with N octets, `PUT` swallows until the end,
 * `GET /hold` echoes what follows. UDP: every datagram is answered with the same line.
 * STATE is `on`, after SIGTERM `late`. At SIGTERM it takes what was connected, stops listening, finishes, and ends; with
 * LATE it listens on for so many seconds first. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 65536, BLOCK = 262144, PORTS = 8 };

struct conn {
    enum { READING, SENDING, SWALLOWING, ECHOING, ENDING } doing;
    int large;
    int used;
    long long left;
    struct sockaddr_in peer;
    int length, sent;
    char text[1024];
};

static struct conn *conns[MOST];
static volatile sig_atomic_t told;
static char block[BLOCK], host[256];
static const char *name;
static int poller, open_now;

static void on_term(int signal) { (void)signal; told = 1; }

static double now(void) {
    struct timespec it;
    clock_gettime(CLOCK_MONOTONIC, &it);
    return it.tv_sec + it.tv_nsec / 1e9;
}

static int line(char *into, size_t size, const struct sockaddr_in *peer) {
    char address[64];
    inet_ntop(AF_INET, &peer->sin_addr, address, sizeof address);
    return snprintf(into, size, "%s %s %s:%d %s\n", name, host, address, ntohs(peer->sin_port), told ? "late" : "on");
}

static void end(int fd) {
    free(conns[fd]);
    conns[fd] = NULL;
    close(fd);
    open_now--;
}

static void want(int fd, unsigned events) {
    struct epoll_event event = {.events = events, .data.fd = fd};
    epoll_ctl(poller, EPOLL_CTL_MOD, fd, &event);
}

static void accept_all(int listener) {
    for (;;) {
        struct sockaddr_in peer;
        socklen_t size = sizeof peer;
        int fd = accept4(listener, (struct sockaddr *)&peer, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) return;
        if (fd >= MOST) { close(fd); continue; }
        int one = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        conns[fd] = calloc(1, sizeof **conns);
        conns[fd]->peer = peer;
        open_now++;
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
    }
}

static void push(int fd) {
    struct conn *it = conns[fd];
    while (it->sent < it->length) {
        ssize_t n = send(fd, it->text + it->sent, it->length - it->sent, MSG_NOSIGNAL);
        if (n < 0) { if (errno == EAGAIN) want(fd, EPOLLOUT); else end(fd); return; }
        it->sent += n;
    }
    while (it->left > 0) {
        ssize_t n = send(fd, block, it->left < BLOCK ? it->left : BLOCK, MSG_NOSIGNAL);
        if (n < 0) { if (errno == EAGAIN) want(fd, EPOLLOUT); else end(fd); return; }
        it->left -= n;
    }
    if (!it->large && !told) { end(fd); return; }
    /* What lies in the socket goes with the container: the end waits until the client has it all. */
    it->doing = ENDING;
    shutdown(fd, SHUT_WR);
    want(fd, EPOLLIN);
}

static void answer(int fd) {
    struct conn *it = conns[fd];
    if (!strncmp(it->text, "PUT", 3)) { it->doing = SWALLOWING; return; }
    if (!strncmp(it->text, "GET /hold", 9)) { it->doing = ECHOING; return; }
    char body[512];
    int size = 0;
    if (sscanf(it->text, "GET /bytes/%lld", &it->left) != 1) size = line(body, sizeof body, &it->peer);
    it->large = size == 0;
    it->length = snprintf(it->text, sizeof it->text, "HTTP/1.1 200 OK\r\nContent-Length: %lld\r\nConnection: close\r\n\r\n%.*s",
                          it->left + size, size, body);
    it->doing = SENDING;
    push(fd);
}

static void serve(int fd) {
    struct conn *it = conns[fd];
    if (it->doing == SENDING) { push(fd); return; }
    if (it->doing != READING) {
        ssize_t n = recv(fd, block, BLOCK, 0);
        if (n == 0 || (n < 0 && errno != EAGAIN)) end(fd);
        else if (n > 0 && it->doing == ECHOING && send(fd, block, n, MSG_NOSIGNAL) < 0) end(fd);
        return;
    }
    ssize_t n = recv(fd, it->text + it->used, sizeof it->text - 1 - it->used, 0);
    if (n <= 0) { if (n == 0 || errno != EAGAIN) end(fd); return; }
    it->used += n;
    it->text[it->used] = 0;
    if (strstr(it->text, "\r\n\r\n")) answer(fd);
    else if (it->used == sizeof it->text - 1) end(fd);
}

static void echo(int fd) {
    char text[65536];
    struct sockaddr_in peer;
    for (int many = 0; many < 64; many++) {
        socklen_t size = sizeof peer;
        ssize_t n = recvfrom(fd, text, sizeof text, MSG_DONTWAIT, (struct sockaddr *)&peer, &size);
        if (n < 0) return;
        /* Large ones come back as they are: a bench counts them, nobody reads. */
        if (n < 64) n = line(text, sizeof text, &peer);
        sendto(fd, text, n, 0, (struct sockaddr *)&peer, size);
    }
}

static int bound(int kind, int port) {
    int fd = socket(AF_INET, kind | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&at, sizeof at) || (kind == SOCK_STREAM && listen(fd, 4096))) { perror("bind"); exit(1); }
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
    return fd;
}

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    name = argv[1];
    double late = argc > 3 ? atof(argv[3]) : 0, until = 0;
    struct sigaction action = {.sa_handler = on_term};
    sigaction(SIGTERM, &action, NULL);
    gethostname(host, sizeof host);
    memset(block, 'x', sizeof block);
    poller = epoll_create1(EPOLL_CLOEXEC);
    int listeners[PORTS], datagrams[PORTS], ports = 0, listening = 1;
    for (char *one = strtok(argv[2], ","); one && ports < PORTS; one = strtok(NULL, ","), ports++) {
        listeners[ports] = bound(SOCK_STREAM, atoi(one));
        datagrams[ports] = bound(SOCK_DGRAM, atoi(one));
    }
    for (;;) {
        struct epoll_event events[256];
        int many = epoll_wait(poller, events, 256, told ? 20 : 1000);
        for (int i = 0; i < many; i++) {
            int fd = events[i].data.fd, own = 0;
            for (int port = 0; port < ports; port++) {
                if (listening && fd == listeners[port]) { accept_all(fd); own = 1; }
                if (fd == datagrams[port]) { echo(fd); own = 1; }
            }
            if (!own && conns[fd]) serve(fd);
        }
        if (!told) continue;
        if (!until) until = now() + late;
        if (listening && now() >= until) {
            for (int port = 0; port < ports; port++) { accept_all(listeners[port]); close(listeners[port]); }
            listening = 0;
        }
        if (!listening && !open_now) return 0;
    }
}
