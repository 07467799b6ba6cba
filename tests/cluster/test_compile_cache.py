"""Compiled programs that are kept: for this user only, whole ones only, and with the same numbers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import compile_cache

PROGRAM = """\
import jax, jax.monitoring, logging
from cluster import compile_cache
jax.jit(lambda x: x + 1)(1.0)  # before anybody asks for programs to be kept
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event) if event.endswith("/cache_hits") else None)
compile_cache.MIN_COMPILE_SECONDS = 0.0
compile_cache.use()
x = jax.jit(lambda key: jax.numpy.linalg.qr(jax.random.normal(key, (9, 9)))[0].sum())(jax.random.key(3))
print(len(hits), float(x).hex())
"""


def run(home: Path, **env: str) -> tuple[int, str]:
    """Compile something in a process of its own: how many programs were found, and the number that came out."""
    environment = {**os.environ, "HOME": str(home), "PYTHONWARNINGS": "error", **env}
    environment.pop("XDG_CACHE_HOME", None)
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    hits, number = done.stdout.split()
    return int(hits), number


def entries(home: Path) -> list[Path]:
    return sorted((home / ".cache" / "caucus").glob("jax-*/*-cache"))


def test_a_second_process_finds_what_the_first_compiled_and_gets_the_same_number(tmp_path: Path):
    hits, number = run(tmp_path)
    assert hits == 0
    kept = entries(tmp_path)
    assert kept
    assert kept[0].parent.stat().st_mode & 0o777 == 0o700
    # a writer that was killed: half of the file, and no word that it was finished
    kept[0].write_bytes(kept[0].read_bytes()[:100])
    kept[0].with_name(kept[0].name.removesuffix("-cache") + "-atime").unlink()
    assert run(tmp_path) == (len(kept) - 1, number)
    assert run(tmp_path) == (len(kept), number)


def test_a_home_that_cannot_be_written_only_means_to_compile_again(tmp_path: Path):
    (tmp_path / ".cache").write_text("a file")
    assert run(tmp_path)[0] == 0


def test_a_variable_of_jax_is_left_to_jax(tmp_path: Path):
    assert run(tmp_path, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "elsewhere"))[0] == 0
    assert not (tmp_path / ".cache").exists()


@pytest.mark.parametrize("attack", ["others can write", "a link", "somebody else's"])
def test_a_folder_that_others_can_write_is_refused(attack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = compile_cache.private_folder()
    if attack == "others can write":
        folder.chmod(0o777)
    elif attack == "a link":
        folder.rename(tmp_path / "moved")
        folder.symlink_to(tmp_path / "moved")
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12_345)
    with pytest.raises(PermissionError, match="nobody else can write"):
        compile_cache.private_folder()


def test_a_damaged_program_is_compiled_again_and_never_run(tmp_path: Path):
    _, number = run(tmp_path)
    for entry in entries(tmp_path):
        content = bytearray(entry.read_bytes())
        content[len(content) // 2] ^= 255
        entry.write_bytes(content)
    assert run(tmp_path, PYTHONWARNINGS="ignore") == (0, number)
