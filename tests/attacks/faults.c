/* For LD_PRELOAD: the k-th operation that changes files below a folder fails, and with `lasting` all after it.
 * Operations: write, create, truncate, sync, rename, make a folder, remove. A failed write is torn: half is written. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static char folder[PATH_MAX];
static long fail_at, count;
static int error_number, lasting;

/* fail_at 0: only count. */
void faults_arm(const char *path, long k, int number, int keep_failing) {
    snprintf(folder, sizeof folder, "%s", path);
    fail_at = k, count = 0, error_number = number, lasting = keep_failing;
}

long faults_count(void) { return count; }

static int below(int dirfd, const char *path) {
    char whole[2 * PATH_MAX], link[64];
    size_t length = 0;
    if (!folder[0]) return 0;
    if (path[0] != '/') {
        if (dirfd == AT_FDCWD) {
            if (!getcwd(whole, PATH_MAX)) return 0;
            length = strlen(whole);
        } else {
            snprintf(link, sizeof link, "/proc/self/fd/%d", dirfd);
            ssize_t n = readlink(link, whole, PATH_MAX);
            if (n < 0) return 0;
            length = n;
        }
        whole[length++] = '/';
    }
    snprintf(whole + length, sizeof whole - length, "%s", path);
    return strncmp(whole, folder, strlen(folder)) == 0;
}

static int below_fd(int fd) {
    char link[64], path[PATH_MAX];
    if (!folder[0]) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return strncmp(path, folder, strlen(folder)) == 0;
}

static int fails(void) {
    long number = __atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST);
    return fail_at && (number == fail_at || (lasting && number > fail_at));
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FAIL_IF(condition)                    \
    if ((condition) && fails()) {             \
        errno = error_number;                 \
        return -1;                            \
    }

ssize_t write(int fd, const void *data, size_t size) {
    if (below_fd(fd) && fails()) {
        if (size > 1) REAL(write)(fd, data, size / 2);
        errno = error_number;
        return -1;
    }
    return REAL(write)(fd, data, size);
}

int fsync(int fd) { FAIL_IF(below_fd(fd)) return REAL(fsync)(fd); }
int fdatasync(int fd) { FAIL_IF(below_fd(fd)) return REAL(fdatasync)(fd); }
int ftruncate(int fd, off_t size) { FAIL_IF(below_fd(fd)) return REAL(ftruncate)(fd, size); }
int ftruncate64(int fd, off64_t size) { FAIL_IF(below_fd(fd)) return REAL(ftruncate64)(fd, size); }
int truncate(const char *path, off_t size) { FAIL_IF(below(AT_FDCWD, path)) return REAL(truncate)(path, size); }
int truncate64(const char *path, off64_t size) { FAIL_IF(below(AT_FDCWD, path)) return REAL(truncate64)(path, size); }
int mkdir(const char *path, mode_t mode) { FAIL_IF(below(AT_FDCWD, path)) return REAL(mkdir)(path, mode); }
int unlink(const char *path) { FAIL_IF(below(AT_FDCWD, path)) return REAL(unlink)(path); }
int rmdir(const char *path) { FAIL_IF(below(AT_FDCWD, path)) return REAL(rmdir)(path); }
int unlinkat(int fd, const char *path, int flags) { FAIL_IF(below(fd, path)) return REAL(unlinkat)(fd, path, flags); }
int rename(const char *a, const char *b) { FAIL_IF(below(AT_FDCWD, b)) return REAL(rename)(a, b); }
int renameat(int fa, const char *a, int fb, const char *b) { FAIL_IF(below(fb, b)) return REAL(renameat)(fa, a, fb, b); }
int renameat2(int fa, const char *a, int fb, const char *b, unsigned flags) {
    FAIL_IF(below(fb, b)) return REAL(renameat2)(fa, a, fb, b, flags);
}
int linkat(int fa, const char *a, int fb, const char *b, int flags) {
    FAIL_IF(below(fb, b)) return REAL(linkat)(fa, a, fb, b, flags);
}

#define OPEN(name)                                                           \
    int name(const char *path, int flags, ...) {                             \
        va_list rest;                                                        \
        va_start(rest, flags);                                               \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, int) : 0; \
        va_end(rest);                                                        \
        FAIL_IF(flags & (O_CREAT | O_TRUNC) && below(AT_FDCWD, path))        \
        return REAL(name)(path, flags, mode);                                \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                         \
    int name(int fd, const char *path, int flags, ...) {                     \
        va_list rest;                                                        \
        va_start(rest, flags);                                               \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, int) : 0; \
        va_end(rest);                                                        \
        FAIL_IF(flags & (O_CREAT | O_TRUNC) && below(fd, path))              \
        return REAL(name)(fd, path, flags, mode);                            \
    }
OPENAT(openat)
OPENAT(openat64)
