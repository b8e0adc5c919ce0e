"""What a stage says on stderr and returns to the shell, seen from outside its process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cordel.runtime import console

PRELUDE = """
import errno, logging, os, signal, sys, time
from pathlib import Path
from cordel.runtime.console import Progress, run_stage, stop_requests
from cordel.runtime.errors import InputError, UserError
def main():
"""


def run(tmp_path: Path, body: str) -> subprocess.CompletedProcess[str]:
    """Run a stage whose ``main`` has the lines of ``body``."""
    script = tmp_path / "stage.py"
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    script.write_text(f"{PRELUDE}{lines}run_stage(main)\n", encoding="utf-8")
    source = Path(sys.modules["cordel"].__path__[0]).parent
    return subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_a_stage_that_ends_well_returns_zero_and_is_silent(tmp_path: Path) -> None:
    done = run(tmp_path, "pass")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_log_goes_to_stderr_under_the_name_of_the_stage(tmp_path: Path) -> None:
    done = run(tmp_path, "logging.getLogger('split_corpus').info('%d grupos', 3)")
    assert (done.stdout, done.stderr) == ("", "split_corpus: 3 grupos\n")


@pytest.mark.parametrize("error", ["UserError", "InputError"])
def test_a_mistake_of_the_user_is_one_line_and_exit_code_one(tmp_path: Path, error: str) -> None:
    done = run(tmp_path, f"raise {error}('corpus.path é\\n  vazio')")
    assert done.returncode == 1
    assert done.stderr == "error: corpus.path é vazio\n"  # on one line, without a traceback


def test_a_defect_keeps_its_traceback(tmp_path: Path) -> None:
    done = run(tmp_path, "raise ValueError('defeito nosso')")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback (most recent call last):")
    assert done.stderr.endswith("ValueError: defeito nosso\n")


@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EFBIG"])
def test_a_full_disk_is_one_line_that_names_the_file(tmp_path: Path, name: str) -> None:
    done = run(tmp_path, f"raise OSError(errno.{name}, os.strerror(errno.{name}), 'data/a')")
    # os.strerror gives "No space left on device", "Disk quota exceeded" and "File too large".
    assert done.returncode == 1
    assert done.stderr.startswith("error: data/a: ")
    assert done.stderr.endswith("; free some disk space and run again\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "message",
    [
        "Error while serializing: I/O error: No space left on device (os error 28)",  # safetensors
        "[enforce fail at inline_container.cc:862] . PytorchStreamWriter failed writing file",
    ],
)
def test_a_full_disk_is_one_line_in_the_words_of_libraries(tmp_path: Path, message: str) -> None:
    done = run(tmp_path, f"raise RuntimeError({message!r})")
    assert done.stderr == f"error: output: {message}; free some disk space and run again\n"
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("work", "said"),
    [
        ("open('nada')", "nada: No such file or directory"),
        ("open('.')", ".: Is a directory"),
        ("raise OSError('nada: broken header')", "nada: broken header"),  # as Arrow words it
    ],
)
def test_a_file_that_cannot_be_read_is_one_line_that_names_it(
    tmp_path: Path, work: str, said: str
) -> None:
    done = run(tmp_path, work)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {said}; check the path")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "error",
    [
        "MemoryError()",
        "RuntimeError('[enforce fail] DefaultCPUAllocator: can\\'t allocate memory: 12 bytes')",
        "RuntimeError('CUDA out of memory. Tried to allocate 2.00 GiB')",
    ],
)
def test_too_little_memory_is_one_line_with_the_remedy(tmp_path: Path, error: str) -> None:
    done = run(tmp_path, f"raise {error}")
    assert done.returncode == 1
    assert done.stderr.startswith("error: there is not enough memory for this; lower batch_size")
    assert done.stderr.count("\n") == 1


def test_another_runtime_error_keeps_its_traceback(tmp_path: Path) -> None:
    assert "Traceback" in run(tmp_path, "raise RuntimeError('defeito nosso')").stderr


@pytest.mark.parametrize(
    "work",
    [
        "raise UserError('hub said no to hf_abcdefgh')",
        "raise OSError('hub said no to hf_abcdefgh')",
        "logging.getLogger('x').warning('hub said no to %s', 'hf_abcdefgh')",
    ],
)
def test_a_secret_of_the_environment_is_never_printed(tmp_path: Path, work: str) -> None:
    done = run(tmp_path, f"os.environ['HF_TOKEN'] = 'hf_abcdefgh'\n{work}")
    assert "hub said no to <HF_TOKEN>" in done.stderr
    assert "abcdefgh" not in done.stderr


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_stops_the_stage_with_its_code(tmp_path: Path, name: str, code: int) -> None:
    done = run(tmp_path, f"os.kill(os.getpid(), signal.{name})\ntime.sleep(20)")
    assert done.returncode == code  # 128 + 15 and 128 + 2
    assert done.stderr == f"stopped by {name}\n"


def test_a_stopped_stage_cleans_up_and_no_except_exception_swallows_it(tmp_path: Path) -> None:
    body = """try:
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(20)
    except Exception:
        Path("engolido").touch()
finally:
    Path("limpo").touch()"""
    assert run(tmp_path, body).returncode == 143
    assert (tmp_path / "limpo").exists()
    assert not (tmp_path / "engolido").exists()


def test_a_block_may_ask_for_the_signal_and_finish_its_step(tmp_path: Path) -> None:
    body = """with stop_requests() as asked:
    print(asked())
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.01)
    print(asked())"""
    done = run(tmp_path, body)
    assert (done.returncode, done.stdout) == (0, "False\nTrue\n")


def test_a_second_signal_does_not_wait_for_the_step(tmp_path: Path) -> None:
    body = """with stop_requests():
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(20)"""
    done = run(tmp_path, body)
    assert (done.returncode, done.stderr) == (143, "stopped by SIGTERM\n")


def test_after_the_block_a_signal_interrupts_again(tmp_path: Path) -> None:
    body = """with stop_requests():
    pass
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(20)"""
    assert run(tmp_path, body).returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.6, "1 h 00 min"),
        (7800, "2 h 10 min"),
        (100 * 3600, "100 h 00 min"),
    ],
)
def test_a_duration_reads_as_people_say_it(seconds: float, text: str) -> None:
    assert console.duration(seconds) == text


def test_progress_yields_the_items_and_is_silent_when_quick(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert list(console.progress("pão", label="ler", unit="letras", total=3)) == ["p", "ã", "o"]
    assert capsys.readouterr().err == ""


def test_progress_counts_every_item(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(console, "LINE_EVERY_SECONDS", 1e-9)
    caplog.set_level("INFO", logger="cordel")
    assert list(console.progress("pão", label="ler", unit="letras")) == ["p", "ã", "o"]
    shown = [message.split(",")[0] for message in caplog.messages]
    assert shown == ["ler: 1 letras", "ler: 2 letras", "ler: 3 letras"]


def test_a_log_file_gets_a_line_with_count_rate_and_time_left(tmp_path: Path) -> None:
    # The clock is set back by 40 s instead of waiting: 100 new documents in 40 s are 2.5/s (which
    # formats as 2), so the remaining 50 take 20 s.
    body = """shown = Progress("assinar", "documentos", total=1250, done=1100)
shown._started_at -= 40
shown._shown_at -= 40
shown.advance(100, "perda 1.5")
shown.advance(10)"""
    expected = "cordel: assinar: 1,200 of 1,250 documentos, 2/s, 20 s left, perda 1.5\n"
    assert run(tmp_path, body).stderr == expected
