/* Loops that call a device's handlers as a dispatcher does: through pointers. */
#include <stdint.h>
#include <time.h>

typedef uint64_t (*read_fn)(void *s, uint64_t now, uint32_t offset, uint32_t width);
typedef void (*write_fn)(void *s, uint64_t now, uint32_t offset, uint32_t width, uint64_t value);

struct operation {
    uint32_t is_write, offset, width, value;
};

struct run {
    void *state;
    read_fn read;
    write_fn write;
    const struct operation *operations; /* done in turn, `step` ns apart */
    uint64_t count, rounds, now, step;
    uint64_t sum; /* of what was read: the compiler must not drop it, and both sides agree on it */
};

static uint64_t monotonic(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + t.tv_nsec;
}

/* One read over and over: ns taken. */
uint64_t bench_read(struct run *r)
{
    read_fn read = r->read;
    void *state = r->state;
    uint64_t now = r->now, step = r->step, sum = 0, start;
    uint32_t offset = r->operations->offset, width = r->operations->width;

    start = monotonic();
    for (uint64_t i = 0; i < r->rounds; i++) {
        sum += read(state, now, offset, width);
        now += step;
    }
    start = monotonic() - start;
    r->now = now;
    r->sum += sum;
    return start;
}

/* A sequence of accesses over and over: ns taken. */
uint64_t bench_sequence(struct run *r)
{
    uint64_t now = r->now, sum = 0, start = monotonic();

    for (uint64_t i = 0; i < r->rounds; i++)
        for (uint64_t k = 0; k < r->count; k++) {
            const struct operation *o = &r->operations[k];

            if (o->is_write)
                r->write(r->state, now, o->offset, o->width, o->value);
            else
                sum += r->read(r->state, now, o->offset, o->width);
            now += r->step;
        }
    start = monotonic() - start;
    r->now = now;
    r->sum += sum;
    return start;
}

/* What no handler can be faster than. */
uint64_t bench_empty(void *s, uint64_t now, uint32_t offset, uint32_t width)
{
    (void)s, (void)now, (void)offset, (void)width;
    return 0;
}
