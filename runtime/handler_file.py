"""Handler files: the Python that lies beside a device file.

Non-goals: what is in them (python_tier.py, plain_functions.py), sandboxing.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType


class PythonTierError(ValueError):
    """A handler file that cannot be used: missing, broken, or without what it must define."""


def load_file(directory: Path | None, file: str) -> ModuleType:
    """Run the handler file that lies beside a device file.

    Raises PythonTierError if it is elsewhere, missing, or fails.
    """
    if directory is None:
        raise PythonTierError(f"{file}: the device was not loaded from a file, so nothing lies beside it")
    if Path(file).name != file:
        raise PythonTierError(f"{file}: a handler file lies beside its device file; give its name only")
    path = directory / file
    spec = importlib.util.spec_from_file_location(f"devc_python_{path.stem}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise PythonTierError(f"{path}: there is no such handler file; it belongs beside the device file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise PythonTierError(f"{path}: {type(error).__name__}: {error}") from error
    return module
