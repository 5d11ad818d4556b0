"""What scratch.dev cannot say: functions of the numba tier, compiled and called from the native loop."""

POLYNOMIAL = 0xEDB8_8320  # CRC-32, reflected
MASK = 0xFFFF_FFFF


def frame_write(now: int, offset: int, width: int, value: int, total: int) -> tuple[int]:
    """The CRC after the bytes of `value`."""
    for _ in range(width):
        total = byte(total, value & 0xFF)
        value >>= 8
    return (total,)


def byte(total: int, value: int) -> int:
    """A step a bit, the lowest first."""
    total ^= value
    for _ in range(8):
        low = total & 1
        total >>= 1
        if low:
            total ^= POLYNOMIAL
    return total


def xorshift_read(now: int, offset: int, width: int, seed: int) -> tuple[int, int]:
    """Marsaglia's xorshift32: the next number, which is the next seed too."""
    seed ^= seed << 13 & MASK
    seed ^= seed >> 17
    seed ^= seed << 5 & MASK
    return seed, seed


def xorshift_write(now: int, offset: int, width: int, value: int, seed: int) -> tuple[int]:
    """A new seed. From 0 there would be no way out."""
    if value == 0:
        value = 1
    return (value & MASK,)
