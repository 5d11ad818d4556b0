/* The devices of devices/i8254.dev and devices/acpi_pm.dev as one writes them in C.
 *
 * What native handlers are measured against: the same answers to the same
 * accesses at the same instants (the benchmark checks that before it measures),
 * the same signatures, the same header, the same lazily derived counters. It is
 * meant to be good C, not a copy of the compiler's output.
 *
 * Non-goals: save and restore, and Python's observers.
 */
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define NEVER UINT64_MAX
#define SECOND 1000000000u
#define ATTENTION_LINES 1u
#define ATTENTION_DEADLINE 2u

struct header { /* docs/abi.md, "The head of the state" */
    uint64_t deadline, settled;
    uint32_t lines, attention, leave, watch, lock, version;
};

/* floor(ns * hz / 10^9), split at the second so that nothing exceeds 64 bits */
static inline uint64_t ticks(uint64_t ns, uint32_t hz)
{
    return ns / SECOND * hz + ns % SECOND * hz / SECOND;
}

/* the first instant of a tick; NEVER if it is beyond 64 bits */
static inline uint64_t nanos(uint64_t tick, uint32_t hz)
{
    uint64_t s = tick / hz, part = (tick % hz * SECOND + hz - 1) / hz, ns;

    if (__builtin_mul_overflow(s, (uint64_t)SECOND, &ns) || __builtin_add_overflow(ns, part, &ns))
        return NEVER;
    return ns;
}

static inline uint64_t later(uint64_t tick, uint64_t distance)
{
    uint64_t sum;

    return __builtin_add_overflow(tick, distance, &sum) ? NEVER : sum;
}

static inline uint64_t ones(uint32_t width)
{
    return width == 1 ? 0xff : width == 2 ? 0xffff : width == 4 ? 0xffffffff : UINT64_MAX;
}

static inline bool is_width(uint32_t width)
{
    return width == 1 || width == 2 || width == 4 || width == 8;
}

static void set_deadline(struct header *h, uint64_t deadline)
{
    if (h->deadline != deadline) {
        h->deadline = deadline;
        h->attention |= ATTENTION_DEADLINE;
    }
}

static void set_lines(struct header *h, uint32_t lines, uint32_t *rises)
{
    if (h->lines != lines) {
        *rises += lines & ~h->lines;
        h->lines = lines;
        h->attention |= ATTENTION_LINES;
    }
}

/* --- i8254 ---------------------------------------------------------------- */

enum { LATCH, LSB, MSB, WORD };

#define T_MASK ((1ull << 56) - 1)

struct channel {
    uint64_t load_due;         /* ns at which cr moves to the counting element */
    uint64_t t_base, t_tick;   /* CLKs counted, as of that tick */
    uint32_t cr, reload;
    uint16_t count_held;
    uint8_t status_held, access, m, first;
    bool bcd, null, written, running, counting;
    bool count_full, status_full, rd_hi, wr_hi;
};

struct i8254 {
    struct header h;
    uint32_t rises, hz;
    struct channel ch[3];
    uint64_t clks_tick;
    bool gate2;
    uint8_t speaker, checks;
};

static inline unsigned mode(const struct channel *c)
{
    return c->m > 5 ? c->m - 4 : c->m;
}

static inline uint64_t elapsed(const struct channel *c, uint32_t hz, uint64_t now)
{
    if (!c->counting)
        return c->t_base;
    return (c->t_base + ticks(now, hz) - c->t_tick) & T_MASK;
}

static inline bool gate(const struct i8254 *s, const struct channel *c)
{
    return c != &s->ch[2] || s->gate2;
}

static bool out(const struct channel *c, uint64_t t)
{
    if (!c->running)
        return mode(c) != 0;
    switch (mode(c)) {
    case 0:
    case 1:
        return t >= c->reload;
    case 2:
        return t % c->reload != c->reload - 1;
    case 3:
        return t % c->reload < (c->reload + 1) / 2;
    default:
        return t != c->reload;
    }
}

static inline uint16_t to_bcd(uint32_t n)
{
    return n / 1000 % 10 << 12 | n / 100 % 10 << 8 | n / 10 % 10 << 4 | n % 10;
}

static inline uint32_t from_bcd(uint32_t n)
{
    return (n >> 12) * 1000 + (n >> 8 & 15) * 100 + (n >> 4 & 15) * 10 + (n & 15);
}

static uint16_t count(const struct channel *c, uint64_t t)
{
    uint32_t left, position, high;

    switch (mode(c)) {
    case 2:
        left = c->reload - t % c->reload;
        break;
    case 3:
        position = t % c->reload;
        high = (c->reload + 1) / 2;
        if (position >= high)
            position -= high;
        left = (c->reload & ~1u) >= 2 * position ? (c->reload & ~1u) - 2 * position : 0;
        break;
    default:
        if (c->bcd)
            left = (c->reload + 10000 - t % 10000) % 10000;
        else
            left = c->reload - (uint32_t)t;
    }
    return c->bcd ? to_bcd(left % 10000) : left;
}

static uint8_t read_data(const struct i8254 *s, struct channel *c, uint64_t now)
{
    uint16_t v;

    if (c->status_full) {
        c->status_full = false;
        return c->status_held;
    }
    v = c->count_full ? c->count_held : count(c, elapsed(c, s->hz, now));
    switch (c->access) {
    case LSB:
        c->count_full = false;
        return v;
    case MSB:
        c->count_full = false;
        return v >> 8;
    default:
        c->rd_hi = !c->rd_hi;
        if (c->rd_hi)
            return v;
        c->count_full = false;
        return v >> 8;
    }
}

/* CLKs until the output's next edge; 0 if it stays as it is */
static uint64_t edge_in(const struct channel *c, uint64_t t)
{
    uint32_t position, high;

    switch (mode(c)) {
    case 0:
    case 1:
        return t < c->reload ? c->reload - t : 0;
    case 2:
        position = t % c->reload;
        return position < c->reload - 1 ? c->reload - 1 - position : 1;
    case 3:
        position = t % c->reload;
        high = (c->reload + 1) / 2;
        return position < high ? high - position : c->reload - position;
    default:
        return t < c->reload ? c->reload - t : t == c->reload;
    }
}

static uint32_t rises_between(const struct channel *c, uint64_t from, uint64_t to)
{
    switch (mode(c)) {
    case 0:
    case 1:
        return from < c->reload && c->reload <= to;
    case 2:
    case 3:
        return to / c->reload - from / c->reload;
    default:
        return from <= c->reload && c->reload < to;
    }
}

static uint64_t pit_next(const struct i8254 *s, uint64_t now)
{
    const struct channel *c = &s->ch[0];
    uint64_t next = NEVER;

    for (int i = 0; i < 3; i++)
        if (s->ch[i].load_due < next)
            next = s->ch[i].load_due;
    if (c->running && c->counting) {
        uint64_t distance = edge_in(c, elapsed(c, s->hz, now));
        uint64_t edge = distance ? nanos(later(ticks(now, s->hz), distance), s->hz) : NEVER;

        if (edge < next)
            next = edge;
    }
    return next;
}

/* Count the edges of OUT 0 since the last time, while no state changed. */
static void pit_account(struct i8254 *s, uint64_t now)
{
    const struct channel *c = &s->ch[0];
    uint64_t t = elapsed(c, s->hz, now);

    if (c->running) {
        uint32_t rises = rises_between(c, elapsed(c, s->hz, s->h.settled), t);

        if (rises) {
            s->rises += rises;
            s->h.attention |= ATTENTION_LINES;
        }
    }
    if (s->h.lines != out(c, t)) {
        s->h.lines = out(c, t);
        s->h.attention |= ATTENTION_LINES;
    }
    s->h.settled = now;
}

static void recount(struct i8254 *s, struct channel *c, uint64_t now)
{
    bool counting = c->running && (gate(s, c) || mode(c) == 1 || mode(c) == 5);

    if (counting != c->counting) {
        c->t_base = elapsed(c, s->hz, now);
        c->t_tick = ticks(now, s->hz);
        c->counting = counting;
    }
}

static void pit_follow(struct i8254 *s, uint64_t now)
{
    for (int n = 0; n < 3; n++)
        recount(s, &s->ch[n], now);
    set_lines(&s->h, out(&s->ch[0], elapsed(&s->ch[0], s->hz, now)), &s->rises);
    s->h.settled = now;
}

static void load_counter(struct i8254 *s, struct channel *c, uint64_t now)
{
    uint64_t t = elapsed(c, s->hz, now);

    c->load_due = NEVER;
    c->t_base = mode(c) == 3 && c->running && !out(c, t) ? (c->cr + 1) / 2 : 0;
    c->t_tick = ticks(now, s->hz);
    c->reload = c->cr;
    c->running = true;
    c->null = false;
}

void c_i8254_settle(struct i8254 *s, uint64_t now)
{
    for (;;) {
        uint64_t due = NEVER;

        for (int i = 0; i < 3; i++)
            if (s->ch[i].load_due < due)
                due = s->ch[i].load_due;
        if (due > now || due == NEVER)
            break;
        pit_account(s, due);
        for (int i = 0; i < 3; i++)
            if (s->ch[i].load_due == due)
                load_counter(s, &s->ch[i], due);
        pit_follow(s, due);
    }
    pit_account(s, now);
    set_deadline(&s->h, pit_next(s, now));
}

static void arm(struct i8254 *s, struct channel *c, uint64_t now, uint64_t distance)
{
    c->load_due = nanos(later(ticks(now, s->hz), distance), s->hz);
}

static void write_count(struct i8254 *s, struct channel *c, uint64_t now, uint32_t n)
{
    uint32_t value = c->bcd ? from_bcd(n) : n;
    uint64_t t = elapsed(c, s->hz, now);

    if (value == 0)
        value = c->bcd ? 10000 : 65536;
    else if ((mode(c) == 2 || mode(c) == 3) && value < 2)
        value = 2;
    c->cr = value;
    c->null = true;
    switch (mode(c)) {
    case 0:
        c->running = false;
        arm(s, c, now, 1);
        break;
    case 2:
    case 3:
        if (!c->written)
            arm(s, c, now, 1);
        if (c->running && gate(s, c)) /* at the end of the cycle, or of the half-cycle */
            arm(s, c, now, mode(c) == 3 ? edge_in(c, t) : c->reload - t % c->reload);
        break;
    case 4:
        arm(s, c, now, 1);
        break;
    }
    c->written = true;
}

static void write_data(struct i8254 *s, struct channel *c, uint64_t now, uint8_t v)
{
    switch (c->access) {
    case LSB:
        write_count(s, c, now, v);
        break;
    case MSB:
        write_count(s, c, now, v << 8);
        break;
    default:
        c->wr_hi = !c->wr_hi;
        if (!c->wr_hi) {
            write_count(s, c, now, v << 8 | c->first);
        } else {
            c->first = v;
            if (mode(c) == 0)
                c->running = false;
        }
    }
}

static void hold_count(struct i8254 *s, struct channel *c, uint64_t now)
{
    if (!c->count_full) {
        c->count_full = true;
        c->count_held = count(c, elapsed(c, s->hz, now));
    }
}

static void command(struct i8254 *s, struct channel *c, uint64_t now, uint8_t v)
{
    if ((v >> 4 & 3) == LATCH) {
        hold_count(s, c, now);
        return;
    }
    /* OUT stops where the counter stands, so its value is kept by `recount` */
    c->access = v >> 4 & 3;
    c->m = v >> 1 & 7;
    c->bcd = v & 1;
    c->rd_hi = c->wr_hi = c->count_full = c->status_full = false;
    c->running = c->written = false;
    c->null = true;
    c->load_due = NEVER;
}

static void read_back(struct i8254 *s, struct channel *c, uint64_t now, uint8_t v)
{
    if (!(v & 0x20))
        hold_count(s, c, now);
    if (!(v & 0x10) && !c->status_full) {
        c->status_full = true;
        c->status_held = out(c, elapsed(c, s->hz, now)) << 7 | c->null << 6 | c->access << 4 | c->m << 1 | c->bcd;
    }
}

static void pit_commit(struct i8254 *s, uint64_t now)
{
    pit_follow(s, now);
    set_deadline(&s->h, pit_next(s, now));
}

static void write_control(struct i8254 *s, uint64_t now, uint8_t v)
{
    if (v >> 6 != 3) {
        command(s, &s->ch[v >> 6], now, v);
        if (v >> 4 & 3) /* a latch command changes nothing else */
            pit_commit(s, now);
        return;
    }
    for (int n = 0; n < 3; n++)
        if (v >> (n + 1) & 1)
            read_back(s, &s->ch[n], now, v);
}

static uint8_t pit_read_byte(struct i8254 *s, uint64_t now, uint32_t offset)
{
    return offset < 3 ? read_data(s, &s->ch[offset], now) : 0xff;
}

uint64_t c_i8254_pit_read(struct i8254 *s, uint64_t now, uint32_t offset, uint32_t width)
{
    uint64_t value = 0;

    if (now >= s->h.deadline)
        c_i8254_settle(s, now);
    if (width == 1) /* what guests do */
        return pit_read_byte(s, now, offset);
    if (offset > 3 || !is_width(width))
        return ones(width);
    for (uint32_t i = 0; i < width; i++)
        value |= (uint64_t)pit_read_byte(s, now, offset + i) << 8 * i;
    return value;
}

void c_i8254_pit_write(struct i8254 *s, uint64_t now, uint32_t offset, uint32_t width, uint64_t value)
{
    if (now >= s->h.deadline)
        c_i8254_settle(s, now);
    if (!is_width(width))
        return;
    for (uint32_t i = 0; i < width && offset + i <= 3; i++) {
        uint8_t v = value >> 8 * i;

        if (offset + i == 3) {
            write_control(s, now, v);
        } else {
            write_data(s, &s->ch[offset + i], now, v);
            pit_commit(s, now);
        }
    }
}

uint64_t c_i8254_b_read(struct i8254 *s, uint64_t now, uint32_t offset, uint32_t width)
{
    uint64_t clks;

    if (now >= s->h.deadline)
        c_i8254_settle(s, now);
    if (offset != 0 || width != 1)
        return ones(width);
    clks = ticks(now, s->hz) - s->clks_tick;
    return s->gate2 | s->speaker << 1 | s->checks << 2 | (clks & T_MASK) / 18 % 2 << 4 |
           out(&s->ch[2], elapsed(&s->ch[2], s->hz, now)) << 5;
}

void c_i8254_b_write(struct i8254 *s, uint64_t now, uint32_t offset, uint32_t width, uint64_t value)
{
    struct channel *c = &s->ch[2];
    bool level = value & 1, was = s->gate2;

    if (now >= s->h.deadline)
        c_i8254_settle(s, now);
    if (offset != 0 || width != 1)
        return;
    s->gate2 = level;
    s->speaker = value >> 1 & 1;
    s->checks = value >> 2 & 3;
    if (level && !was) {
        if (mode(c) == 2 || mode(c) == 3) /* OUT stays high until the load */
            c->running = false;
        if (c->written && (mode(c) == 1 || mode(c) == 2 || mode(c) == 3 || mode(c) == 5))
            arm(s, c, now, 1);
    }
    if (!level && was && c->running && (mode(c) == 2 || mode(c) == 3)) {
        c->running = false;
        c->load_due = NEVER;
    }
    pit_commit(s, now);
}

void c_i8254_init(struct i8254 *s, uint64_t now, uint64_t hz)
{
    memset(s, 0, sizeof *s);
    s->hz = hz;
    s->clks_tick = ticks(now, s->hz);
    for (int n = 0; n < 3; n++) {
        s->ch[n] = (struct channel){.load_due = NEVER, .cr = 65536, .reload = 65536, .access = WORD, .null = true};
        s->ch[n].t_tick = s->clks_tick;
    }
    s->h.settled = now;
    s->h.deadline = NEVER;
    s->h.attention = ATTENTION_LINES | ATTENTION_DEADLINE;
}

uint64_t c_i8254_size(void)
{
    return sizeof(struct i8254);
}

/* --- ACPI PM timer -------------------------------------------------------- */

#define PM_HZ 3579545u

struct acpi_pm {
    struct header h;
    uint32_t rises;
    uint32_t ticks_base;
    uint64_t ticks_tick;
    uint64_t toggle_due;
    bool wide, tmr_status, tmr_enable;
};

static inline uint32_t pm_ticks(const struct acpi_pm *s, uint64_t now)
{
    return s->ticks_base + (uint32_t)(ticks(now, PM_HZ) - s->ticks_tick);
}

static inline uint32_t pm_timer(const struct acpi_pm *s, uint64_t now)
{
    uint32_t value = pm_ticks(s, now);

    return s->wide ? value : value & 0xffffff;
}

/* The instant at which the top bit toggles next. */
static uint64_t pm_toggle(const struct acpi_pm *s, uint64_t now)
{
    uint64_t half = 1ull << (s->wide ? 31 : 23);

    return nanos(later(ticks(now, PM_HZ), half - (pm_ticks(s, now) & (half - 1))), PM_HZ);
}

static void pm_follow(struct acpi_pm *s, uint64_t now)
{
    set_lines(&s->h, s->tmr_status && s->tmr_enable, &s->rises);
    s->h.settled = now;
}

void c_acpi_pm_settle(struct acpi_pm *s, uint64_t now)
{
    while (s->toggle_due <= now && s->toggle_due != NEVER) {
        uint64_t due = s->toggle_due;

        s->tmr_status = true;
        s->toggle_due = pm_toggle(s, now); /* how many there were in between does not show */
        pm_follow(s, due);
    }
    s->h.settled = now;
    set_deadline(&s->h, s->toggle_due);
}

static uint8_t pm_byte(const struct acpi_pm *s, uint32_t offset)
{
    return offset == 0 ? s->tmr_status : offset == 2 ? s->tmr_enable : 0;
}

uint64_t c_acpi_pm_io_read(struct acpi_pm *s, uint64_t now, uint32_t offset, uint32_t width)
{
    uint64_t value = 0;

    if (now >= s->h.deadline)
        c_acpi_pm_settle(s, now);
    if (offset == 8 && width == 4) /* what guests do */
        return pm_timer(s, now);
    if (offset > 11 || !is_width(width))
        return 0;
    for (uint32_t i = 0; i < width && offset + i < 12; i++) {
        uint32_t at = offset + i;
        uint8_t byte = at < 8 ? pm_byte(s, at) : pm_timer(s, now) >> 8 * (at - 8);

        value |= (uint64_t)byte << 8 * i;
    }
    return value;
}

void c_acpi_pm_io_write(struct acpi_pm *s, uint64_t now, uint32_t offset, uint32_t width, uint64_t value)
{
    if (now >= s->h.deadline)
        c_acpi_pm_settle(s, now);
    if (offset > 11 || !is_width(width))
        return;
    if (offset == 0 && value & 1)
        s->tmr_status = false;
    if (offset <= 2 && 2 < offset + width)
        s->tmr_enable = value >> 8 * (2 - offset) & 1;
    pm_follow(s, now);
    s->toggle_due = pm_toggle(s, now);
    set_deadline(&s->h, s->toggle_due);
}

void c_acpi_pm_init(struct acpi_pm *s, uint64_t now, uint64_t wide)
{
    memset(s, 0, sizeof *s);
    s->wide = wide;
    s->ticks_tick = ticks(now, PM_HZ);
    s->h.settled = now;
    s->toggle_due = s->h.deadline = pm_toggle(s, now);
    s->h.attention = ATTENTION_LINES | ATTENTION_DEADLINE;
}

uint64_t c_acpi_pm_size(void)
{
    return sizeof(struct acpi_pm);
}
