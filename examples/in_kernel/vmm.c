/* A VMM that serves a guest's writes without leaving the kernel.
 *
 * The devices' states lie in maps of eBPF objects. A wildcard ioeventfd on every
 * port and register makes KVM end the guest's write by itself, and the object's
 * programs, attached to KVM, run the device's write handler on the way. What still
 * comes to user space, reads and what the kernel put off, is served here on the
 * same bytes by the native handlers. Each access is played to a native twin too,
 * which must end with the same state.
 *
 * Non-goals: more than one vCPU.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "machine.h"
#include "timer.h"

#define UNAVAILABLE 3 /* exit status: this machine does not let it */
#define TICK_NS 10000000u
#define BURSTS 5      /* of which the fastest counts */
#define HELD_AT 20    /* reads, after which a thread takes the PIT's lock */
#define HELD_FOR 10   /* writes that are put off */

extern const char guest_begin[], guest_end[], burst_begin[], burst_end[];
extern const char ticks_begin[], ticks_end[], stranger_begin[], stranger_end[];

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
    const uint64_t *pending = &devices[PIT].kernel.io->pending;

    __atomic_store_n(&holder->awake, 1, __ATOMIC_RELEASE);
    while (__atomic_load_n(pending, __ATOMIC_RELAXED) < HELD_FOR && !__atomic_load_n(&holder->stop, __ATOMIC_RELAXED))
        usleep(20);
    holder->in_time = !__atomic_load_n(&holder->stop, __ATOMIC_RELAXED);
    unlock(&devices[PIT]);
    return NULL;
}

static void start_holding(struct holder *holder)
{
    lock(&devices[PIT]);
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

/* Until the guest halts, or says that it is done. `busy`: another thread has the PIT's lock now
 * and then while the guest runs. */
static void run_guest(const struct vm *vm, int busy)
{
    struct holder holder = { 0 };

    for (;;) {
        const struct kvm_run *run = vm->run;

        if (ioctl(vm->vcpu, KVM_RUN, NULL) < 0 && errno != EINTR)
            fail("KVM_RUN: %s", strerror(errno));
        stop_holding(&holder);
        for (struct device *d = devices; d < devices + DEVICES; d++)
            catch_up_at_exit(d);
        if (run->exit_reason == KVM_EXIT_HLT || (run->exit_reason == KVM_EXIT_IO && run->io.port == DONE_PORT))
            return;
        serve_exit(vm->run);
        if (busy && !holder.in_time && devices[PIT].count.reads >= HELD_AT)
            start_holding(&holder);
    }
}

/* Whether the kernel's programs leave another VM alone, with another thread and ioeventfds at the same ports. */
static void *run_stranger(void *kvm)
{
    struct vm other = make_vm(*(int *)kvm, stranger_begin, stranger_end, 0);
    struct kvm_ioeventfd wild = { .addr = I8254_PIT_BASE + I8254_PIT_CONTROL_OFFSET, .fd = eventfd(0, EFD_NONBLOCK),
                                  .flags = KVM_IOEVENTFD_FLAG_PIO };
    uint64_t before = devices[PIT].kernel.io->made, signals = 0;

    CONTROL(other.fd, KVM_IOEVENTFD, &wild);
    if (ioctl(other.vcpu, KVM_RUN, NULL) < 0 || other.run->exit_reason != KVM_EXIT_HLT)
        fail("the other VM did not run");
    if (read(wild.fd, &signals, sizeof signals) != sizeof signals || signals != 1)
        fail("the other VM's write was not ended by KVM");
    close(wild.fd);
    free_vm(*(int *)kvm, &other);
    return devices[PIT].kernel.io->made == before ? "left alone" : NULL;
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
    uint64_t burst_ns;
    uint64_t ticks, ticks_in_kernel, ticks_ns;
};

/* What there is of a guest that has come to its end. */
static void settle_accounts(enum way way)
{
    for (struct device *d = devices; d < devices + DEVICES; d++)
        if (way != BY_EXITS)
            count_signals(d);
}

/* The guest that pokes the devices, from reset to its end. */
static void run_pokes(int kvm, enum way way, struct outcome *outcome)
{
    struct vm vm = make_vm(kvm, guest_begin, guest_end, 0);
    uint64_t start;

    devices[PANEL].paged = way != BY_EXITS;
    reset_devices();
    for (struct device *d = devices; d < devices + DEVICES && way != BY_EXITS; d++)
        listen_to(vm.fd, d);
    if (devices[PANEL].paged)
        add_memory(vm.fd, 1, PANEL_AT, PAGE, devices[PANEL].kernel.page, KVM_MEM_READONLY);
    start = monotonic();
    run_guest(&vm, way != BY_EXITS);
    outcome->ns = monotonic() - start;
    CONTROL(vm.vcpu, KVM_GET_REGS, &outcome->regs);
    outcome->alone = strangers_are_left_alone(kvm);
    settle_accounts(way);
    for (unsigned i = 0; i < DEVICES; i++) {
        outcome->count[i] = devices[i].count;
        outcome->same[i] = !devices[i].differed;
    }
    free_vm(kvm, &vm);
}

/* The guest that only writes, several times. */
static void run_bursts(int kvm, enum way way, struct outcome *outcome)
{
    outcome->burst_ns = UINT64_MAX;
    for (int i = 0; i < BURSTS; i++) {
        struct vm vm = make_vm(kvm, burst_begin, burst_end, 0);
        uint64_t ns;

        reset_devices();
        if (way != BY_EXITS)
            listen_to(vm.fd, &devices[PIT]);
        ns = monotonic();
        run_guest(&vm, 0);
        ns = monotonic() - ns;
        outcome->burst_ns = ns < outcome->burst_ns ? ns : outcome->burst_ns;
        outcome->same[PIT] &= !devices[PIT].differed;
        settle_accounts(way);
        free_vm(kvm, &vm);
    }
}

/* The guest that waits for the PIT's interrupts. */
static void run_ticks(int kvm, enum way way, struct outcome *outcome)
{
    struct vm vm = make_vm(kvm, ticks_begin, ticks_end, 1);
    struct device *pit = &devices[PIT];
    struct kvm_regs regs;
    struct timer timer;

    reset_devices();
    if (way != BY_EXITS)
        listen_to(vm.fd, pit);
    start_timer(&timer, pit, vm.fd, 0);
    run_guest(&vm, 0);
    outcome->ticks_ns = monotonic() - pit->kernel.io->origin;
    stop_timer(&timer);
    CONTROL(vm.vcpu, KVM_GET_REGS, &regs);
    outcome->ticks = regs.rbx & UINT32_MAX;
    outcome->ticks_in_kernel = pit->count.in_kernel + pit->count.put_off;
    outcome->same[PIT] &= !pit->differed;
    settle_accounts(way);
    free_vm(kvm, &vm);
}

/* One way from attaching to detaching. */
static void try(int kvm, enum way way, char **objects, struct outcome *outcome)
{
    for (unsigned i = 0; i < DEVICES && !outcome->refused; i++)
        outcome->refused = attach(&devices[i].kernel, objects[i], devices[i].size, way);
    if (!outcome->refused) {
        run_pokes(kvm, way, outcome);
        run_bursts(kvm, way, outcome);
        run_ticks(kvm, way, outcome);
    }
    for (unsigned i = 0; i < DEVICES; i++)
        detach(&devices[i].kernel, devices[i].size);
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
    /* The PIT's first edge comes with its control word, the others a period apart. */
    int all = o->alone && o->ticks == TICKS && o->ticks_ns >= (TICKS - 1) * TICK_NS && !(o->regs.rsi & UINT32_MAX) && (o->regs.rbp & UINT32_MAX) == RINGS;

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
    printf("a guest that only writes\n");
    COUNT("ns an OUT and its loop", o->burst_ns / BURST);
    printf("a guest that waits for 100 Hz\n");
    COUNT("OUTs to the PIT served in the kernel", o->ticks_in_kernel);
    COUNT("interrupts", o->ticks);
    COUNT("ms that they took", o->ticks_ns / 1000000);
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
