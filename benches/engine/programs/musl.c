/* getaddrinfo, which in musl sends A and AAAA at once on one socket: musl NAME COUNT
   prints the addresses, failures, the worst time in microseconds and how many took over a second. */
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int main(int argc, char **argv) {
    long worst = 0;
    int failed = 0, slow = 0, count = argc > 2 ? atoi(argv[2]) : 1;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *all;
    for (int i = 0; i < count; i++) {
        struct timespec begun, done;
        clock_gettime(CLOCK_MONOTONIC, &begun);
        int code = getaddrinfo(argv[1], NULL, &hints, &all);
        clock_gettime(CLOCK_MONOTONIC, &done);
        long micros = (done.tv_sec - begun.tv_sec) * 1000000 + (done.tv_nsec - begun.tv_nsec) / 1000;
        if (micros > worst) worst = micros;
        slow += micros > 1000000;
        if (code) {
            failed++;
            continue;
        }
        for (struct addrinfo *it = all; i == 0 && it; it = it->ai_next) {
            char text[64];
            void *address = it->ai_family == AF_INET ? (void *)&((struct sockaddr_in *)it->ai_addr)->sin_addr
                                                     : (void *)&((struct sockaddr_in6 *)it->ai_addr)->sin6_addr;
            puts(inet_ntop(it->ai_family, address, text, sizeof text));
        }
        freeaddrinfo(all);
    }
    fprintf(stderr, "failed %d worst %ld slow %d\n", failed, worst, slow);
    return failed || slow;
}
