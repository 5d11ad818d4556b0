/* Two compiled devices in a program of one's own: no Python, no LLVM.
 *
 *   devc compile i8254 acpi_pm --emit header --emit lib -o out
 *   cc -Iout examples/embed_pit.c -Lout -li8254 -lacpi_pm -Wl,-rpath,$PWD/out -o embed_pit
 *
 * It is the whole of an embedder's part: virtual time, accesses, deadlines,
 * lines. Counter 0 of the PIT is set to 100 Hz; the program goes from deadline
 * to deadline for a second of virtual time, counts the interrupts, and times
 * one period with the ACPI PM timer.
 */
#include <inttypes.h>
#include <stdio.h>

#include "acpi_pm.h"
#include "i8254.h"

#define MILLISECOND UINT64_C(1000000)
#define PM_COUNT 8u /* the counter's offset in the window */

static i8254_state pit;
static acpi_pm_state pm;

/* New rising edges of IRQ 0, as an interrupt controller would take them. */
static uint32_t take_interrupts(void)
{
    static uint32_t seen;
    uint32_t count = 0;

    if (pit.attention & DEVC_ATTENTION_LINES) {
        count = pit.rises[I8254_LINE_IRQ0] - seen;
        seen += count;
    }
    pit.attention = 0;
    return count;
}

int main(void)
{
    const uint32_t reload = 11932; /* 1193182 Hz / 100 Hz */
    uint64_t now = 0, end = 1000 * MILLISECOND;
    uint64_t previous = 0, period = 0;
    uint32_t interrupts = 0;

    i8254_init(&pit, now, I8254_HZ_DEFAULT);
    acpi_pm_init(&pm, now, ACPI_PM_WIDE_DEFAULT);
    i8254_pit_write(&pit, now, I8254_PIT_CONTROL_OFFSET, 1, 0x34); /* counter 0, mode 2, both bytes */
    i8254_pit_write(&pit, now, I8254_PIT_CHANNEL_0_DATA_OFFSET, 1, reload & 0xff);
    i8254_pit_write(&pit, now, I8254_PIT_CHANNEL_0_DATA_OFFSET, 1, reload >> 8);
    (void)take_interrupts(); /* the control word itself raised OUT */

    while (pit.deadline <= end) {
        uint32_t news;

        now = pit.deadline;
        i8254_settle(&pit, now);
        news = take_interrupts();
        if (news) {
            uint64_t ticks = acpi_pm_io_read(&pm, now, PM_COUNT, 4);
            period = (ticks - previous) & 0xffffff;
            previous = ticks;
            interrupts += news;
        }
    }
    printf("%" PRIu32 " interrupts in %" PRIu64 " ms\n", interrupts, end / MILLISECOND);
    printf("the last period took %" PRIu64 " ticks of the PM timer\n", period);
    return 0;
}
