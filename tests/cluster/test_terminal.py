"""What is said arrives, or does no harm: hostile names, closed and full streams."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import failures, terminal
from cluster.errors import EXIT_MEND, EXIT_RUN_AGAIN
from cluster.progress import LiveProgress, PlainProgress

sys.path.insert(0, str(Path(__file__).parent.parent / "end_to_end"))
import line

ESCAPE = "\x1b[31mred\x1b]0;title\x07 \x9b31m \u202egnp.exe \r\x08 \x00"


def test_control_characters_are_shown_not_sent():
    shown = terminal.safe(f"found {ESCAPE}\nnext line\tand José, 東京, 🙂")
    assert r"found \x1b[31mred\x1b]0;title\x07 \x9b31m \u202egnp.exe \r\x08 \x00" in shown
    assert shown.endswith("\nnext line\tand José, 東京, 🙂")
    assert "(hidden)@host" in terminal.safe("http://ann:pw@host/x")


@pytest.mark.parametrize("setting", ["model.formula=voted ~ 1 + {}", "name={}", "fit.method={}", "poststratify.by=[{}]", "x{}=1", "data.source={}"])
def test_no_command_sends_what_a_config_has(setting: str, tmp_path: Path):
    config = line.make(tmp_path)
    for command in ("validate", "run", "status"):
        said = line.caucus(command, config, "--set", setting.format(ESCAPE))
        assert said.code == 2
        assert not set(said.out + said.err) & set("\x1b\x07\x9b\u202e\r\x08\x00")


def test_progress_sends_none_either(capsys: pytest.CaptureFixture[str]):
    said = io.StringIO()
    with terminal.guarded():
        PlainProgress(said).say("plain")
        live = LiveProgress()
        live.begin("fit", f"model.formula: {ESCAPE} [bold]not markup[/] [/red]")
        live.say(ESCAPE)
        live.close()
    err = capsys.readouterr().err
    assert "\x1b]0;title" not in err
    assert "\x07" not in err


SCRIPT = "from cluster.cli import main; main()"


def shell(redirect: str, config: Path) -> subprocess.CompletedProcess[str]:
    command = f'"{sys.executable}" -c "{SCRIPT}" run {config} {redirect}'
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=180)


@pytest.mark.parametrize("redirect", ["2>&-", "2>/dev/full", "2>&- <&- >&-"])
def test_a_run_that_can_say_nothing_runs(redirect: str, tmp_path: Path):
    config = line.make(tmp_path)
    done = shell(redirect, config)
    assert done.returncode == 0, done
    assert done.stderr == ""
    assert (tmp_path / "run" / "report.html").exists()
    assert not [file for file in (tmp_path / "run").rglob("*") if file.is_file() and b"ingest: starts" in file.read_bytes()]
    (tmp_path / "run.yaml").write_text("nothing: right\n")
    assert shell(redirect, config).returncode == 2


def test_a_result_that_cannot_be_written_is_an_error(tmp_path: Path):
    assert line.caucus("run", line.make(tmp_path)).code == 0
    assert shell(">/dev/full", tmp_path / "run.yaml").returncode == EXIT_RUN_AGAIN


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "/mnt/run"), EXIT_MEND),
        (OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), "/x"), EXIT_MEND),
        (FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "/x"), EXIT_MEND),
        (FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)), EXIT_RUN_AGAIN),
        (FileNotFoundError("s3://bucket/x"), EXIT_MEND),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/x"), EXIT_RUN_AGAIN),
    ],
)
def test_errors_of_the_system_say_whether_to_try_again(error: OSError, code: int):
    message, found = failures.explain(error)
    assert found == code
    assert "None" not in message
