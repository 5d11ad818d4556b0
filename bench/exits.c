/* The barest exit loops on KVM: run, look why the guest stopped, run again.
 *
 * An access is not served at all: what the guest reads is what the page holds.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <time.h>

/* The signal by which the vCPU's own loop learns of deadlines may be pending: it would end every run. */
static void take_signals(void)
{
    struct timespec now = {0, 0};
    sigset_t realtime;

    sigemptyset(&realtime);
    for (int number = SIGRTMIN; number <= SIGRTMAX; number++)
        sigaddset(&realtime, number);
    while (sigtimedwait(&realtime, NULL, &now) > 0)
        ;
}

/* Until the guest halts: the number of accesses, or -errno, or -1000 - the exit's number. */
static inline int64_t loop(int fd, struct kvm_run *run, long (*enter)(int))
{
    int64_t accesses = 0;

    for (;;) {
        long status = enter(fd);

        if (status == -EINTR || status == -EAGAIN) {
            take_signals();
            continue;
        }
        if (status < 0)
            return status;
        switch (run->exit_reason) {
        case KVM_EXIT_IO:
        case KVM_EXIT_MMIO:
            accesses++;
            break;
        case KVM_EXIT_HLT:
            return accesses;
        default:
            return -1000 - (int64_t)run->exit_reason;
        }
    }
}

static inline long by_libc(int fd)
{
    return ioctl(fd, KVM_RUN, 0) < 0 ? -errno : 0;
}

static inline long by_syscall(int fd)
{
    long result;

    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "0"(16L /* ioctl */), "D"((long)fd), "S"((long)KVM_RUN), "d"(0L)
                     : "rcx", "r11", "memory");
    return result;
}

int64_t bench_libc_loop(int fd, struct kvm_run *run)
{
    return loop(fd, run, by_libc);
}

int64_t bench_syscall_loop(int fd, struct kvm_run *run)
{
    return loop(fd, run, by_syscall);
}
