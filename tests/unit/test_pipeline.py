"""`pipeline`: programs and functions in a row, whoever of them fails, stops or goes first."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

import isthmus
from isthmus import pipeline
from streams import open_fds, program
from support import PATIENCE, process_state, run_python, wait_until

PYTHON = sys.executable


def upper(lines: Iterable[bytes]) -> Iterator[bytes]:
    """A stage."""
    for line in lines:
        yield line.upper()


def is_over(pid: int | None) -> bool:
    return process_state(pid or 0) in ("", "Z")


def no_children(pipe: isthmus.Pipeline) -> bool:
    return all(is_over(stage.pid) for stage in pipe.progress() if stage.pid)


# ---------------------------------------------------------------------------------------- what goes through


def test_programs_and_functions_in_a_row(tmp_path: Path) -> None:
    for name in ("file b", "file a", "other"):
        (tmp_path / name).touch()
    done = pipeline(f"ls -1 '{tmp_path}'", "grep file", upper, ["sort", "-r"])
    assert list(done) == [b"FILE B\n", b"FILE A\n"]
    assert (done.exit_codes, done.exit_code) == ([0, 0, 0, 0], 0)
    assert done.closed


def test_one_stage_alone() -> None:
    assert pipeline("echo a").read() == b"a\n"
    assert pipeline(upper, input=b"b\n").read() == b"B\n"
    assert pipeline(lambda _: ["x", "y"]).read() == b"xy"
    assert pipeline(["printf", "%s", "two words"]).read() == b"two words"
    assert pipeline([Path("/bin/echo"), "-n", "path"]).read() == b"path"


def test_there_is_no_shell() -> None:
    assert pipeline("echo $HOME * ; | 'a  b' >out").read() == b"$HOME * ; | a  b >out\n"


@pytest.mark.parametrize(
    "given",
    [
        b"a\nb\n",
        "a\nb\n",
        bytearray(b"a\nb\n"),
        [b"a\n", "b\n"],
        (f"{letter}\n" for letter in "ab"),
        io.BytesIO(b"a\nb\n"),
        io.StringIO("a\nb\n"),
    ],
    ids=["bytes", "str", "bytearray", "list", "generator", "BytesIO", "StringIO"],
)
def test_input_of_each_kind(given: Any) -> None:
    assert pipeline("cat", upper, input=given).read() == b"A\nB\n"


def test_input_and_output_in_files(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"a\nb\n" * 50_000)
    with (tmp_path / "in").open("rb") as source, (tmp_path / "out").open("wb") as target:
        done = pipeline("cat", upper, "cat", input=source, output=target)
        with pytest.raises(isthmus.Unsupported, match="goes to a file"):
            done.read()
        assert done.wait(PATIENCE) == [0, 0, 0]
    assert (tmp_path / "out").read_bytes() == b"A\nB\n" * 50_000
    with isthmus.Pipe() as pipe:
        pipe.writer.write(b"from a pipe")
        pipe.writer.close()
        assert pipeline("cat", input=pipe.reader).read() == b"from a pipe"


def test_what_nobody_wants_goes_nowhere() -> None:
    assert pipeline("yes", "head -n 100000", output=subprocess.DEVNULL).wait(PATIENCE)[1] == 0
    assert pipeline("ls /proc/none", stderr=subprocess.DEVNULL, check=False).read() == b""
    assert b"/proc/none" in pipeline("ls /proc/none", stderr=subprocess.STDOUT, check=False).read()
    with pytest.raises(ValueError, match=r"subprocess\.PIPE"):
        pipeline("true", stderr=subprocess.PIPE)


def test_without_input_there_is_none() -> None:
    assert pipeline("cat").read() == b""
    assert pipeline(lambda lines: [str(len(list(lines)))]).read() == b"0"


def test_large_data_arrives_whole() -> None:
    data = os.urandom(1 << 20).replace(b"\n", b"") * 8 + b"\n"
    assert pipeline("cat", lambda lines: lines, "cat", input=data).read() == data
    numbers = pipeline("seq 200000", lambda lines: (line for line in lines), "cat")
    assert [int(line) for line in numbers] == list(range(1, 200_001))


def test_text() -> None:
    def double(lines: Iterable[str]) -> Iterator[str]:
        for line in lines:
            yield line.strip() * 2 + "\n"

    assert list(pipeline("echo é", double, text=True)) == ["éé\n"]
    with pipeline("printf a\\\\nb", text=True) as both:
        assert (both.readline(), both.readline(), both.readline()) == ("a\n", "b", "")


def test_functions_see_what_the_caller_sees() -> None:
    seen: list[bytes] = []

    def keep(lines: Iterable[bytes]) -> None:
        seen.extend(lines)

    assert pipeline("printf 'a\\nb\\n'", keep).wait() == [0, 0]
    assert seen == [b"a\n", b"b\n"]


def test_lines_come_as_soon_as_they_are_there() -> None:
    """Nothing is held back while a stage waits for more input."""
    with isthmus.Pipe() as pipe, pipeline(upper, upper, input=pipe.reader) as running:
        for word in (b"one\n", b"two\n"):
            pipe.writer.write(word)
            assert running.readline(PATIENCE) == word.upper()
        with pytest.raises(isthmus.Empty):
            running.readline(0.05)
        running.close()  # functions that wait are ended too
        assert running.exit_codes[0] == -signal.SIGTERM
        assert running.exit_codes[1] in (-signal.SIGTERM, 0)  # the end of the first may come first


# ---------------------------------------------------------------------------------------- failures


def test_exit_codes_are_those_of_pipefail() -> None:
    failing = [[PYTHON, "-c", f"import sys; sys.stdin.read(); sys.exit({code})"] for code in (3, 0, 5, 0)]
    running = pipeline(*failing, check=False)
    assert running.read() == b""
    assert (running.exit_codes, running.exit_code) == ([3, 0, 5, 0], 5)
    with pytest.raises(isthmus.StageFailed, match=r"stage 3 of 4, .*, exited with 5") as caught:
        pipeline(*failing).read()
    assert (caught.value.stage, caught.value.exit_code) == (3, 5)
    assert caught.value.name.startswith(PYTHON)


@pytest.mark.parametrize("call", [list, lambda p: p.read(), lambda p: p.wait(), lambda p: [p.readline()]])
def test_every_way_to_the_end_tells_of_a_failure(call: Any) -> None:
    with pytest.raises(isthmus.StageFailed, match="stage 2 of 2, 'false', exited with 1"):
        call(pipeline("true", "false"))


def test_a_function_that_raises_is_the_cause() -> None:
    def broken(lines: Iterable[bytes]) -> Iterator[bytes]:
        yield b"first\n"
        raise KeyError("oh")

    lines: list[bytes] = []
    with pytest.raises(isthmus.StageFailed, match=r"stage 2 of 3, 'broken', raised KeyError: 'oh'") as caught:
        lines.extend(pipeline("seq 3", broken, "cat"))
    assert isinstance(caught.value.__cause__, KeyError)
    assert caught.value.exit_code == 1
    with pytest.raises(isthmus.StageFailed, match="bytes or str"):
        pipeline(lambda _: [3]).read()  # type: ignore[list-item]
    with pytest.raises(ZeroDivisionError):
        pipeline("cat", input=(b"%d" % (1 // number) for number in (1, 0))).read()


def test_a_program_that_is_killed() -> None:
    running = pipeline("sleep 600", "cat")
    os.kill(running.progress()[0].pid or 0, signal.SIGKILL)
    text = "stage 1 of 2, 'sleep 600', was killed by SIGKILL"
    with pytest.raises(isthmus.StageFailed, match=text) as caught:
        running.read(PATIENCE)
    assert caught.value.exit_code == -9


def test_programs_that_are_not_there_are_named_and_the_others_ended() -> None:
    before = open_fds()
    with pytest.raises(FileNotFoundError, match="stage 3 of 3, 'nosuchprogram -x'"):
        pipeline("sleep 600", upper, "nosuchprogram -x")
    with pytest.raises(PermissionError, match="stage 1 of 1, '/etc/passwd'"):
        pipeline("/etc/passwd")
    wait_until(lambda: open_fds() <= before, "descriptors to be closed")


@pytest.mark.parametrize("wrong", ["", "  ", "'open", 3, None, [], [3]])
def test_what_is_no_stage(wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="stage 2 of 2"):
        pipeline("true", wrong)
    with pytest.raises(ValueError, match="at least one"):
        pipeline()
    with pytest.raises(TypeError, match="input is 3"):
        pipeline("cat", input=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="'out': an open file"):
        pipeline("cat", output="out")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="an open file"):
        pipeline("cat", output=io.BytesIO())


# ---------------------------------------------------------------------------------------- the end


def test_an_early_readers_exit_ends_the_writers() -> None:
    running = pipeline("yes", upper, "yes", "head -n 2")
    assert list(running) == [b"y\n", b"y\n"]
    assert running.exit_code == 0  # that nobody read on is no failure
    assert running.exit_codes[3] == 0
    assert running.exit_codes[2] == -signal.SIGPIPE
    endless = pipeline("yes", upper, upper, "head -n 1", input=iter(lambda: b"more", b""))
    assert list(endless) == [b"Y\n"]
    assert endless.exit_codes == [-13, -13, -13, 0]


def test_leaving_a_loop_early_ends_everything() -> None:
    running = pipeline("yes", upper)
    for line in running:
        assert line == b"Y\n"
        break
    running.close()
    assert running.closed
    assert no_children(running)
    assert None not in running.exit_codes
    with pytest.raises(isthmus.ClosedError):
        running.read()


def test_close_ends_what_neither_reads_nor_writes() -> None:
    stubborn = [PYTHON, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"]
    with pipeline("sleep 600", stubborn, "sleep 600") as running:
        os.kill(running.progress()[2].pid or 0, signal.SIGSTOP)
        wait_until(lambda: process_state(running.progress()[2].pid or 0) == "T", "it to stop")
        running.close(grace=1.5)  # enough for the first to end by itself
    assert no_children(running)
    codes = running.exit_codes
    assert codes[0] == -signal.SIGTERM
    assert codes[2] in (-signal.SIGTERM, -signal.SIGKILL)


def test_kill() -> None:
    running = pipeline("sleep 600", "sleep 600")
    running.kill()
    assert running.exit_codes == [-9, -9]


def test_collected_pipelines_leave_nothing() -> None:
    before = open_fds()
    running = pipeline("sleep 600", upper)
    pid = running.progress()[0].pid
    del running
    wait_until(lambda: is_over(pid), "the program to end")
    wait_until(lambda: open_fds() <= before, "descriptors to be closed")


def test_timeouts() -> None:
    running = pipeline("sleep 600", upper)
    with pytest.raises(isthmus.Empty):
        running.read(0.05)
    with pytest.raises(isthmus.Empty):
        running.readline(0)
    with pytest.raises(isthmus.Timeout):
        running.wait(0.05)
    assert running.exit_codes == [None, None]
    running.close()
    for call in (list, lambda p: p.read(), lambda p: p.read(500), lambda p: p.wait(), lambda p: p.readline()):
        running = pipeline("sleep 600", "cat", timeout=0.1)
        with pytest.raises(
            isthmus.Timeout, match=r"not over in 0\.1 s, and ended: 'sleep 600', 'cat' still ran"
        ):
            call(running)
        assert no_children(running)


def test_progress_on_request() -> None:
    with isthmus.Pipe() as pipe, pipeline("cat", upper, "cat", input=pipe.reader) as running:
        pipe.writer.write(b"12345\n" * 1000)
        for _ in range(1000):
            running.readline(PATIENCE)
        first, second, third = running.progress()
        assert (first.name, second.name, third.name) == ("cat", "upper", "cat")
        assert (first.running, first.exit_code, second.pid) == (True, None, None)
        assert (first.read or 0) >= 6000
        assert (first.written or 0) >= 6000
        assert (second.read, second.written) == (6000, 6000)
        pipe.writer.close()
        pipe.reader.close()
        assert running.read(PATIENCE) == b""
        assert [stage.exit_code for stage in running.progress()] == [0, 0, 0]


def test_killing_the_caller_leaves_no_stage_behind(tmp_path: Path) -> None:
    code = """
        import isthmus, sys, time
        sys.stdout.reconfigure(line_buffering=True)
        stubborn = ["sh", "-c", "trap '' TERM PIPE; sleep 600"]
        p = isthmus.pipeline("sleep 600", lambda lines: lines, stubborn, "cat")
        print(*[stage.pid for stage in p.progress() if stage.pid])
        time.sleep(600)
        """
    import subprocess

    with program(code, stdout=subprocess.PIPE) as caller:
        assert caller.stdout is not None
        pids = [int(word) for word in caller.stdout.readline().split()]
        assert len(pids) == 3
        assert not any(map(is_over, pids))
        caller.kill()
        caller.wait()
        wait_until(lambda: all(map(is_over, pids)), "the stages to end")


def test_stages_outlive_the_thread_that_asked_for_them() -> None:
    started: list[isthmus.Pipeline] = []
    thread = threading.Thread(target=lambda: started.append(pipeline("sleep 600", "cat")))
    thread.start()
    thread.join()
    (running,) = started
    time.sleep(0.1)  # the kernel would have killed them by now
    assert running.exit_codes == [None, None]
    running.close()


def test_a_stopped_stage_delays_and_loses_nothing() -> None:
    with isthmus.Pipe() as pipe, pipeline("cat", "wc -l", input=pipe.reader) as running:
        pipe.reader.close()
        pid = running.progress()[0].pid or 0
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: process_state(pid) == "T", "it to stop")

        def feed() -> None:
            with pipe.writer as writer:
                writer.write(b"line\n" * 300_000)

        thread = threading.Thread(target=feed)
        thread.start()
        with pytest.raises(isthmus.Empty):
            running.read(0.2)
        os.kill(pid, signal.SIGCONT)
        assert running.read(PATIENCE) == b"300000\n"
        thread.join()


def test_ctrl_c_ends_the_loop_and_the_stages() -> None:
    out = run_python(
        """
        import isthmus, os, signal, threading
        pids = []
        try:
            with isthmus.pipeline("sleep 600", "cat") as p:
                pids = [stage.pid for stage in p.progress()]
                threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
                for line in p:
                    pass
        except KeyboardInterrupt:
            print("interrupted", [os.path.exists(f"/proc/{pid}") for pid in pids])
        """
    )
    assert out == "interrupted [False, False]\n"


def test_after_a_fork_the_child_has_its_own_starter() -> None:
    out = run_python(
        """
        import isthmus, os, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        assert isthmus.pipeline("echo a").read() == b"a\\n"
        pid = os.fork()
        if pid == 0:
            good = isthmus.pipeline("echo b", lambda lines: lines).read(20) == b"b\\n"
            os._exit(0 if good else 1)
        print(os.waitpid(pid, 0)[1])
        """
    )
    assert out == "0\n"


def test_standard_error_cwd_and_environment(tmp_path: Path) -> None:
    with (tmp_path / "errors").open("wb") as errors:
        running = pipeline(
            ["sh", "-c", "echo oops >&2; pwd; echo $WORD"], stderr=errors, cwd=tmp_path, env={"WORD": "x"}
        )
        assert running.read() == f"{tmp_path}\nx\n".encode()
    assert (tmp_path / "errors").read_bytes() == b"oops\n"
    assert "sh -c" in repr(running)
