// SPDX-License-Identifier: Apache-2.0 OR MIT
// Lets pluto negotiate where the kernel has XFRM and no ESP (CONFIG_INET_ESP): preloaded into it, every
// refusal of an SA or a policy looks like an acknowledgement, and no packet is ever protected. What it would
// have installed is written to the file that ESPLANADE_SAS names, a line an SA: SPI, and its keys in
// KEYMAT's order (first encryption's, salt included, then integrity's).
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/xfrm.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

static int is_xfrm(int fd)
{
    int domain = 0, protocol = -1;
    socklen_t length = sizeof domain;
    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) != 0 || domain != AF_NETLINK)
        return 0;
    length = sizeof protocol;
    return getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &length) == 0 && protocol == NETLINK_XFRM;
}

// Adds a key of some bits to the line; what does not fit is a key that nobody has.
static size_t put_key(char *line, size_t at, size_t room, const void *key, unsigned bits)
{
    for (unsigned i = 0; i < bits / 8 && at + 3 < room; i++)
        at += (size_t)sprintf(line + at, "%02x", ((const unsigned char *)key)[i]);
    return at;
}

static void write_sa(const struct nlmsghdr *message)
{
    const char *path = getenv("ESPLANADE_SAS");
    const struct xfrm_usersa_info *sa = NLMSG_DATA(message);
    if (!path || message->nlmsg_len < NLMSG_SPACE(sizeof *sa))
        return;
    const struct rtattr *encryption = NULL, *aead = NULL, *integrity = NULL;
    const struct rtattr *at = (const void *)((const char *)sa + NLMSG_ALIGN(sizeof *sa));
    long left = (long)message->nlmsg_len - (long)NLMSG_SPACE(sizeof *sa);
    for (; RTA_OK(at, left); at = RTA_NEXT(at, left)) {
        if (at->rta_type == XFRMA_ALG_CRYPT)
            encryption = at;
        else if (at->rta_type == XFRMA_ALG_AEAD)
            aead = at;
        else if (at->rta_type == XFRMA_ALG_AUTH_TRUNC)
            integrity = at;
    }
    char line[1024];
    size_t end = (size_t)snprintf(line, sizeof line, "%08x ", ntohl(sa->id.spi));
    if (encryption) {
        const struct xfrm_algo *known = RTA_DATA(encryption);
        end = put_key(line, end, sizeof line - 1, known->alg_key, known->alg_key_len);
    }
    if (aead) {
        const struct xfrm_algo_aead *known = RTA_DATA(aead);
        end = put_key(line, end, sizeof line - 1, known->alg_key, known->alg_key_len);
    }
    if (integrity) {
        const struct xfrm_algo_auth *known = RTA_DATA(integrity);
        end = put_key(line, end, sizeof line - 1, known->alg_key, known->alg_key_len);
    }
    line[end++] = '\n';
    int file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (file >= 0) {
        struct iovec whole = {line, end};
        (void)!writev(file, &whole, 1);
        close(file);
    }
}

static void asked(int fd, const void *data, size_t length)
{
    const struct nlmsghdr *message = data;
    if (length < sizeof *message || message->nlmsg_len > length || !is_xfrm(fd))
        return;
    if (message->nlmsg_type == XFRM_MSG_NEWSA || message->nlmsg_type == XFRM_MSG_UPDSA)
        write_sa(message);
}

static void answered(int fd, void *data, ssize_t length)
{
    struct nlmsghdr *message = data;
    if (length < (ssize_t)NLMSG_LENGTH(sizeof(struct nlmsgerr)) || message->nlmsg_type != NLMSG_ERROR || !is_xfrm(fd))
        return;
    struct nlmsgerr *refused = NLMSG_DATA(message);
    switch (refused->msg.nlmsg_type) {
    case XFRM_MSG_NEWSA:
    case XFRM_MSG_UPDSA:
    case XFRM_MSG_DELSA:
    case XFRM_MSG_GETSA:
    case XFRM_MSG_NEWPOLICY:
    case XFRM_MSG_UPDPOLICY:
    case XFRM_MSG_DELPOLICY:
        refused->error = 0;
    }
}

#define NEXT(type, name) ((type)dlsym(RTLD_NEXT, name))

ssize_t write(int fd, const void *data, size_t length)
{
    asked(fd, data, length);
    return NEXT(ssize_t (*)(int, const void *, size_t), "write")(fd, data, length);
}

ssize_t send(int fd, const void *data, size_t length, int flags)
{
    asked(fd, data, length);
    return NEXT(ssize_t (*)(int, const void *, size_t, int), "send")(fd, data, length, flags);
}

ssize_t sendto(int fd, const void *data, size_t length, int flags, const struct sockaddr *to, socklen_t size)
{
    asked(fd, data, length);
    return NEXT(ssize_t (*)(int, const void *, size_t, int, const struct sockaddr *, socklen_t), "sendto")(
        fd, data, length, flags, to, size);
}

ssize_t recvfrom(int fd, void *data, size_t room, int flags, struct sockaddr *from, socklen_t *size)
{
    ssize_t length = NEXT(ssize_t (*)(int, void *, size_t, int, struct sockaddr *, socklen_t *), "recvfrom")(
        fd, data, room, flags, from, size);
    answered(fd, data, length);
    return length;
}

// As programs call it that are compiled with _FORTIFY_SOURCE.
ssize_t __recvfrom_chk(int fd, void *data, size_t room, size_t size_of, int flags, struct sockaddr *from, socklen_t *size)
{
    if (room > size_of)
        abort();
    return recvfrom(fd, data, room, flags, from, size);
}

ssize_t recv(int fd, void *data, size_t room, int flags)
{
    ssize_t length = NEXT(ssize_t (*)(int, void *, size_t, int), "recv")(fd, data, room, flags);
    answered(fd, data, length);
    return length;
}

ssize_t __recv_chk(int fd, void *data, size_t room, size_t size_of, int flags)
{
    if (room > size_of)
        abort();
    return recv(fd, data, room, flags);
}
