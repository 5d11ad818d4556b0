/* What the program in the kernel and the VMM share: variables of the device's
 * eBPF object, mapped into the VMM. program.py has the same layout. */
#ifndef SHARED_H
#define SHARED_H

#include <stdint.h>

#define WINDOWS 4
#define RECORDS 4096
#define PAGE 4096

enum { READ, WRITE };
enum { SERVED, BUSY, USER_SPACE };

/* One access. `turn` is written last: record i of the ring is whole when it is i / RECORDS + 1. */
struct record {
    uint64_t now, value;
    uint32_t offset, width, region, what, status, turn;
};

/* Which eventfd stands for which window of the device, and at which addresses. */
struct window {
    uint32_t eventfd, region;
    uint64_t base, size;
    uint32_t memory; /* or ports */
    uint32_t step;   /* a power of 2: every such address is listened to */
};

struct io {
    uint64_t origin;     /* CLOCK_MONOTONIC at virtual instant 0 */
    uint64_t made;       /* records, ever */
    uint64_t pending;    /* accesses that wait for user space: while there is one, the kernel serves none */
    uint64_t vcpu;       /* the thread, as the kernel knows it */
    int64_t eventfd_at;  /* from a kvm_io_device to its pointer to the eventfd, in bytes */
    uint64_t id_at;      /* of an eventfd's id in the eventfd */
    struct window windows[WINDOWS];
};

#endif
