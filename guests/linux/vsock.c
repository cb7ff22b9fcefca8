// Streams of AF_VSOCK from a shell, as netcat has them for TCP.
//
//   vsock echo PORT COUNT      accepts so many connections, one after the other, and sends back
//                              what each sends, until that ends
//   vsock cat CID PORT         connects; standard input goes there and standard output comes from
//                              there, each until its end
#include <errno.h>
#include <linux/vm_sockets.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void die(const char *what)
{
    printf("vsock: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void write_all(int fd, const char *bytes, ssize_t size)
{
    while (size > 0) {
        const ssize_t done = write(fd, bytes, (size_t)size);
        if (done < 0) die("write");
        bytes += done;
        size -= done;
    }
}

// 0 at the end.
static ssize_t pass(int from, int to)
{
    static char bytes[65536];
    const ssize_t size = read(from, bytes, sizeof bytes);
    if (size < 0) die("read");
    write_all(to, bytes, size);
    return size;
}

static void echo(int listener)
{
    const int client = accept(listener, NULL, NULL);
    if (client < 0) die("accept");
    while (pass(client, client) > 0) continue;
    close(client);
}

static void cat(int peer)
{
    struct pollfd fds[2] = {{0, POLLIN, 0}, {peer, POLLIN, 0}};
    while (fds[1].fd >= 0) {
        if (poll(fds, 2, -1) < 0) die("poll");
        if (fds[0].revents != 0 && pass(0, peer) == 0) {
            shutdown(peer, SHUT_WR);
            fds[0].fd = -1;
        }
        if (fds[1].revents != 0 && pass(peer, 1) == 0) fds[1].fd = -1;
    }
}

int main(int count, char **arguments)
{
    if (count != 4) return 2;
    struct sockaddr_vm address = {.svm_family = AF_VSOCK};
    const int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (fd < 0) die("socket");
    if (strcmp(arguments[1], "echo") == 0) {
        address.svm_cid = VMADDR_CID_ANY;
        address.svm_port = (unsigned)strtoul(arguments[2], NULL, 10);
        if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0) die("bind");
        if (listen(fd, 16) != 0) die("listen");
        for (int left = atoi(arguments[3]); left > 0; --left) echo(fd);
        return 0;
    }
    address.svm_cid = (unsigned)strtoul(arguments[2], NULL, 10);
    address.svm_port = (unsigned)strtoul(arguments[3], NULL, 10);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0) die("connect");
    cat(fd);
    return 0;
}
