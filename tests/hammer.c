/* Threads that access devices in native code, and a record of all that the devices did.
 *
 * A recorded device's functions (docs/abi.md) are called through wrappers that append an
 * event to its log. The dispatcher calls them under the device's lock, and only that keeps
 * the log in one piece: the order of events is the order in which the lock was taken.
 */
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef uint64_t u64;
typedef uint32_t u32;
typedef uint8_t u8;

enum { READ, WRITE, SETTLE, COMMIT, SAVE };
enum { SLOTS = 32, INPUTS = 8 };

/* `version` is the state's at the time; odd, as the lock is held, but for quiet reads. */
typedef struct {
    u64 now, value;
    u32 offset, width;
    u32 kind, region;
    u32 version, device;
} Event;

typedef struct {
    Event *events;
    u64 capacity, count;
} Log;

/* One device: its log, its functions, and where its inputs lie in the state. */
typedef struct {
    Log log;
    const void *state;
    void (*settle)(void *, u64);
    void (*commit)(void *, u64);
    void (*save)(void *, u64, u8 *);
    u32 inputs[INPUTS], input_count, pad;
} Device;

/* One window of a device. */
typedef struct {
    u64 (*read)(void *, u64, u32, u32);
    void (*write)(void *, u64, u32, u32, u64);
    Device *device;
    u32 number, pad;
} Region;


static Device devices[SLOTS];
static Region regions[SLOTS];

Device *hammer_device(u32 number) { return &devices[number]; }
Region *hammer_region(u32 number) { return &regions[number]; }

/* Reads without the lock, each thread's own: such a read works on a copy of the state.
 * Threads of others' making (a VMM's) share one. */
static _Thread_local Log *quiet;
Log hammer_quiet;

static u32 version_of(const void *state)
{
    u32 version;
    memcpy(&version, (const u8 *)state + 36, sizeof version);
    return version;
}

static void append(Log *log, Event event)
{
    if (log->count < log->capacity)
        log->events[log->count] = event;
    log->count++;
}

static void append_shared(Log *log, Event event)
{
    u64 place = __atomic_fetch_add(&log->count, 1, __ATOMIC_RELAXED);
    if (place < log->capacity)
        log->events[place] = event;
}

static void note(Device *device, const void *state, u32 kind, u64 now, u32 region, u32 offset, u32 width,
                 u64 value)
{
    Event event = {now, value, offset, width, kind, region, version_of(state), (u32)(device - devices)};
    if (state != device->state && !quiet)
        append_shared(&hammer_quiet, event);
    else
        append(state == device->state ? &device->log : quiet, event);
}

static u64 levels(const Device *device, const u8 *state)
{
    u64 found = 0;
    for (u32 i = 0; i < device->input_count; i++)
        found |= (u64)state[device->inputs[i]] << 8 * i;
    return found;
}

static u64 ones(u32 width) { return width < 8 ? (1ull << 8 * width) - 1 : ~0ull; }

#define WRAPPERS(n)                                                                         \
    static u64 read_##n(void *state, u64 now, u32 offset, u32 width)                        \
    {                                                                                       \
        u64 value = regions[n].read(state, now, offset, width);                             \
        note(regions[n].device, state, READ, now, regions[n].number, offset, width, value);        \
        return value;                                                                       \
    }                                                                                       \
    static void write_##n(void *state, u64 now, u32 offset, u32 width, u64 value)           \
    {                                                                                       \
        regions[n].write(state, now, offset, width, value);                                 \
        note(regions[n].device, state, WRITE, now, regions[n].number, offset, width, value);       \
    }                                                                                       \
    static void settle_##n(void *state, u64 now)                                            \
    {                                                                                       \
        devices[n].settle(state, now);                                                      \
        note(&devices[n], state, SETTLE, now, 0, 0, 0, 0);                                         \
    }                                                                                       \
    static void commit_##n(void *state, u64 now)                                            \
    {                                                                                       \
        u64 given = levels(&devices[n], state);                                             \
        devices[n].commit(state, now);                                                      \
        note(&devices[n], state, COMMIT, now, 0, 0, 0, given);                                     \
    }                                                                                       \
    static void save_##n(void *state, u64 now, u8 *image)                                   \
    {                                                                                       \
        devices[n].save(state, now, image);                                                 \
        note(&devices[n], state, SAVE, now, 0, 0, 0, 0);                                           \
    }
#define ALL(each) each(0) each(1) each(2) each(3) each(4) each(5) each(6) each(7) each(8) each(9)
ALL(WRAPPERS)

/* The wrapper of slot `number`, by an event's kind; NULL beyond the slots there are. */
void *hammer_wrapper(u32 kind, u32 number)
{
#define ROW(n) {read_##n, write_##n, settle_##n, commit_##n, save_##n},
    static void *const table[][5] = {ALL(ROW)};
    return number < sizeof table / sizeof *table && kind < 5 ? table[number][kind] : NULL;
}

/* --- virtual time: every look moves it on --- */

static _Atomic u64 instant;
static u64 pace;

void hammer_clock(u64 start, u64 step)
{
    instant = start;
    pace = step;
}

int hammer_gettime(int source, struct timespec *time)
{
    (void)source;
    u64 now = atomic_fetch_add(&instant, pace) + pace;
    time->tv_sec = (time_t)(now / 1000000000);
    time->tv_nsec = (long)(now % 1000000000);
    return 0;
}

/* --- a thread's accesses --- */

/* As Access in runtime/bus.py, its first fields. */
typedef struct {
    u64 now, address, value, offset;
    u32 space, write, width, done, claimed;
} Access;

/* Where an access may go: its address and width; which value bits a write may have. */
typedef struct {
    u64 address, values;
    u32 space, width, write, weight;
} Place;

typedef struct {
    void *bus;
    Access *access;
    const Place *places;
    u32 (*serve)(void *, void *);
    u32 (*settle)(void *, void *);
    u64 (*earliest)(void *);
    u64 (*present)(void *);
    const u64 *deadline;
    const u32 *moved;
    u32 *missing; /* threads that have not begun */
    Log quiet;
    u64 random, left, made;
    u32 place_count, phase;
} Thread;

enum { START, NEW, SERVING, SETTLING };

static u64 random_of(Thread *thread)
{
    u64 x = thread->random;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return thread->random = x;
}

static void begin(Thread *thread)
{
    const Place *place = &thread->places[random_of(thread) % thread->place_count];
    Access *access = thread->access;
    access->address = place->address;
    access->space = place->space;
    access->width = place->width;
    access->write = place->write;
    access->value = place->write ? random_of(thread) & place->values & ones(place->width) : 0;
    access->claimed = 0;
}

/* Make accesses as a vCPU's loop does, deadlines first. 1: Python must attend; 0: all are made. */
u32 hammer_run(Thread *thread)
{
    quiet = &thread->quiet;
    for (;;) {
        switch (thread->phase) {
        case START:
            __atomic_fetch_sub(thread->missing, 1, __ATOMIC_SEQ_CST);
            while (__atomic_load_n(thread->missing, __ATOMIC_SEQ_CST))
                sched_yield();
            thread->phase = NEW;
            break;
        case NEW:
            if (!thread->left)
                return 0;
            begin(thread);
            if (__atomic_load_n(thread->moved, __ATOMIC_RELAXED))
                thread->earliest(thread->bus);
            thread->access->now = thread->present(thread->bus);
            thread->access->done = 0;
            if (__atomic_load_n(thread->deadline, __ATOMIC_RELAXED) > thread->access->now) {
                thread->phase = SERVING;
                break;
            }
            thread->phase = SETTLING;
            /* fall through */
        case SETTLING:
            if (thread->settle(thread->bus, thread->access) >= 2)
                return 1;
            thread->access->done = 0;
            thread->phase = SERVING;
            break;
        case SERVING:
            if (thread->serve(thread->bus, thread->access) >= 2)
                return 1;
            thread->phase = NEW;
            thread->left--;
            thread->made++;
        }
    }
}

/* --- what lines told --- */

typedef struct {
    u64 edges, wrong;
    u32 level, busy;
} Told;

/* A native sink: counts edges, and those that were none, or came while another was told. */
void hammer_sink(Told *told, int64_t argument, u32 level, u64 now)
{
    (void)argument, (void)now;
    if (__atomic_exchange_n(&told->busy, 1, __ATOMIC_SEQ_CST))
        told->wrong++;
    sched_yield(); /* another thread may come now */
    told->wrong += level == told->level;
    told->level = level;
    told->edges++;
    __atomic_store_n(&told->busy, 0, __ATOMIC_SEQ_CST);
}

/* --- a device whose words are all alike, for whoever sees it in one piece --- */

enum { WORDS = 15, FIRST_WORD = 5 };

u64 hammer_torn;

/* How many words differ from the first; counted in `hammer_torn` too. */
u64 hammer_read_words(const u64 *state, u64 now, u32 offset, u32 width)
{
    (void)now, (void)offset, (void)width;
    u64 differ = 0;
    for (u32 i = 1; i < WORDS; i++)
        differ += state[FIRST_WORD + i] != state[FIRST_WORD];
    if (differ)
        __atomic_fetch_add(&hammer_torn, 1, __ATOMIC_RELAXED);
    return differ;
}

void hammer_write_words(u64 *state, u64 now, u32 offset, u32 width, u64 value)
{
    (void)now, (void)offset, (void)width;
    for (u32 i = 0; i < WORDS; i++)
        __atomic_store_n(&state[FIRST_WORD + i], value, __ATOMIC_RELAXED);
}

/* --- the serial replay --- */

static int by_version(const void *one, const void *other)
{
    u32 a = ((const Event *)one)->version, b = ((const Event *)other)->version;
    return (a > b) - (a < b);
}

/* Add a device's events of a thread's log to those of others, all in the order of their versions. */
void hammer_gather(Log *all, const Log *from, u32 device)
{
    for (u64 i = 0; i < from->count; i++)
        if (from->events[i].device == device)
            append(all, from->events[i]);
    qsort(all->events, all->count, sizeof *all->events, by_version);
}

/* Do an event again on a fresh state; whether it answers as it did. */
static int replay(const Device *device, const Region *windows, u8 *state, u8 *image, const Event *event)
{
    const Region *window = &windows[event->region];
    switch (event->kind) {
    case READ: {
        u64 value = window->read(state, event->now, event->offset, event->width);
        return !((value ^ event->value) & ones(event->width));
    }
    case WRITE:
        window->write(state, event->now, event->offset, event->width, event->value);
        return 1;
    case SETTLE:
        device->settle(state, event->now);
        return 1;
    case COMMIT:
        for (u32 at = 0; at < device->input_count; at++)
            state[device->inputs[at]] = event->value >> 8 * at & 0xff;
        device->commit(state, event->now);
        return 1;
    default:
        device->save(state, event->now, image);
        return 1;
    }
}

/* Do again what a log says on a fresh state, and quiet reads (by version) where they belong: on a
 * copy, behind the last event of an older version. The number of the first event that differs, or
 * the log's count; `*quietly` counts the quiet reads that agree. */
u64 hammer_replay(const Device *device, const Region *windows, u8 *state, u64 size, u8 *scratch,
                  const Log *reads, u64 *quietly)
{
    const Log *log = &device->log;
    u64 done = 0;
    for (u64 i = 0; i <= log->count; i++) {
        int last = i == log->count;
        for (; done < reads->count && (last || reads->events[done].version < log->events[i].version); done++) {
            memcpy(scratch, state, size);
            *quietly += replay(device, windows, scratch, NULL, &reads->events[done]);
        }
        if (!last && !replay(device, windows, state, scratch, &log->events[i]))
            return i;
    }
    return log->count;
}
