/* A VMM that serves a guest's writes without leaving the kernel.
 *
 * The devices' states lie in maps of eBPF objects. A wildcard ioeventfd on every
 * port and register makes KVM end the guest's write by itself, and the object's
 * programs, attached to KVM, run the device's write handler on the way. What still
 * comes to user space, reads and what the kernel put off, is served here on the
 * same bytes by the native handlers. Each access is played to a native twin too,
 * which must end with the same state.
 *
 * Non-goals: interrupts, and more than one vCPU.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "guest.h"
#include "i8254.h"
#include "kernel.h"
#include "panel.h"

typedef uint64_t read_fn(void *s, uint64_t now, uint32_t offset, uint32_t width);
typedef void write_fn(void *s, uint64_t now, uint32_t offset, uint32_t width, uint64_t value);

struct region {
    const char *name;
    int memory; /* or ports */
    uint64_t base, size;
    read_fn *read;
    write_fn *write;
};

struct device {
    const char *name, *object;
    size_t size;
    unsigned regions;
    struct region region[WINDOWS];
    void *twin;
    struct in_kernel kernel;
    int paged;           /* its page stands for the first window */
    int events[WINDOWS]; /* eventfds */
    uint64_t taken;      /* records of the log, by `drain` */
    int differed;        /* from its twin, at an exit */
    struct count {
        uint64_t in_kernel, put_off; /* writes by the kernel's program, and by us after it had put them off */
        uint64_t reads, writes;      /* that came to user space */
        uint64_t ended;              /* writes that KVM ended, by what it says */
    } count;
};

enum { io, mmio }; /* as the headers name the address spaces */
#define REGION(DEV, name, space, base, size) \
    { #DEV "." #name, space, base, size, (read_fn *)DEV##_##name##_read, (write_fn *)DEV##_##name##_write },
#define PIT(name, space, base, size) REGION(i8254, name, space, base, size)
#define PANEL(name, space, base, size) REGION(panel, name, space, base, size)

static i8254_state pit_twin;
static panel_state panel_twin;
static struct device devices[] = {
    { .name = "i8254", .size = sizeof pit_twin, .regions = 2, .region = { I8254_REGIONS(PIT) }, .twin = &pit_twin },
    { .name = "panel", .size = sizeof panel_twin, .regions = 1, .region = { PANEL_REGIONS(PANEL) }, .twin = &panel_twin },
};
#define DEVICES (sizeof devices / sizeof *devices)

#define UNAVAILABLE 3 /* exit status: this machine does not let it */
#define HELD_AT 20    /* reads, after which a thread takes the PIT's lock */
#define HELD_FOR 10   /* writes that are put off */

extern const char guest_begin[], guest_end[], stranger_begin[], stranger_end[];

static uint64_t monotonic(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void *control(int fd, unsigned long request, void *argument, const char *name)
{
    if (ioctl(fd, request, argument) < 0)
        fail("%s: %s", name, strerror(errno));
    return argument;
}
#define CONTROL(fd, request, argument) control(fd, request, argument, #request)

/* The head of every state is the same (docs/abi.md). */
static i8254_state *head(struct device *d)
{
    return d->kernel.state;
}

static void lock(struct device *d)
{
    uint32_t free = 0;

    while (!__atomic_compare_exchange_n(&head(d)->lock, &free, 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
        free = 0;
        sched_yield();
    }
}

static void unlock(struct device *d)
{
    __atomic_store_n(&head(d)->lock, 0, __ATOMIC_RELEASE);
}

/* One access on a state. */
static uint64_t access_state(const struct device *d, void *state, const struct record *r, uint64_t value)
{
    const struct region *region = &d->region[r->region];

    if (r->what == READ)
        return region->read(state, r->now, r->offset, r->width);
    region->write(state, r->now, r->offset, r->width, value);
    return 0;
}

/* What the guest reads without an exit follows the state. */
static void refresh(struct device *d, uint64_t now)
{
    uint32_t *page = d->kernel.page;

    for (unsigned at = 0; d->paged && at < PAGE; at += 4)
        page[at / 4] = (uint32_t)d->region[0].read(d->kernel.state, now, at, 4);
}

/* One access by user space: on the state that we share with the kernel, and on the twin. */
static uint64_t serve(struct device *d, const struct record *r)
{
    uint64_t value, twins;

    lock(d);
    head(d)->version++;
    value = access_state(d, d->kernel.state, r, r->value);
    if (r->what == WRITE)
        refresh(d, r->now);
    head(d)->version++;
    unlock(d);
    twins = access_state(d, d->twin, r, r->value);
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

/* Catch up with the kernel: play what it served to the twin, and do what it put off. */
static void drain(struct device *d)
{
    struct io *shared = d->kernel.io;

    for (;; d->taken++) {
        struct record *r = &d->kernel.log[d->taken % RECORDS];

        if (__atomic_load_n(&r->turn, __ATOMIC_ACQUIRE) != d->taken / RECORDS + 1)
            break;
        if (r->status == SERVED) {
            access_state(d, d->twin, r, r->value);
            d->count.in_kernel++;
        } else {
            serve(d, r);
            __atomic_fetch_sub(&shared->pending, 1, __ATOMIC_SEQ_CST);
            d->count.put_off++;
        }
    }
    if (shared->made != d->taken)
        fail("%s: %" PRIu64 " records lost", d->name, shared->made - d->taken);
    d->differed |= !same(d);
}

/* An access that came to user space; an address that is nobody's reads as ones. */
static uint64_t exited(int memory, uint64_t address, unsigned width, int what, uint64_t value)
{
    for (struct device *d = devices; d < devices + DEVICES; d++)
        for (unsigned n = 0; n < d->regions; n++) {
            const struct region *region = &d->region[n];
            struct record r = { .now = monotonic() - d->kernel.io->origin, .value = value, .width = width,
                                .offset = (uint32_t)(address - region->base), .region = n, .what = (uint32_t)what };

            if (region->memory != memory || address - region->base >= region->size)
                continue;
            *(what == READ ? &d->count.reads : &d->count.writes) += 1;
            return serve(d, &r);
        }
    return UINT64_MAX;
}

/* KVM ends a write to these addresses by itself, whatever the value. */
static void listen(int vm, struct device *d)
{
    /* A length of 0, any, is for ports. In memory KVM on Intel would then end the write
     * unseen, without its value; and 8 would take the parts of wider writes. */
    static const uint32_t any[] = { 0 }, widths[] = { 1, 2, 4 };

    for (unsigned n = 0; n < d->regions; n++) {
        const struct region *region = &d->region[n];
        struct window *window = &d->kernel.io->windows[n];
        unsigned lengths = region->memory ? 3 : 1;
        int event = d->events[n] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

        if (event < 0)
            fail("eventfd: %s", strerror(errno));
        *window = (struct window){ .eventfd = eventfd_id(event), .region = n, .base = region->base,
                                   .memory = (uint32_t)region->memory, .step = region->memory ? 4 : 1,
                                   .size = region->memory ? PANEL_BELL + 4 : region->size };
        for (uint64_t at = 0; at < window->size; at += window->step)
            for (unsigned i = 0; i < lengths; i++) {
                struct kvm_ioeventfd wild = { .addr = region->base + at, .len = region->memory ? widths[i] : any[i],
                                              .fd = event, .flags = region->memory ? 0 : KVM_IOEVENTFD_FLAG_PIO };

                CONTROL(vm, KVM_IOEVENTFD, &wild);
            }
    }
}

/* Every write that KVM ended signalled once. */
static void count_signals(struct device *d)
{
    for (unsigned n = 0; n < d->regions; n++) {
        uint64_t signals = 0;

        if (read(d->events[n], &signals, sizeof signals) == sizeof signals)
            d->count.ended += signals;
        close(d->events[n]);
    }
}

static void add_memory(int vm, unsigned slot, uint64_t at, uint64_t size, void *memory, unsigned flags)
{
    struct kvm_userspace_memory_region region = { .slot = slot, .guest_phys_addr = at, .memory_size = size,
                                                  .userspace_addr = (uintptr_t)memory, .flags = flags };

    CONTROL(vm, KVM_SET_USER_MEMORY_REGION, &region);
}

struct vm {
    int fd, vcpu;
    struct kvm_run *run;
    char *memory;
};

/* A VM with memory up to the panel, and one vCPU that starts at the code in real mode. */
static struct vm make_vm(int kvm, const char *code, const char *end)
{
    struct kvm_regs start = { .rip = GUEST_AT, .rflags = 2 };
    struct kvm_sregs s;
    struct vm vm = { .fd = ioctl(kvm, KVM_CREATE_VM, 0) };

    vm.vcpu = ioctl(vm.fd, KVM_CREATE_VCPU, 0);
    if (vm.fd < 0 || vm.vcpu < 0)
        fail("no virtual machine: %s", strerror(errno));
    vm.run = mmap(NULL, (size_t)ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE, MAP_SHARED, vm.vcpu, 0);
    vm.memory = mmap(NULL, PANEL_AT, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (vm.run == MAP_FAILED || vm.memory == MAP_FAILED)
        fail("mmap: %s", strerror(errno));
    memcpy(vm.memory + GUEST_AT, code, (size_t)(end - code));
    add_memory(vm.fd, 0, 0, PANEL_AT, vm.memory, 0);
    CONTROL(vm.vcpu, KVM_GET_SREGS, &s);
    s.cs.base = s.cs.selector = 0;
    CONTROL(vm.vcpu, KVM_SET_SREGS, &s);
    CONTROL(vm.vcpu, KVM_SET_REGS, &start);
    return vm;
}

static void free_vm(int kvm, struct vm *vm)
{
    munmap(vm->run, (size_t)ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0));
    munmap(vm->memory, PANEL_AT);
    close(vm->vcpu);
    close(vm->fd);
}

/* One exit's accesses. */
static void serve_exit(struct kvm_run *run)
{
    uint64_t value = 0;

    if (run->exit_reason == KVM_EXIT_IO) {
        int what = run->io.direction == KVM_EXIT_IO_IN ? READ : WRITE;
        uint8_t *data = (uint8_t *)run + run->io.data_offset;

        for (unsigned i = 0; i < run->io.count; i++, data += run->io.size) {
            memcpy(&value, data, run->io.size);
            value = exited(io, run->io.port, run->io.size, what, value);
            if (what == READ)
                memcpy(data, &value, run->io.size);
        }
    } else if (run->exit_reason == KVM_EXIT_MMIO) {
        memcpy(&value, run->mmio.data, run->mmio.len);
        value = exited(mmio, run->mmio.phys_addr, run->mmio.len, run->mmio.is_write ? WRITE : READ, value);
        if (!run->mmio.is_write)
            memcpy(run->mmio.data, &value, run->mmio.len);
    } else {
        fail("the guest stopped: exit reason %u", run->exit_reason);
    }
}

/* A thread that has the PIT's lock, and gives it back while the guest runs: when the kernel
 * has put some writes off. What follows must still wait for those. If the thread comes too
 * late, it gives the lock back at the next exit, and another try is made. */
struct holder {
    pthread_t thread;
    int held, awake, stop, in_time;
};

static void *hold(void *argument)
{
    struct holder *holder = argument;
    const uint64_t *pending = &devices[0].kernel.io->pending;

    __atomic_store_n(&holder->awake, 1, __ATOMIC_RELEASE);
    while (__atomic_load_n(pending, __ATOMIC_RELAXED) < HELD_FOR && !__atomic_load_n(&holder->stop, __ATOMIC_RELAXED))
        usleep(20);
    holder->in_time = !__atomic_load_n(&holder->stop, __ATOMIC_RELAXED);
    unlock(&devices[0]);
    return NULL;
}

static void start_holding(struct holder *holder)
{
    lock(&devices[0]);
    *holder = (struct holder){ .held = 1 };
    if (pthread_create(&holder->thread, NULL, hold, holder))
        fail("no second thread");
    while (!__atomic_load_n(&holder->awake, __ATOMIC_ACQUIRE))
        sched_yield();
}

static void stop_holding(struct holder *holder)
{
    __atomic_store_n(&holder->stop, 1, __ATOMIC_RELAXED);
    if (holder->held && pthread_join(holder->thread, NULL))
        fail("the second thread is lost");
    holder->held = 0;
}

/* Until the guest halts. `busy`: another thread has the PIT's lock now and then while the guest runs. */
static void run_guest(const struct vm *vm, int busy)
{
    struct holder holder = { 0 };

    for (;;) {
        if (ioctl(vm->vcpu, KVM_RUN, NULL) < 0 && errno != EINTR)
            fail("KVM_RUN: %s", strerror(errno));
        stop_holding(&holder);
        for (struct device *d = devices; d < devices + DEVICES; d++)
            drain(d);
        if (vm->run->exit_reason == KVM_EXIT_HLT)
            return;
        serve_exit(vm->run);
        if (busy && !holder.in_time && devices[0].count.reads >= HELD_AT)
            start_holding(&holder);
    }
}

/* Whether the kernel's programs leave another VM alone, with another thread and ioeventfds at the same ports. */
static void *run_stranger(void *kvm)
{
    struct vm other = make_vm(*(int *)kvm, stranger_begin, stranger_end);
    struct kvm_ioeventfd wild = { .addr = I8254_PIT_BASE + I8254_PIT_CONTROL_OFFSET, .fd = eventfd(0, EFD_NONBLOCK),
                                  .flags = KVM_IOEVENTFD_FLAG_PIO };
    uint64_t before = devices[0].kernel.io->made, signals = 0;

    CONTROL(other.fd, KVM_IOEVENTFD, &wild);
    if (ioctl(other.vcpu, KVM_RUN, NULL) < 0 || other.run->exit_reason != KVM_EXIT_HLT)
        fail("the other VM did not run");
    if (read(wild.fd, &signals, sizeof signals) != sizeof signals || signals != 1)
        fail("the other VM's write was not ended by KVM");
    close(wild.fd);
    free_vm(*(int *)kvm, &other);
    return devices[0].kernel.io->made == before ? "left alone" : NULL;
}

static int strangers_are_left_alone(int kvm)
{
    pthread_t thread;
    void *alone = NULL;

    if (pthread_create(&thread, NULL, run_stranger, &kvm) || pthread_join(thread, &alone))
        fail("no second thread");
    return alone != NULL;
}

struct outcome {
    const char *refused; /* why there is none, or NULL */
    uint64_t ns;
    struct kvm_regs regs;
    struct count count[DEVICES];
    int same[DEVICES], alone;
};

/* The guest from reset to its end, served in one of the ways. */
static void run(int kvm, enum way way, struct outcome *outcome)
{
    struct vm vm = make_vm(kvm, guest_begin, guest_end);
    uint64_t start;

    for (struct device *d = devices; d < devices + DEVICES; d++) {
        d->kernel.io->origin = monotonic();
        d->count = (struct count){ 0 };
        d->taken = 0;
        d->differed = 0;
        if (way != BY_EXITS)
            listen(vm.fd, d);
    }
    i8254_init(devices[0].kernel.state, 0, I8254_HZ_DEFAULT);
    i8254_init(&pit_twin, 0, I8254_HZ_DEFAULT);
    panel_init(devices[1].kernel.state, 0);
    panel_init(&panel_twin, 0);
    devices[1].paged = way != BY_EXITS;
    refresh(&devices[1], 0);
    if (devices[1].paged)
        add_memory(vm.fd, 1, PANEL_AT, PAGE, devices[1].kernel.page, KVM_MEM_READONLY);
    start = monotonic();
    run_guest(&vm, way != BY_EXITS);
    outcome->ns = monotonic() - start;
    CONTROL(vm.vcpu, KVM_GET_REGS, &outcome->regs);
    outcome->alone = strangers_are_left_alone(kvm);
    for (unsigned i = 0; i < DEVICES; i++) {
        if (way != BY_EXITS)
            count_signals(&devices[i]);
        outcome->count[i] = devices[i].count;
        outcome->same[i] = !devices[i].differed;
    }
    free_vm(kvm, &vm);
}

/* One way from attaching to detaching. */
static void try(int kvm, enum way way, char **objects, struct outcome *outcome)
{
    for (unsigned i = 0; i < DEVICES && !outcome->refused; i++)
        outcome->refused = attach(&devices[i].kernel, objects[i], devices[i].size, way);
    if (!outcome->refused)
        run(kvm, way, outcome);
    for (unsigned i = 0; i < DEVICES; i++)
        if (devices[i].kernel.object)
            detach(&devices[i].kernel, devices[i].size);
    memset(&devices[0].kernel, 0, sizeof devices[0].kernel);
    memset(&devices[1].kernel, 0, sizeof devices[1].kernel);
}

/* --- what came of it ---------------------------------------------------------- */

static const char *const names[WAYS] = { "by exits", "tracepoints", "fentry" };

/* What the guest says that it did. */
static uint64_t written(const struct outcome *o, unsigned device)
{
    return device ? 2 * RINGS : o->regs.rbx & UINT32_MAX;
}

static uint64_t asked(const struct outcome *o, unsigned device)
{
    return device ? 3 * RINGS + 1 : o->regs.rdi & UINT32_MAX;
}

/* What must be so at the end: no write lost, none served twice, and no answer wrong. */
static int right(const struct outcome *o)
{
    int all = o->alone && !(o->regs.rsi & UINT32_MAX) && (o->regs.rbp & UINT32_MAX) == RINGS;

    for (unsigned i = 0; i < DEVICES; i++) {
        const struct count *c = &o->count[i];

        all &= o->same[i] && c->ended == c->in_kernel + c->put_off && written(o, i) == c->ended + c->writes;
    }
    return all;
}

#define ROW(title, format, value)                                 \
    do {                                                          \
        printf("  %-36s", title);                                 \
        for (const struct outcome *o = all; o < all + WAYS; o++)  \
            if (!o->refused)                                      \
                printf(" %12" format, value);                     \
        printf("\n");                                             \
    } while (0)
#define COUNT(title, value) ROW(title, PRIu64, (uint64_t)(value))

static void report(const struct outcome all[WAYS])
{
    printf("%-38s", "");
    for (int way = 0; way < WAYS; way++)
        if (!all[way].refused)
            printf(" %12s", names[way]);
    printf("\n");
    for (unsigned i = 0; i < DEVICES; i++) {
        printf("%s\n", devices[i].name);
        COUNT(i ? "writes by the guest" : "OUTs by the guest", written(o, i));
        COUNT("  ended by KVM", o->count[i].ended);
        COUNT("  of them served in the kernel", o->count[i].in_kernel);
        COUNT("  put off, the state was busy", o->count[i].put_off);
        COUNT("  reached user space", o->count[i].writes);
        COUNT(i ? "reads by the guest" : "INs by the guest", asked(o, i));
        COUNT("  reached user space", o->count[i].reads);
        ROW("state a native twin's, at each exit", "s", o->same[i] ? "yes" : "NO");
    }
    printf("all\n");
    COUNT("wrong answers that the guest saw", o->regs.rsi & UINT32_MAX);
    ROW("another VM with the same port", "s", o->alone ? "left alone" : "SERVED");
    COUNT("us from the guest's reset to halt", o->ns / 1000);
}

int main(int count, char **arguments)
{
    struct outcome all[WAYS] = { 0 };
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), wrong = 0, ways = 0;

    if (count != 1 + DEVICES)
        fail("usage: %s i8254.attached.bpf.o panel.attached.bpf.o", arguments[0]);
    if (kvm < 0) {
        printf("not here: /dev/kvm: %s\n", strerror(errno));
        return UNAVAILABLE;
    }
    for (int way = 0; way < WAYS; way++) {
        try(kvm, (enum way)way, arguments + 1, &all[way]);
        if (all[way].refused)
            printf("%s: not here: %s\n", names[way], all[way].refused);
        else
            wrong |= !right(&all[way]);
        ways += way != BY_EXITS && !all[way].refused;
    }
    if (!all[BY_EXITS].refused)
        report(all);
    return wrong ? 1 : ways ? 0 : UNAVAILABLE;
}
