"""What runs a device: machine code, the reference engine, or the kernel's programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from ..compiler.upgrade import Upgrader
from .device import DeviceType
from .instance import Instance, NativeInstance, ReferenceInstance

Engine = Literal["native", "reference", "kernel"]

Make = Callable[[DeviceType, Engine, int, Mapping[str, int]], Instance]
"""Turns a device type, the engine, the present instant and the stored parameters into an instance."""


def instantiate(type: DeviceType, engine: Engine, now: int, params: Mapping[str, int]) -> Instance:
    """An instance of a device type on an engine, reset at `now`, that takes older images too."""
    made: Instance
    if engine == "native":
        made = NativeInstance(type.native(), type.module, now, **params)
    elif engine == "kernel":
        from .kernel_instance import KernelInstance  # needs what only Linux has

        made = KernelInstance(type.native(), type.module, type.bpf(), now, **params)
    else:
        made = ReferenceInstance(type.reference_module(), now, **params)
    made.upgrader = Upgrader(type.reference_module, type.path)
    return made
