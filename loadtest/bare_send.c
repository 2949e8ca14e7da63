/* The floor: accept N clients, then send() the same bytes to each of them, M times over, and nothing else.
 *
 * usage: bare_send CLIENTS MESSAGES BYTES
 * Prints "port P" once it listens on 127.0.0.1; answers each client's first bytes with a byte, waits for a
 * line on stdin, runs, and prints "cpu_ns_per_send X". Built and run by ratio.py.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

static double cpu_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return now.tv_sec * 1e9 + now.tv_nsec;
}

static void send_all(int fd, const char *data, size_t size) {
    while (size > 0) {
        ssize_t sent = send(fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno != EAGAIN) return;
            struct pollfd wait = {.fd = fd, .events = POLLOUT};
            poll(&wait, 1, 1000);
            continue;
        }
        data += sent;
        size -= (size_t)sent;
    }
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    int clients = atoi(argv[1]), messages = atoi(argv[2]);
    size_t bytes = (size_t)atol(argv[3]);
    int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    if (bind(listener, (struct sockaddr *)&address, length) || listen(listener, 4096)) return 1;
    getsockname(listener, (struct sockaddr *)&address, &length);
    printf("port %d\n", ntohs(address.sin_port));
    fflush(stdout);
    int *fds = calloc((size_t)clients, sizeof *fds);
    char *data = malloc(bytes), line[64];
    if (!fds || !data) return 1;
    memset(data, 'x', bytes);
    for (int i = 0; i < clients; i++) {
        fds[i] = accept(listener, NULL, NULL);
        setsockopt(fds[i], IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }
    if (!fgets(line, sizeof line, stdin)) return 1;
    double before = cpu_ns();
    for (int m = 0; m < messages; m++) {
        struct timespec pause = {.tv_nsec = 2000000};
        for (int i = 0; i < clients; i++) send_all(fds[i], data, bytes);
        nanosleep(&pause, NULL);
    }
    printf("cpu_ns_per_send %.1f\n", (cpu_ns() - before) / ((double)clients * messages));
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {} /* the readers are not done yet */
    return 0;
}
