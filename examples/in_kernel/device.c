#define _GNU_SOURCE
#include "device.h"

#include <inttypes.h>
#include <sched.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define REGION(DEV, name, space, base, size) \
    { #DEV "." #name, space, base, size, (read_fn *)DEV##_##name##_read, (write_fn *)DEV##_##name##_write },
#define PIT_REGION(name, space, base, size) REGION(i8254, name, space, base, size)
#define PANEL_REGION(name, space, base, size) REGION(panel, name, space, base, size)

static i8254_state pit_twin;
static panel_state panel_twin;
struct device devices[DEVICES] = {
    { .name = "i8254", .size = sizeof pit_twin, .changed = -1, .settle = (settle_fn *)i8254_settle, .twin = &pit_twin,
      .regions = 2, .region = { I8254_REGIONS(PIT_REGION) } },
    { .name = "panel", .size = sizeof panel_twin, .changed = -1, .settle = (settle_fn *)panel_settle, .twin = &panel_twin,
      .regions = 1, .region = { PANEL_REGIONS(PANEL_REGION) } },
};

uint64_t monotonic(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

i8254_state *head(const struct device *d)
{
    return d->kernel.state;
}

void lock(struct device *d)
{
    uint32_t free = 0;

    while (!__atomic_compare_exchange_n(&head(d)->lock, &free, 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
        free = 0;
        sched_yield();
    }
}

void unlock(struct device *d)
{
    __atomic_store_n(&head(d)->lock, 0, __ATOMIC_RELEASE);
}

/* What the guest reads without an exit follows the state. */
static void refresh(struct device *d, uint64_t now)
{
    uint32_t *page = d->kernel.page;

    for (unsigned at = 0; d->paged && at < PAGE; at += 4)
        page[at / 4] = (uint32_t)d->region[0].read(d->kernel.state, now, at, 4);
}

void reset_devices(void)
{
    i8254_init(devices[PIT].kernel.state, 0, I8254_HZ_DEFAULT);
    i8254_init(&pit_twin, 0, I8254_HZ_DEFAULT);
    panel_init(devices[PANEL].kernel.state, 0);
    panel_init(&panel_twin, 0);
    for (struct device *d = devices; d < devices + DEVICES; d++) {
        d->kernel.io->origin = monotonic();
        d->count = (struct count){ 0 };
        d->taken = d->kernel.io->made;
        d->differed = 0;
        for (unsigned n = 0; n < WINDOWS; n++)
            d->events[n] = -1;
        refresh(d, 0);
    }
}

/* One access on one state. */
static uint64_t on(void *state, const struct device *d, const struct record *r)
{
    const struct region *region = &d->region[r->region];

    if (r->what == READ)
        return region->read(state, r->now, r->offset, r->width);
    region->write(state, r->now, r->offset, r->width, r->value);
    return 0;
}

/* One access by user space, with the lock: on the state that we share with the kernel, and on the twin. */
static uint64_t on_both(struct device *d, const struct record *r)
{
    uint64_t value, twins;

    head(d)->version++;
    value = on(d->kernel.state, d, r);
    if (r->what == WRITE)
        refresh(d, r->now);
    head(d)->version++;
    twins = on(d->twin, d, r);
    if (value != twins)
        fail("%s reads %#" PRIx64 ", its twin %#" PRIx64, d->region[r->region].name, value, twins);
    return value;
}

/* Whether both states are the same, but for `lock` and `version`, which belong to the callers. */
static int same(const struct device *d)
{
    const size_t lock_at = offsetof(i8254_state, lock), behind = offsetof(i8254_state, rises);
    const char *a = d->kernel.state, *b = d->twin;

    return !memcmp(a, b, lock_at) && !memcmp(a + behind, b + behind, d->size - behind);
}

void catch_up(struct device *d)
{
    for (;; d->taken++) {
        struct record r = d->kernel.log[d->taken % RECORDS];

        if (__atomic_load_n(&d->kernel.log[d->taken % RECORDS].turn, __ATOMIC_ACQUIRE) != d->taken / RECORDS + 1)
            break;
        r = d->kernel.log[d->taken % RECORDS];
        if (r.status == SERVED) {
            on(d->twin, d, &r);
            d->count.in_kernel++;
        } else {
            if (r.now < head(d)->settled) /* it waited; meanwhile time went on */
                r.now = head(d)->settled;
            on_both(d, &r);
            __atomic_fetch_sub(&d->kernel.io->pending, 1, __ATOMIC_SEQ_CST);
            d->count.put_off++;
        }
    }
    d->differed |= !same(d);
}

void catch_up_at_exit(struct device *d)
{
    lock(d);
    catch_up(d);
    unlock(d);
    if (d->kernel.io->made != d->taken)
        fail("%s: %" PRIu64 " records lost", d->name, d->kernel.io->made - d->taken);
}

/* Whose timer and lines must follow looks at the state. */
static void tell(const struct device *d)
{
    const uint64_t one = 1;

    if (d->changed >= 0 && head(d)->attention && write(d->changed, &one, sizeof one) < 0)
        fail("an eventfd takes no more");
}

static uint64_t serve_device(struct device *d, unsigned region, uint32_t offset, unsigned width, int what, uint64_t value)
{
    struct record r = { .value = value, .offset = offset, .width = width, .region = region, .what = (uint32_t)what };

    lock(d);
    catch_up(d);
    r.now = monotonic() - d->kernel.io->origin;
    value = on_both(d, &r);
    tell(d);
    unlock(d);
    return value;
}

uint64_t serve(int space, uint64_t address, unsigned width, int what, uint64_t value)
{
    for (struct device *d = devices; d < devices + DEVICES; d++)
        for (unsigned n = 0; n < d->regions; n++) {
            const struct region *region = &d->region[n];

            if (region->space != space || address - region->base >= region->size)
                continue;
            *(what == READ ? &d->count.reads : &d->count.writes) += 1;
            return serve_device(d, n, (uint32_t)(address - region->base), width, what, value);
        }
    return UINT64_MAX;
}
