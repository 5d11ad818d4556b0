"""The object cache: whatever is in it, the device works; only its own whole entries are used."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from devc.compiler import cache as cache_module
from devc.compiler import jit
from devc.compiler.cache import Cache, write_atomically

from .ir_samples import ticker

MODULE = ticker()
POSIX = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="file owners and modes are POSIX's")


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def entry(cache: Cache) -> Path:
    (path,) = cache.directory.iterdir()
    return path


def test_a_second_compile_comes_from_the_cache(cache: Cache) -> None:
    assert not jit.compile_module(MODULE, cache).cached
    assert jit.compile_module(MODULE, cache).cached


def test_without_a_cache_nothing_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEVC_CACHE", str(tmp_path / "unused"))
    assert not jit.compile_module(MODULE, None).cached
    assert not (tmp_path / "unused").exists()


def test_another_device_level_or_version_is_another_entry(cache: Cache) -> None:
    jit.compile_module(MODULE, cache)
    assert not jit.compile_module(ticker(version=4), cache).cached
    assert not jit.compile_module(MODULE, cache, opt=2).cached
    assert len(list(cache.directory.iterdir())) == 3


@pytest.mark.parametrize("part", ["cpu", "features", "triple"])
def test_an_object_for_another_machine_has_another_key(part: str) -> None:
    other = replace(jit.host(), **{part: "z80"})
    assert jit.object_key("text", jit.host(), 2) != jit.object_key("text", other, 2)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "head only": lambda content: content[:20],
    "truncated": lambda content: content[:-1],
    "longer": lambda content: content + b"\0",
    "a bit of the payload": lambda content: content[:-5] + bytes([content[-5] ^ 1]) + content[-4:],
    "another magic": lambda content: b"X" + content[1:],
    "another key": lambda content: content[:10] + bytes(32) + content[42:],
    "another digest": lambda content: content[:42] + bytes(32) + content[74:],
    "foreign": lambda _: b"\x7fELF" + bytes(500),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_entry_is_recompiled_and_replaced(cache: Cache, how: str) -> None:
    jit.compile_module(MODULE, cache)
    path = entry(cache)
    whole = path.read_bytes()
    path.write_bytes(DAMAGE[how](whole))
    code = jit.compile_module(MODULE, cache)
    assert not code.cached
    assert code.symbol("ticker_settle")
    assert jit.compile_module(MODULE, cache).cached


def test_a_whole_entry_under_another_key_is_not_used(cache: Cache) -> None:
    cache.put("object", "one", b"payload of one")
    os.rename(entry(cache), cache.path("object", "two"))
    assert cache.get("object", "two") is None


def test_kinds_do_not_meet(cache: Cache) -> None:
    cache.put("object", "k", b"1")
    cache.put("interface", "k", b"2")
    assert (cache.get("object", "k"), cache.get("interface", "k")) == (b"1", b"2")


def test_a_remembered_source_gives_interface_and_code_without_the_module(cache: Cache) -> None:
    code = jit.compile_module(MODULE, cache)
    jit.remember("the source", MODULE, code, cache)
    recalled = jit.recall("the source", cache)
    assert recalled is not None
    assert recalled[0] == replace(MODULE, functions=())
    assert recalled[1].names == code.names
    assert recalled[1].cached
    assert jit.recall("another source", cache) is None
    assert jit.recall("the source", cache, opt=2) is None
    assert jit.recall("the source", None) is None


def test_what_was_remembered_in_part_is_as_if_forgotten(cache: Cache) -> None:
    code = jit.compile_module(MODULE, cache)
    for payload in (b"", b"\xff" * 80, code.key.encode(), code.key.encode() + b"[]", code.key.encode()[:-1]):
        cache.put("interface", jit._source_key("s", jit.QUICK), payload)
        assert jit.recall("s", cache) is None
    jit.remember("s", MODULE, code, cache)
    assert jit.recall("s", cache) is not None
    cache.path("object", code.key).unlink()
    assert jit.recall("s", cache) is None


@POSIX
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777])
def test_a_directory_that_others_may_write_is_not_used(cache: Cache, mode: int) -> None:
    cache.put("object", "k", b"1")
    cache.directory.chmod(mode)
    assert cache.get("object", "k") is None
    assert not cache.put("object", "l", b"2")
    cache.directory.chmod(0o700)
    assert cache.get("object", "k") == b"1"


@POSIX
def test_an_entry_that_others_may_write_is_not_used(cache: Cache) -> None:
    cache.put("object", "k", b"1")
    entry(cache).chmod(0o666)
    assert cache.get("object", "k") is None


@POSIX
def test_another_users_cache_is_not_used(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.put("object", "k", b"1")
    own = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: own + 1)
    assert cache.get("object", "k") is None
    assert not cache.put("object", "k", b"2")


@POSIX
def test_a_link_or_a_pipe_is_not_followed(cache: Cache, tmp_path: Path) -> None:
    cache.put("object", "k", b"1")
    elsewhere = tmp_path / "elsewhere"
    os.rename(entry(cache), elsewhere)
    path = cache.path("object", "k")
    path.symlink_to(elsewhere)
    assert cache.get("object", "k") is None
    path.unlink()
    os.mkfifo(path)
    assert cache.get("object", "k") is None


def test_a_cache_that_cannot_be_written_is_no_cache(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    code = jit.compile_module(MODULE, Cache(tmp_path / "file" / "cache"))
    assert not code.cached
    assert code.symbol("ticker_settle")


def test_the_oldest_entries_make_room(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "MAX_ENTRIES", 3)
    for number in range(5):
        cache.put("object", str(number), b"x")
        os.utime(cache.path("object", str(number)), (number, number))
    cache.put("object", "last", b"x")
    kept = [key for key in (*map(str, range(5)), "last") if cache.get("object", key)]
    assert kept == ["3", "4", "last"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_atomically(tmp_path / "f", b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(tmp_path / "f", b"new")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"]


COMPILE = """
import ctypes, importlib.util, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from devc.tests.ir_samples import ticker
from devc.compiler import jit
from devc.compiler.cache import Cache
for number in range(3):
    code = jit.compile_module(ticker(f"ticker{number}"), Cache(Path(sys.argv[2])))
    assert ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_char_p, ctypes.c_uint64)(
        code.symbol(f"ticker{number}_levels"))(ctypes.create_string_buffer(b"\\1" * 200, 200), 0) in (0, 1)
"""


def test_processes_may_compile_the_same_devices_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", COMPILE, str(Path(__file__).parents[1]), str(tmp_path / "cache")]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_the_default_place_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEVC_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    default = Cache.default()
    assert default is not None
    assert default.directory == tmp_path / "devc"
    monkeypatch.setenv("DEVC_CACHE", str(tmp_path / "own"))
    default = Cache.default()
    assert default is not None
    assert default.directory == tmp_path / "own"
    monkeypatch.setenv("DEVC_CACHE", "")
    assert Cache.default() is None
