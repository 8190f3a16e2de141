/* PID 1 of the test guest: two virtio ports, the door's frames, and a few orders in their payloads.
 *
 * A frame is u32be length, peer 32, id 16, payload. Every answer goes to the peer that asked, under
 * an id of its own. Orders, by the payload's first byte:
 *   E text             the same again
 *   L                  the launch document from fw_cfg, in base64
 *   B digest32 u32 n   read the object's 1 MiB n times at the blob port: status, bytes, FNV-1a 64
 *   W text             write the text as an object of digest32 that stands before it: status
 *   D                  shut the door and stay
 *   P                  panic
 *   X                  power off
 * A host that hangs up ends the frame that was on its way; the next host begins with a new one.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FRAME_MAX (1u << 20)
#define HEAD 48u

static unsigned char frame[4 + FRAME_MAX + 64];
static unsigned char object[1u << 20];
static uint64_t counter;

static void say(const char *text) { dprintf(1, "guest: %s\n", text); }

static void stop(const char *text) {
    say(text);
    sync();
    reboot(RB_POWER_OFF);
    for (;;) pause();
}

static uint32_t get32(const unsigned char *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void put32(unsigned char *p, uint32_t v) {
    p[0] = v >> 24; p[1] = v >> 16; p[2] = v >> 8; p[3] = v;
}

static void load_modules(void) {
    char path[256];
    for (int n = 0; n < 64; n++) {
        snprintf(path, sizeof path, "/modules/%02d.ko", n);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0) return;
        if (syscall(SYS_finit_module, fd, "", 0) != 0 && errno != EEXIST) say(strerror(errno));
        close(fd);
    }
}

/* The device node of the port with this name, or -1 after ten seconds. */
static int open_port(const char *name) {
    for (int tries = 0; tries < 500; tries++) {
        DIR *all = opendir("/sys/class/virtio-ports");
        struct dirent *each;
        while (all && (each = readdir(all))) {
            char path[512], found[64] = "";
            snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", each->d_name);
            int fd = open(path, O_RDONLY | O_CLOEXEC);
            if (fd < 0) continue;
            ssize_t length = read(fd, found, sizeof found - 1);
            close(fd);
            while (length > 0 && found[length - 1] == '\n') found[--length] = 0;
            if (strcmp(found, name) != 0) continue;
            snprintf(path, sizeof path, "/dev/%s", each->d_name);
            int port = open(path, O_RDWR | O_CLOEXEC);
            closedir(all);
            return port;
        }
        if (all) closedir(all);
        usleep(20000);
    }
    return -1;
}

/* All of it, or 0: nobody is at the other end. */
static int read_all(int fd, unsigned char *to, size_t length) {
    while (length) {
        ssize_t got = read(fd, to, length);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return 0;
        to += got; length -= (size_t)got;
    }
    return 1;
}

static int write_all(int fd, const unsigned char *from, size_t length) {
    while (length) {
        ssize_t put = write(fd, from, length);
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) return 0;
        from += put; length -= (size_t)put;
    }
    return 1;
}

/* Send the payload that stands at frame + 4 + HEAD back to the peer at frame + 4. */
static int answer(int frames, uint32_t length) {
    memset(frame + 36, 0, 16);
    counter++;
    for (int n = 0; n < 8; n++) frame[44 + n] = counter >> (8 * (7 - n));
    put32(frame, HEAD + length);
    return write_all(frames, frame, 4 + HEAD + length);
}

static uint32_t launch_document(unsigned char *to) {
    int fd = open("/sys/firmware/qemu_fw_cfg/by_name/opt/blindhost/launch/raw", O_RDONLY);
    if (fd < 0) return 0;
    ssize_t got = read(fd, to, 8192);
    close(fd);
    return got > 0 ? (uint32_t)got : 0;
}

static uint32_t read_blob(int blobs, unsigned char *payload) {
    unsigned char request[41], head[5];
    uint32_t times = get32(payload + 33);
    uint64_t bytes = 0, hash = 0xcbf29ce484222325ull;
    unsigned char status = 0;
    request[0] = 1;
    memcpy(request + 1, payload + 1, 32);
    put32(request + 33, 0);
    put32(request + 37, sizeof object);
    for (uint32_t n = 0; n < times; n++) {
        if (!write_all(blobs, request, sizeof request)) return 0;
        if (!read_all(blobs, head, sizeof head)) return 0;
        status = head[0];
        uint32_t length = get32(head + 1);
        if (length > sizeof object || !read_all(blobs, object, length)) return 0;
        if (n == 0) for (uint32_t i = 0; i < length; i++) hash = (hash ^ object[i]) * 0x100000001b3ull;
        bytes += length;
    }
    return (uint32_t)sprintf((char *)payload, "%u %llu %016llx", status,
                             (unsigned long long)bytes, (unsigned long long)hash);
}

static uint32_t write_blob(int blobs, unsigned char *payload, uint32_t length) {
    unsigned char head[37], status[5];
    if (length < 33) return 0;
    head[0] = 2;
    memcpy(head + 1, payload + 1, 32);
    put32(head + 33, length - 33);
    if (!write_all(blobs, head, sizeof head)) return 0;
    if (!write_all(blobs, payload + 33, length - 33)) return 0;
    if (!read_all(blobs, status, sizeof status)) return 0;
    return (uint32_t)sprintf((char *)payload, "%u", status[0]);
}

static void panic(void) {
    int fd = open("/proc/sysrq-trigger", O_WRONLY);
    say("panic");
    if (write(fd, "c", 1) != 1) stop("no panic");
}

/* Orders from one host, until it hangs up. */
static void obey(int frames, int blobs) {
    for (;;) {
        if (!read_all(frames, frame, 4)) return;
        uint32_t length = get32(frame);
        if (length <= HEAD || length > FRAME_MAX) stop("a frame out of bounds");
        if (!read_all(frames, frame + 4, length)) return;
        unsigned char *payload = frame + 4 + HEAD;
        uint32_t said = length - HEAD;
        switch (payload[0]) {
        case 'E': break;
        case 'L': said = launch_document(payload); break;
        case 'B': said = said == 37 ? read_blob(blobs, payload) : 0; break;
        case 'W': said = write_blob(blobs, payload, said); break;
        case 'D': close(frames); close(blobs); say("shut"); for (;;) pause();
        case 'P': panic(); break;
        case 'X': stop("power off"); break;
        default: said = 0; /* the agent's briefing, and whatever else */
        }
        if (said && !answer(frames, said)) return;
    }
}

int main(void) {
    char line[4096] = "";
    mount("devtmpfs", "/dev", "devtmpfs", 0, "");
    mount("proc", "/proc", "proc", 0, "");
    mount("sysfs", "/sys", "sysfs", 0, "");
    int console = open("/dev/console", O_RDWR);
    if (console >= 0) { dup2(console, 1); dup2(console, 2); }
    load_modules();
    int fd = open("/proc/cmdline", O_RDONLY);
    if (fd >= 0 && read(fd, line, sizeof line - 1) > 0 && strstr(line, "blindhost.silent")) {
        say("silent");
        for (;;) pause();
    }
    int frames = open_port("blindhost.frames");
    int blobs = open_port("blindhost.blobs");
    if (frames < 0 || blobs < 0) stop("no ports");
    say("door open");
    for (;;) {
        obey(frames, blobs);
        usleep(50000); /* nobody is there: read(2) gives 0 at once until somebody connects */
    }
}
