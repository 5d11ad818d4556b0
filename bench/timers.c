/* The reads that guests make in loops, of devices/hpet.dev and devices/mc146818.dev, as one writes
 * them in C: the main counter, a comparator, the RTC's registers A and C, with the settling that
 * comes before each. The same answers at the same instants, which the benchmark checks first.
 *
 * Non-goals: what the workloads do not touch (timers that are enabled, the calendar, RAM).
 */
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define NEVER UINT64_MAX
#define SECOND 1000000000u
#define COLD __attribute__((noinline, cold))

struct header { /* docs/abi.md, "The head of the state" */
    uint64_t deadline, settled;
    uint32_t lines, attention, leave, watch, lock, version;
};

static inline uint64_t ticks(uint64_t ns, uint32_t hz)
{
    return ns / SECOND * hz + ns % SECOND * hz / SECOND;
}

static inline uint64_t nanos(uint64_t tick, uint32_t hz)
{
    return tick / hz * SECOND + (tick % hz * SECOND + hz - 1) / hz;
}

/* --- hpet ------------------------------------------------------------------ */

#define TIMERS 32

struct hpet {
    struct header h;
    uint32_t rises[64];
    uint64_t due;                /* of whatever is to be settled next */
    uint64_t epoch, base, tick;  /* the main counter, as of that tick */
    uint32_t hz, routes, timers, fired;
    bool enable, legacy, running;
    struct {
        uint64_t target, period, open;
        uint32_t address, data;
        uint8_t level, enable, periodic, narrow, route, fsb;
    } t[TIMERS];
};

static inline uint64_t main_counter(const struct hpet *s, uint64_t now)
{
    return s->running ? s->base + ticks(now - s->epoch, s->hz) - s->tick : s->base;
}

static COLD void hpet_settle(struct hpet *s, uint64_t now)
{
    s->h.settled = now; /* no timer is enabled: nothing falls due but the end of time */
}

static uint64_t hpet_register(const struct hpet *s, uint64_t now, uint32_t offset)
{
    uint32_t n = (offset - 0x100) / 0x20;

    switch (offset) {
    case 0x00:
        return 1000000000000000ull / s->hz << 32 | 0x8086a001 | (s->timers - 1) << 8;
    case 0x10:
        return s->legacy << 1 | s->enable;
    case 0x20:
        return s->fired;
    case 0xf0:
        return main_counter(s, now);
    }
    if (offset < 0x100 || n >= s->timers)
        return 0;
    switch (offset & 0x18) {
    case 0x00:
        return (uint64_t)s->routes << 32 | 0x30 | s->t[n].level << 1 | s->t[n].enable << 2 | s->t[n].periodic << 3
             | s->t[n].narrow << 8 | s->t[n].route << 9 | s->t[n].fsb << 14;
    case 0x08:
        return s->t[n].target;
    case 0x10:
        return (uint64_t)s->t[n].address << 32 | s->t[n].data;
    }
    return 0;
}

uint64_t c_hpet_mmio_read(struct hpet *s, uint64_t now, uint32_t offset, uint32_t width)
{
    if (now >= s->due)
        hpet_settle(s, now);
    if (offset < 0x500) {
        if (width == 8 && offset % 8 == 0)
            return hpet_register(s, now, offset);
        if (width == 4 && offset % 4 == 0)
            return (uint32_t)(hpet_register(s, now, offset & ~7u) >> 8 * (offset & 4));
    }
    return 0;
}

void c_hpet_mmio_write(struct hpet *s, uint64_t now, uint32_t offset, uint32_t width, uint64_t value)
{
    if (now >= s->due)
        hpet_settle(s, now);
    if (offset != 0x10 || width < 4)
        return;
    s->enable = value & 1;
    s->legacy = value >> 1 & 1;
    if (s->running != s->enable) {
        s->base = main_counter(s, now);
        if (s->enable)
            s->epoch = now;
        s->tick = ticks(now - s->epoch, s->hz);
        s->running = s->enable;
    }
}

void c_hpet_init(struct hpet *s, uint64_t now, uint64_t hz)
{
    memset(s, 0, sizeof *s);
    s->due = s->h.deadline = NEVER;
    s->h.settled = s->epoch = now;
    s->hz = hz;
    s->routes = 0x00ff0104;
    s->timers = 3;
    for (int n = 0; n < TIMERS; n++)
        s->t[n].target = UINT64_MAX;
}

uint64_t c_hpet_size(void)
{
    return sizeof(struct hpet);
}

/* --- mc146818 -------------------------------------------------------------- */

#define XTAL 32768u

struct mc146818 {
    struct header h;
    uint32_t rises[2];
    uint64_t due;            /* of whatever is to be settled next */
    uint64_t pf_due, uf_due; /* ns */
    uint64_t epoch, tick;
    uint16_t base;
    uint8_t index, upper_index, rs, dv, b;
    uint8_t update; /* ticks of the divider that an update takes, at 32,768 Hz */
    bool pf, af, uf, idle, nmi, counting;
    uint8_t cmos[128], upper[128]; /* the time, the alarm and the RAM */
};

static inline uint32_t divider(const struct mc146818 *s, uint64_t now)
{
    if (!s->counting)
        return s->base;
    return (s->base + ticks(now - s->epoch, XTAL) - s->tick) & (XTAL - 1);
}

static inline uint32_t length(const struct mc146818 *s)
{
    return s->dv == 2 || s->update < 8 ? s->update : 8;
}

static inline bool updating(const struct mc146818 *s, uint64_t now)
{
    uint32_t d;

    if (s->dv > 2 || s->b & 0x80)
        return false;
    d = divider(s, now);
    return d >= XTAL - 8 || (d < length(s) && !s->idle);
}

static inline uint8_t flags(const struct mc146818 *s)
{
    uint8_t set = s->pf << 6 | s->af << 5 | s->uf << 4;

    return set | (set & s->b & 0x70 ? 0x80 : 0);
}

static uint64_t after(const struct mc146818 *s, uint64_t now, uint32_t distance)
{
    return s->epoch + nanos(ticks(now - s->epoch, XTAL) + distance, XTAL);
}

static void rtc_schedule(struct mc146818 *s, uint64_t now)
{
    uint32_t tap = s->rs > 2 ? s->rs - 1 : s->rs + 6, d = divider(s, now);

    s->pf_due = s->rs ? after(s, now, (1u << tap) - (d & ((1u << tap) - 1))) : NEVER;
    s->uf_due = after(s, now, d < length(s) ? length(s) - d : XTAL + length(s) - d);
    s->due = s->pf_due < s->uf_due ? s->pf_due : s->uf_due;
}

static void rtc_line(struct mc146818 *s)
{
    uint32_t lines = flags(s) >> 7 | s->nmi << 1;

    if (lines != s->h.lines) {
        s->rises[0] += lines & ~s->h.lines & 1;
        s->h.lines = lines;
        s->h.attention |= 1;
    }
}

static COLD void rtc_settle(struct mc146818 *s, uint64_t now)
{
    if (now >= s->pf_due)
        s->pf = true;
    if (now >= s->uf_due) {
        if (!s->idle)
            s->uf = true;
        s->idle = false;
    }
    rtc_line(s);
    rtc_schedule(s, now);
    s->h.settled = now;
}

uint64_t c_mc146818_io_read(struct mc146818 *s, uint64_t now, uint32_t offset, uint32_t width)
{
    uint8_t value;

    if (now >= s->due)
        rtc_settle(s, now);
    if (offset == 3 && width == 1)
        return s->upper[s->upper_index];
    if (offset != 1 || width != 1)
        return 0xff;
    switch (s->index) {
    case 0x0a:
        return updating(s, now) << 7 | s->dv << 4 | s->rs;
    case 0x0b:
        return s->b;
    case 0x0c:
        value = flags(s);
        if (value) {
            s->pf = s->af = s->uf = false;
            rtc_line(s);
        }
        return value;
    case 0x0d:
        return 0x80;
    case 0x37:
        return s->cmos[0x32];
    }
    return s->cmos[s->index];
}

void c_mc146818_io_write(struct mc146818 *s, uint64_t now, uint32_t offset, uint32_t width, uint64_t value)
{
    if (now >= s->due)
        rtc_settle(s, now);
    if (offset == 0 && width == 1) {
        s->index = value & 0x7f;
        s->nmi = value >> 7 & 1;
        rtc_line(s);
    }
}

void c_mc146818_init(struct mc146818 *s, uint64_t now, uint64_t date)
{
    (void)date;
    memset(s, 0, sizeof *s);
    s->epoch = s->h.settled = now;
    s->rs = 6;
    s->dv = 2;
    s->b = 2;
    s->update = 65;
    s->counting = s->idle = true;
    rtc_schedule(s, now);
    s->h.deadline = NEVER;
}

uint64_t c_mc146818_size(void)
{
    return sizeof(struct mc146818);
}
