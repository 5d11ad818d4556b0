"""What docs/qtest.md shows is what happens."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from devc.cli import qtest as command
from devc.runtime.hosts.qtest import COMMANDS

MANUAL = (Path(__file__).parents[1] / "docs" / "qtest.md").read_text()
PATIENCE = 20


def block(kind: str) -> str:
    """The first code block of a kind."""
    found = re.search(rf"^```{kind}\n(.*?)^```$", MANUAL, re.S | re.M)
    assert found, kind
    return found[1]


def test_the_manual_s_conversation_goes_as_it_says() -> None:
    (options,) = re.findall(r"^    devc qtest (-machine .*)$", MANUAL, re.M)
    said = block("transcript").splitlines()
    typed = "".join(line[2:] + "\n" for line in said if line.startswith("> "))
    line = [sys.executable, "-m", "devc", "qtest", *options.split()]
    done = subprocess.run(line, input=typed, capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout.splitlines() == [line for line in said if not line.startswith("> ")]
    assert done.stderr == ""


def test_the_manual_s_python_client_prints_what_it_says() -> None:
    line = [sys.executable, "-c", block("python")]
    done = subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.stdout, done.stderr) == (block("output"), "")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_manual_names_every_command(name: str) -> None:
    assert f"`{name}`" in MANUAL or name in ("writew", "writel"), "b to q"


def test_the_manual_s_options_are_known() -> None:
    options = set(re.findall(r"`-([A-Za-z-]+)", MANUAL))
    assert options == {*command._WITH_VALUE, *command._ALONE} - {"help", "h"}
