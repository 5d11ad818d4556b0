/* The devices: their states in the kernel's maps, their native handlers, and a native twin of each. */
#ifndef DEVICE_H
#define DEVICE_H

#include "guest.h"
#include "i8254.h"
#include "kernel.h"
#include "panel.h"

typedef uint64_t read_fn(void *s, uint64_t now, uint32_t offset, uint32_t width);
typedef void write_fn(void *s, uint64_t now, uint32_t offset, uint32_t width, uint64_t value);
typedef void settle_fn(void *s, uint64_t now);

enum { io, mmio }; /* as the headers name the address spaces */

struct region {
    const char *name;
    int space;
    uint64_t base, size;
    read_fn *read;
    write_fn *write;
};

struct count {
    uint64_t in_kernel, put_off; /* writes by the kernel's programs, and by us after they had put them off */
    uint64_t reads, writes;      /* that came to user space */
    uint64_t ended;              /* writes that KVM ended, by what it says */
};

struct device {
    const char *name;
    size_t size;
    settle_fn *settle;
    unsigned regions;
    struct region region[WINDOWS];
    void *twin;
    struct in_kernel kernel;
    int paged;           /* its page stands for the first window */
    int events[WINDOWS]; /* eventfds, one for each window; -1: none */
    int changed;         /* an eventfd: an access by user space changed lines or deadline; -1: nobody listens */
    uint64_t taken;      /* records of the log */
    int differed;        /* from its twin */
    struct count count;
};

enum { PIT, PANEL, DEVICES };
extern struct device devices[DEVICES];

/* CLOCK_MONOTONIC in ns: what the kernel's programs take the time from. */
uint64_t monotonic(void);

/* Both devices as after power-on, with what is counted at 0. */
void reset_devices(void);

/* The part of a state that all devices have (docs/abi.md). */
i8254_state *head(const struct device *d);

void lock(struct device *d);
void unlock(struct device *d);

/* An access that came to user space: the value read. An address that is nobody's reads as ones. */
uint64_t serve(int space, uint64_t address, unsigned width, int what, uint64_t value);

/* With the lock: play what the kernel served to the twin, do what it put off, and compare. */
void catch_up(struct device *d);

/* While no guest runs: catch up, and see that no record is missing. */
void catch_up_at_exit(struct device *d);

#endif
