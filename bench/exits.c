/* Plain exit loops on KVM: run, look why the guest stopped, call the handler, run again.
 *
 * The handler is empty: what the guest reads is what the page holds.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <sys/ioctl.h>

typedef void (*handler_fn)(void *context, uint64_t address, uint32_t width, int is_write, void *data);

struct guest {
    int32_t fd;
    struct kvm_run *run;
    handler_fn handler;
    void *context;
    int64_t accesses;
};

void bench_no_handler(void *context, uint64_t address, uint32_t width, int is_write, void *data)
{
    (void)context, (void)address, (void)width, (void)is_write, (void)data;
}

/* Until the guest halts: 0, or -errno, or -1000 - the exit's number. */
static inline int64_t loop(struct guest *g, long (*enter)(int))
{
    struct kvm_run *run = g->run;

    for (;;) {
        long status = enter(g->fd);
        uint8_t *data;

        if (status == -EINTR || status == -EAGAIN)
            continue;
        if (status < 0)
            return status;
        switch (run->exit_reason) {
        case KVM_EXIT_IO:
            data = (uint8_t *)run + run->io.data_offset;
            for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size)
                g->handler(g->context, run->io.port, run->io.size, run->io.direction == KVM_EXIT_IO_OUT, data);
            g->accesses++;
            break;
        case KVM_EXIT_MMIO:
            g->handler(g->context, run->mmio.phys_addr, run->mmio.len, run->mmio.is_write, run->mmio.data);
            g->accesses++;
            break;
        case KVM_EXIT_HLT:
            return 0;
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

int64_t bench_libc_loop(struct guest *g)
{
    return loop(g, by_libc);
}

int64_t bench_syscall_loop(struct guest *g)
{
    return loop(g, by_syscall);
}
