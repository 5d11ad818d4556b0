"""Where guests run: KVM, or Unicorn's emulation where there is no KVM."""

from __future__ import annotations

from .host import DEFAULT_MEMORY, GRACE, Exit, Host, HostError, Reason, Registers

__all__ = ["DEFAULT_MEMORY", "GRACE", "Exit", "Host", "HostError", "Reason", "Registers", "hosts", "pick"]


def hosts() -> dict[str, str | None]:
    """Every host by name, the preferred one first: None if it works here, else why not."""
    from . import kvm, unicorn

    return {"kvm": kvm.available(), "unicorn": unicorn.available()}


def pick(name: str | None = None) -> tuple[type[Host], str]:
    """The host of that name, or the best one that works here; and why it is that one.

    Raises HostError with the reasons if there is none.
    """
    from . import kvm, unicorn

    classes: dict[str, type[Host]] = {"kvm": kvm.KvmHost, "unicorn": unicorn.UnicornHost}
    if name is not None and name not in classes:
        raise HostError(f"there is no host {name!r}; choose from {', '.join(classes)}")
    obstacles: list[str] = []
    for candidate in classes if name is None else [name]:
        module = kvm if candidate == "kvm" else unicorn
        obstacle = module.available()
        if obstacle is None:
            why = "as asked" if name else "; ".join(obstacles) or "it runs guests here"
            return classes[candidate], why
        obstacles.append(f"no {candidate}: {obstacle}")
    raise HostError("; ".join(obstacles))
