/* What the guest and the VMM agree on. */
#define GUEST_AT 0x1000
#define ROUNDS 600
#define RINGS 300

#define BURST 4000 /* fewer than RECORDS of shared.h */
#define TICKS 20
#define TICK_COUNT 11932 /* of 1193182 Hz: 100 Hz */
#define IRQ0_VECTOR 8
#define DONE_PORT 0xf4

#define PANEL_AT 0xd0000
#define PANEL_ID 0x4c454e50
#define PANEL_IDENT 0x0
#define PANEL_LAMPS 0x4
#define PANEL_DARK 0x8
#define PANEL_BELL 0xc
