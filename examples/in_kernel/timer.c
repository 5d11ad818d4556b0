#define _GNU_SOURCE
#include "timer.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "machine.h"

#define SECOND 1000000000u

static void set_line(const struct timer *timer, int level)
{
    struct kvm_irq_level change = { .irq = timer->line, .level = (uint32_t)level };

    CONTROL(timer->vm, KVM_IRQ_LINE, &change);
}

/* The clock rings at the device's deadline. */
static void arm(const struct timer *timer, uint64_t deadline)
{
    uint64_t at = timer->device->kernel.io->origin + deadline;
    struct itimerspec when = { 0 };

    if (deadline != DEVC_NEVER)
        when.it_value = (struct timespec){ .tv_sec = (time_t)(at / SECOND), .tv_nsec = (long)(at % SECOND) };
    if (timerfd_settime(timer->clock, TFD_TIMER_ABSTIME, &when, NULL))
        fail("timerfd_settime: %s", strerror(errno));
}

/* What docs/abi.md asks of a caller, after whatever happened. */
static void step(struct timer *timer)
{
    struct device *d = timer->device;
    i8254_state *state = head(d);
    uint64_t now, deadline;
    uint32_t rises, lines;

    lock(d);
    catch_up(d);
    now = monotonic() - d->kernel.io->origin;
    if (now >= state->deadline) {
        d->settle(state, now);
        d->settle(d->twin, now);
    }
    state->attention = ((i8254_state *)d->twin)->attention = 0;
    deadline = state->deadline;
    lines = state->lines;
    rises = state->rises[0];
    unlock(d);
    if (rises != timer->seen) {
        timer->seen = rises;
        set_line(timer, 0);
        set_line(timer, 1);
    }
    set_line(timer, lines & 1);
    arm(timer, deadline);
}

static void *run_timer(void *argument)
{
    struct timer *timer = argument;
    struct pollfd waited[WINDOWS + 2] = { { .fd = timer->clock, .events = POLLIN },
                                          { .fd = timer->device->changed, .events = POLLIN } };

    for (unsigned n = 0; n < WINDOWS; n++)
        waited[2 + n] = (struct pollfd){ .fd = timer->device->events[n], .events = POLLIN };
    while (!__atomic_load_n(&timer->stop, __ATOMIC_ACQUIRE)) {
        step(timer);
        if (poll(waited, WINDOWS + 2, -1) < 0 && errno != EINTR)
            fail("poll: %s", strerror(errno));
        for (unsigned n = 0; n < WINDOWS + 2; n++) {
            uint64_t rung;

            if (waited[n].revents & POLLIN && read(waited[n].fd, &rung, sizeof rung) < 0 && errno != EAGAIN)
                fail("read: %s", strerror(errno));
        }
    }
    return NULL;
}

void start_timer(struct timer *timer, struct device *device, int vm, unsigned line)
{
    *timer = (struct timer){ .device = device, .vm = vm, .line = line, .seen = head(device)->rises[0] };
    timer->clock = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    device->changed = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (timer->clock < 0 || device->changed < 0)
        fail("no timer: %s", strerror(errno));
    if (pthread_create(&timer->thread, NULL, run_timer, timer))
        fail("no second thread");
}

void stop_timer(struct timer *timer)
{
    const uint64_t one = 1;

    __atomic_store_n(&timer->stop, 1, __ATOMIC_RELEASE);
    if (write(timer->device->changed, &one, sizeof one) < 0 || pthread_join(timer->thread, NULL))
        fail("the timer does not stop");
    close(timer->clock);
    close(timer->device->changed);
    timer->device->changed = -1;
}
