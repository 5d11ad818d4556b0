"""What CPUID tells a guest on KVM: what KVM supports, and which vCPU asks.

Non-goals: processor models.
"""

from __future__ import annotations

from . import kvm_abi as abi
from .kvm_system import ioctl

_VERSION, _CACHES, _TOPOLOGY, _TOPOLOGY_2 = 0x1, 0x4, 0xB, 0x1F
_AMD_SIZES, _AMD_TOPOLOGY = 0x8000_0008, 0x8000_001E
_HYPERVISORS = range(0x4000_0000, 0x4001_0000)
_HYPERVISOR_BIT, _X2APIC_BIT, _DEADLINE_BIT = 1 << 31, 1 << 21, 1 << 24  # leaf 1, ECX
_APIC_BIT, _HTT_BIT = 1 << 9, 1 << 28  # leaf 1, EDX
_SIGNIFICANT_INDEX = 1  # KVM_CPUID_FLAG_SIGNIFCANT_INDEX
_SMT, _CORE = 1, 2  # level types of leaf 0xb


def supported(kvm: int) -> list[abi.CpuidEntry]:
    """The leaves that KVM can offer."""
    table = abi.Cpuid(nent=abi.CPUID_ENTRIES)
    ioctl(kvm, abi.GET_SUPPORTED_CPUID, table, "asking for the processor's features")
    return list(table.entries[: table.nent])


def for_vcpu(
    offered: list[abi.CpuidEntry], number: int, vcpus: int, *, local_apic: bool, hide_kvm: bool
) -> abi.Cpuid:
    """Leaves for vCPU `number`, whose APIC id that is, of `vcpus` in one package.

    `hide_kvm`: no hypervisor shows, as guests have it that trust its clock only then.
    """
    width = (vcpus - 1).bit_length()
    is_amd = any(offer.function == _AMD_TOPOLOGY for offer in offered)
    entries = []
    for offer in offered:
        entry = abi.CpuidEntry.from_buffer_copy(offer)
        if entry.function in (_TOPOLOGY, _TOPOLOGY_2):
            continue
        if hide_kvm and entry.function in _HYPERVISORS:
            continue
        if entry.function == _VERSION:
            entry.ebx = entry.ebx & 0xFFFF | vcpus << 16 | number << 24
            entry.ecx &= ~(_HYPERVISOR_BIT | (0 if local_apic else _X2APIC_BIT | _DEADLINE_BIT))
            entry.ecx |= (0 if hide_kvm else _HYPERVISOR_BIT) | (_DEADLINE_BIT if local_apic else 0)
            entry.edx &= ~(_HTT_BIT | (0 if local_apic else _APIC_BIT))
            entry.edx |= _HTT_BIT if vcpus > 1 else 0
        elif entry.function == _CACHES:
            # Bits 31..26: cores of the package, less one (SDM vol. 2, CPUID).
            entry.eax = entry.eax & 0x3FFF | ((1 << width) - 1) << 26 if entry.eax & 0x1F else entry.eax
        elif entry.function == _AMD_SIZES and is_amd:
            # ECX: cores less one, and the id's bits that tell them apart (AMD APM vol. 3, E.4.7).
            entry.ecx = vcpus - 1 | width << 12
        elif entry.function == _AMD_TOPOLOGY:
            entry.eax, entry.ebx, entry.ecx = number, number, 0
        entries.append(entry)
    if any(offer.function == _TOPOLOGY for offer in offered):
        entries += [
            _level(0, 0, 1, _SMT, number),
            _level(1, width, vcpus, _CORE, number),
            _level(2, 0, 0, 0, number),
        ]
    table = abi.Cpuid(nent=len(entries))
    table.entries[: len(entries)] = entries
    return table


def _level(index: int, shift: int, processors: int, kind: int, number: int) -> abi.CpuidEntry:
    """A level of leaf 0xb: the id's bits below it, and its processors."""
    return abi.CpuidEntry(
        function=_TOPOLOGY,
        index=index,
        flags=_SIGNIFICANT_INDEX,
        eax=shift,
        ebx=processors,
        ecx=kind << 8 | index,
        edx=number,
    )
