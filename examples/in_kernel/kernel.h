/* A device in the kernel: its state, and the programs that run where KVM ends a write. */
#ifndef KERNEL_H
#define KERNEL_H

#include <stddef.h>

#include "shared.h"

/* How the guest's writes are served. */
enum way {
    BY_EXITS,    /* in user space */
    TRACEPOINTS, /* by programs at KVM's tracepoints kvm_pio and kvm_mmio */
    FENTRY,      /* by a program at the entry of KVM's function ioeventfd_write */
    WAYS
};

struct in_kernel {
    struct bpf_object *object;
    struct bpf_link *links[2];
    void *state;
    struct io *io;
    struct record *log;
    void *page; /* what the guest may read without an exit, or NULL */
};

/* Load the object's programs for one of the ways, and attach them. NULL, or why this
 * kernel does not let it. */
const char *attach(struct in_kernel *device, const char *path, size_t state_size, enum way way);

/* Take all of it out of the kernel. */
void detach(struct in_kernel *device, size_t state_size);

/* The system-wide number of an eventfd of this process. */
uint32_t eventfd_id(int eventfd);

_Noreturn void fail(const char *what, ...) __attribute__((format(printf, 1, 2)));

#endif
