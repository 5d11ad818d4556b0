"""Shared by all tests: the engines, and a cache that is not the user's."""

from __future__ import annotations

import os

import pytest

from .bpf_rig import missing


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ.setdefault("DEVC_CACHE", str(tmp_path_factory.mktemp("cache")))


LONG = bool(int(os.environ.get("DEVC_LONG", "0")))


@pytest.fixture(params=["native", "reference", *(["kernel"] if LONG else [])])
def engine(request: pytest.FixtureRequest) -> str:
    """Each engine; in the long mode the running kernel's eBPF, too."""
    if request.param == "kernel" and (reason := missing()):
        pytest.skip(reason)
    return str(request.param)
