/* Moves the clocks that a process reads, while it runs: two offsets in a mapped file, of the wall clock and of the
 * monotonic ones, in nanoseconds. After them in the file: those by which the process was last told a clock.
 *
 * Whoever computes a deadline from a moved clock and hands it to the kernel gets it moved back, or a thread would wait
 * for the offset as well. (That is what libfaketime 0.9.10 does to Python's locks; with the wall clock alone it makes
 * them spin.) The calls are those that CPython and libuv make.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL

static volatile int64_t *offsets;

__attribute__((constructor)) static void begin(void) {
    int file = open(getenv("MOVED_CLOCKS"), O_RDWR | O_CLOEXEC);
    if (file < 0)
        abort();
    void *mapped = mmap(NULL, 32, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (mapped == MAP_FAILED)
        abort();
    close(file);
    offsets = mapped;
}

static int64_t offset(clockid_t clock) {
    if (!offsets)
        return 0;
    switch (clock) {
    case CLOCK_REALTIME:
    case CLOCK_REALTIME_COARSE:
        return offsets[0];
    case CLOCK_MONOTONIC:
    case CLOCK_MONOTONIC_COARSE:
    case CLOCK_MONOTONIC_RAW:
    case CLOCK_BOOTTIME:
        return offsets[1];
    default:
        return 0; /* processor time */
    }
}

static void move(struct timespec *at, int64_t by) {
    int64_t whole = at->tv_sec * SECOND + at->tv_nsec + by;
    at->tv_sec = whole / SECOND;
    at->tv_nsec = whole % SECOND;
}

#define NEXT(name) (__typeof__(&name))dlsym(RTLD_NEXT, #name)

int clock_gettime(clockid_t clock, struct timespec *at) {
    static __typeof__(&clock_gettime) next;
    if (!next)
        next = NEXT(clock_gettime);
    int result = next(clock, at);
    int64_t by = offset(clock);
    if (!result && by) {
        move(at, by);
        offsets[clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE ? 2 : 3] = by;
    }
    return result;
}

int gettimeofday(struct timeval *at, void *zone) {
    struct timespec now;
    (void)zone;
    int result = clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return result;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at)
        *at = now.tv_sec;
    return now.tv_sec;
}

int sem_clockwait(sem_t *semaphore, clockid_t clock, const struct timespec *until) {
    static __typeof__(&sem_clockwait) next;
    if (!next)
        next = NEXT(sem_clockwait);
    struct timespec real = *until;
    move(&real, -offset(clock));
    return next(semaphore, clock, &real);
}

/* Python's and libuv's conditions wait by the monotonic clock. */
int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex, const struct timespec *until) {
    static __typeof__(&pthread_cond_timedwait) next;
    if (!next)
        next = NEXT(pthread_cond_timedwait);
    struct timespec real = *until;
    move(&real, -offset(CLOCK_MONOTONIC));
    return next(condition, mutex, &real);
}
