"""Shared by all tests: the engines, and a cache that is not the user's."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ.setdefault("DEVC_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(params=["native", "reference"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)
