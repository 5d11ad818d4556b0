/* Virtual machines by KVM's own interface. */
#ifndef MACHINE_H
#define MACHINE_H

#include <linux/kvm.h>
#include <sys/ioctl.h>

#include "device.h"

struct vm {
    int fd, vcpu;
    struct kvm_run *run;
    char *memory;
};

/* A VM with memory up to the panel, and one vCPU that starts at the code in real mode.
 * `interrupts`: with KVM's own interrupt controllers, so that HLT waits. */
struct vm make_vm(int kvm, const char *code, const char *end, int interrupts);
void free_vm(int kvm, struct vm *vm);
void add_memory(int vm, unsigned slot, uint64_t at, uint64_t size, void *memory, unsigned flags);

/* KVM ends a write to the device's addresses by itself, whatever the value. */
void listen_to(int vm, struct device *d);

/* Every write that KVM ended signalled once. It ends no more. */
void count_signals(struct device *d);

/* One exit's accesses. */
void serve_exit(struct kvm_run *run);

/* An ioctl that must not fail. */
void *control(int fd, unsigned long request, void *argument, const char *name);
#define CONTROL(fd, request, argument) control(fd, request, argument, #request)

#endif
