/* Drives the sample device of ir_samples.py as an embedder would: header and library, nothing else. */
#include <stdio.h>
#include <string.h>

#include "ticker.h"

#define SECOND UINT64_C(1000000000)
#define CHECK(test) do { if (!(test)) { printf("line %d: %s\n", __LINE__, #test); return 1; } } while (0)

#define NAME(name, space, base, size) #name " " #space ";"

static unsigned pulses(ticker_state *s, uint64_t until)
{
    unsigned count = 0;
    while (s->deadline <= until) {
        uint32_t before = s->rises[TICKER_LINE_OUT];
        uint64_t at = s->deadline;
        s->attention = 0;
        ticker_settle(s, at);
        if (s->attention & DEVC_ATTENTION_LINES)
            count += s->rises[TICKER_LINE_OUT] - before;
    }
    return count;
}

int main(void)
{
    static ticker_state a, b;
    uint8_t image[TICKER_IMAGE_SIZE], copy[TICKER_IMAGE_SIZE];
    const uint32_t count = TICKER_PORTS_COUNT_OFFSET;
    uint32_t i;

    memset(&a, 0xff, sizeof a);
    ticker_init(&a, 0, TICKER_HZ_DEFAULT, TICKER_TRIM_DEFAULT);
    CHECK(ticker_ports_read(&a, SECOND, count, TICKER_PORTS_COUNT_WIDTH) == 3579545);
    CHECK(ticker_ports_read(&a, SECOND, count, 1) == (3579545 & 0xff));
    CHECK(ticker_ports_peek(&a, SECOND, TICKER_PORTS_FLIP_OFFSET, 1) == 0x55);
    CHECK(ticker_ports_peek(&a, SECOND, TICKER_PORTS_FLIP_OFFSET, 1) == 0x55);
    CHECK(ticker_ports_read(&a, SECOND, TICKER_PORTS_FLIP_OFFSET, 1) == 0x55);
    CHECK(ticker_ports_read(&a, SECOND, TICKER_PORTS_FLIP_OFFSET, 1) == 0xaa);

    /* Bit 23 of 3.58 MHz rises once in 4.7 s, the first time after half of that. */
    CHECK(pulses(&a, 60 * SECOND) == 13);
    CHECK(a.deadline == ticker_next(&a, a.settled) && a.deadline != DEVC_NEVER);
    CHECK(a.lines == ticker_levels(&a, a.settled));

    ticker_ports_write(&a, 61 * SECOND, TICKER_PORTS_BIAS_OFFSET, 2, 1000 - 3);
    CHECK(ticker_ports_read(&a, 61 * SECOND, TICKER_PORTS_BIAS_OFFSET, 2) == (uint16_t)(-3 - 5));
    ticker_save(&a, 61 * SECOND, image);
    ticker_init(&b, 0, 3579545, (uint64_t)-5);
    CHECK(ticker_restore(&b, 61 * SECOND, image, sizeof image) == 0);
    ticker_save(&b, 61 * SECOND, copy);
    CHECK(memcmp(image, copy, sizeof image) == 0);

    CHECK(ticker_restore(&b, 61 * SECOND - 1, image, sizeof image) == DEVC_RESTORE_INSTANT);
    CHECK(ticker_restore(&b, 64 * SECOND, image, sizeof image) == 0 && b.settled == 64 * SECOND);
    CHECK(b.lines == ticker_levels(&b, 64 * SECOND) && b.deadline == ticker_next(&b, 64 * SECOND));
    CHECK(ticker_restore(&b, 61 * SECOND, image, sizeof image) == 0 && b.settled == 61 * SECOND);

    image[TICKER_IMAGE_SIZE - 5] ^= 0xff;
    copy[0] ^= 1;
    CHECK(ticker_restore(&b, 62 * SECOND, image, sizeof image - 1) == DEVC_RESTORE_LENGTH);
    CHECK(ticker_restore(&b, 62 * SECOND, copy, sizeof copy) == DEVC_RESTORE_MAGIC);

    for (i = 0; i < TICKER_PORTS_SIZE + 2; i++)
        printf("%u:%u ", (unsigned)i, (unsigned)ticker_ports_read(&b, 61 * SECOND, i, 4));
    printf("\n%s\n", TICKER_REGIONS(NAME));
    return 0;
}
