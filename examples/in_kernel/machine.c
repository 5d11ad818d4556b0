#define _GNU_SOURCE
#include "machine.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

void *control(int fd, unsigned long request, void *argument, const char *name)
{
    if (ioctl(fd, request, argument) < 0)
        fail("%s: %s", name, strerror(errno));
    return argument;
}

void listen_to(int vm, struct device *d)
{
    /* A length of 0, any, is for ports. In memory KVM on Intel would then end the write
     * unseen, without its value; and 8 would take the parts of wider writes. */
    static const uint32_t any[] = { 0 }, widths[] = { 1, 2, 4 };

    for (unsigned n = 0; n < d->regions; n++) {
        const struct region *region = &d->region[n];
        struct window *window = &d->kernel.io->windows[n];
        unsigned lengths = region->space ? 3 : 1;
        int event = d->events[n] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

        if (event < 0)
            fail("eventfd: %s", strerror(errno));
        *window = (struct window){ .eventfd = eventfd_id(event), .region = n, .base = region->base,
                                   .memory = (uint32_t)region->space, .step = region->space ? 4 : 1,
                                   .size = region->space ? PANEL_BELL + 4 : region->size };
        for (uint64_t at = 0; at < window->size; at += window->step)
            for (unsigned i = 0; i < lengths; i++) {
                struct kvm_ioeventfd wild = { .addr = region->base + at, .len = region->space ? widths[i] : any[i],
                                              .fd = event, .flags = region->space ? 0 : KVM_IOEVENTFD_FLAG_PIO };

                CONTROL(vm, KVM_IOEVENTFD, &wild);
            }
    }
}

void count_signals(struct device *d)
{
    for (unsigned n = 0; n < d->regions; n++) {
        uint64_t signals = 0;

        if (read(d->events[n], &signals, sizeof signals) == sizeof signals)
            d->count.ended += signals;
        close(d->events[n]);
        d->events[n] = -1;
    }
}

void add_memory(int vm, unsigned slot, uint64_t at, uint64_t size, void *memory, unsigned flags)
{
    struct kvm_userspace_memory_region region = { .slot = slot, .guest_phys_addr = at, .memory_size = size,
                                                  .userspace_addr = (uintptr_t)memory, .flags = flags };

    CONTROL(vm, KVM_SET_USER_MEMORY_REGION, &region);
}

struct vm make_vm(int kvm, const char *code, const char *end, int interrupts)
{
    struct kvm_regs start = { .rip = GUEST_AT, .rflags = 2 };
    struct kvm_sregs s;
    struct vm vm = { .fd = ioctl(kvm, KVM_CREATE_VM, 0) };

    if (vm.fd >= 0 && interrupts)
        CONTROL(vm.fd, KVM_CREATE_IRQCHIP, NULL);
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

void free_vm(int kvm, struct vm *vm)
{
    munmap(vm->run, (size_t)ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0));
    munmap(vm->memory, PANEL_AT);
    close(vm->vcpu);
    close(vm->fd);
}

void serve_exit(struct kvm_run *run)
{
    uint64_t value = 0;

    if (run->exit_reason == KVM_EXIT_IO) {
        int what = run->io.direction == KVM_EXIT_IO_IN ? READ : WRITE;
        uint8_t *data = (uint8_t *)run + run->io.data_offset;

        for (unsigned i = 0; i < run->io.count; i++, data += run->io.size) {
            memcpy(&value, data, run->io.size);
            value = serve(io, run->io.port, run->io.size, what, value);
            if (what == READ)
                memcpy(data, &value, run->io.size);
        }
    } else if (run->exit_reason == KVM_EXIT_MMIO) {
        memcpy(&value, run->mmio.data, run->mmio.len);
        value = serve(mmio, run->mmio.phys_addr, run->mmio.len, run->mmio.is_write ? WRITE : READ, value);
        if (!run->mmio.is_write)
            memcpy(run->mmio.data, &value, run->mmio.len);
    } else {
        fail("the guest stopped: exit reason %u", run->exit_reason);
    }
}
