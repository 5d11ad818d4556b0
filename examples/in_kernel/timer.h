/* Deadlines and lines: what a device does by itself, and what its writes change for others. */
#ifndef TIMER_H
#define TIMER_H

#include <pthread.h>

#include "device.h"

/* A thread that settles a device at its deadlines and gives its first line to KVM's
 * interrupt controllers. It wakes at the deadline, and for every write: by the kernel's
 * programs through the device's eventfds, by user space through `changed`. */
struct timer {
    struct device *device;
    int vm;
    unsigned line; /* of the interrupt controllers */
    int clock, stop;
    uint32_t seen; /* rising edges */
    pthread_t thread;
};

void start_timer(struct timer *timer, struct device *device, int vm, unsigned line);
void stop_timer(struct timer *timer);

#endif
