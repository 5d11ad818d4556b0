/* What the guest and the VMM agree on. */
#define GUEST_AT 0x1000
#define ROUNDS 600
#define RINGS 300

#define PANEL_AT 0xd0000
#define PANEL_ID 0x4c454e50
#define PANEL_IDENT 0x0
#define PANEL_LAMPS 0x4
#define PANEL_DARK 0x8
#define PANEL_BELL 0xc
