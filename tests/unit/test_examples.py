"""The programs in `examples/` do what they say, as a user starts them."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support import PATIENCE, object_files

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def run(name: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name)],
        env={**os.environ, "PYTHONWARNINGS": "error"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout.splitlines()


def test_producers_wait_for_room_and_every_item_is_used_once(namespace: Path) -> None:
    lines = run("producer_consumer.py")
    assert lines[-1] == "80 items made, 80 used, each once, and those of one producer in order"
    made = [re.fullmatch(r"producer \d: 40 items made, waited for room (\d+) times", line) for line in lines]
    waits = [int(match[1]) for match in made if match]
    assert len(waits) == 2
    assert sum(waits) > 0
    used = [re.fullmatch(r"consumer \d: (\d+) items used", line) for line in lines]
    assert sum(int(match[1]) for match in used if match) == 80
    assert object_files(namespace) == []


def test_a_killed_printer_loses_no_job_and_urgent_ones_come_first(namespace: Path) -> None:
    lines = run("print_spooler.py")
    assert lines[0].startswith("3 clients have sent 5 documents: ")
    found = [re.match(r"printer (\d) takes '(.+)' of .*?, \w+(, delivery \d)?$", line) for line in lines]
    takes = [(match[1], match[2], match[3]) for match in found if match]
    titles = [title for _, title, _ in takes]
    assert titles[:2] == ["contract", "fire alarm plan"]  # one was sent while the other was printed
    # The clients are not in step with each other: two normal ones, two drafts.
    assert titles[2:-2] in (["thesis", "thesis", "invoice"], ["invoice", "thesis", "thesis"])
    assert sorted(titles[-2:]) == ["poster", "recipe"]
    again = titles.index("thesis") + 1
    assert takes[again - 1 : again + 1] == [("1", "thesis", None), ("2", "thesis", ", delivery 2")]
    assert all(delivery is None for _, title, delivery in takes if title != "thesis")
    (death,) = [number for number, line in enumerate(lines) if line.startswith("***")]
    assert re.fullmatch(
        r"\*\*\* printer 1 was killed by SIGKILL with 'thesis' in hand, [34] wait", lines[death]
    )
    assert "printer 1 is done with 'thesis'" not in lines
    assert "printer 2 is done with 'thesis'" in lines
    assert not any(line.startswith("printer 1") for line in lines[death:])
    assert lines[-1] == "6 documents sent, 6 printed, 0 lost"
    assert object_files(namespace) == []


def test_a_killed_worker_leaves_its_lines_in_the_picture(namespace: Path) -> None:
    lines = run("shared_array.py")
    assert lines[0] == "a worker was killed by SIGKILL, 3 lines done"
    assert lines[1] == "lines taken and not done: [3]"
    picture = lines[2:-1]
    assert len(picture) == 28
    assert picture == picture[::-1], "the set is symmetric"
    assert sum(line.count("@") for line in picture) > 250
    assert lines[-1] == "28 lines of 72 points, each computed"
    assert object_files(namespace) == []


def test_a_display_without_isthmus_reads_what_a_killed_station_left(namespace: Path) -> None:
    before = set(Path("/dev/shm").glob("weather-*"))
    lines = run("shared_memory.py")
    shown = "display: 12.4 degrees, 1004 hPa, wind 7.0 m/s (change 10)"
    assert lines[1:] == [
        shown,
        "station: killed by SIGKILL",
        shown,
        "display: 20.9 degrees, 1004 hPa, wind 7.0 m/s (change 20)",
        "station: killed by SIGKILL",
        "the memory is removed",
    ]
    assert set(Path("/dev/shm").glob("weather-*")) <= before


def test_counters_in_a_file_are_exact_although_a_server_was_killed(namespace: Path) -> None:
    lines = run("mapped_file.py")
    found = [re.match(r"\w+ +(\d+) visits +(\d+) s", line) for line in lines[:4]]
    numbers = [(int(match[1]), int(match[2])) for match in found if match]
    assert len(numbers) == 4
    assert sum(visits - seconds for visits, seconds in numbers) in (0, 1)
    last = re.fullmatch(r"(\d+) visits of the killed server and 1200 of the others", lines[4])
    assert last
    assert sum(visits for visits, _ in numbers) == int(last[1]) + 1200
    assert int(last[1]) > 0


def test_a_killed_worker_at_a_pipe_is_replaced_and_every_number_is_factored() -> None:
    lines = run("pipe.py")
    products = [re.fullmatch(r"(\d+) = ([\d *]+)", line) for line in lines]
    found = [
        (int(match[1]), [int(factor) for factor in match[2].split(" * ")]) for match in products if match
    ]
    assert len(found) == 8
    assert all(math.prod(factors) == number for number, factors in found)
    assert lines[3] == "*** the worker was killed with 65536 in hand; a new one takes over"
    assert lines[-1] == "8 numbers sent, 8 factored, the worker left with code 0"


def test_programs_and_functions_rank_words() -> None:
    assert run("pipeline.py") == [
        "better     ######## 8",
        "than       ######## 8",
        "although   ### 3",
        "idea       ### 3",
        "never      ### 3",
        "7 stages, exit code 0",
        "stage 2 of 3, 'grep python-the-snake', exited with 1",
    ]


def test_a_help_desk_is_replaced_and_leaves_only_its_fifos() -> None:
    assert run("fifo.py") == [
        "Atlantis: I do not know",
        "Chile: Santiago",
        "Kenya: Nairobi",
        "Nepal: Kathmandu",
        "the desk thinks",
        "why?: *** the desk was killed",
        "Panama: Panama City",
        "closing time",
        "go home: bye",
        "left behind: desk, log",
    ]


def test_what_a_killed_loop_had_on_lease_is_done_by_another(namespace: Path) -> None:
    killed, end = run("asyncio_workers.py")
    assert re.fullmatch(r"\*\*\* worker [12] was killed with 20 pages done", killed)
    match = re.fullmatch(r"80 pages ordered, 80 fetched, (\d+) of them by another worker, 0 lost", end)
    assert match
    # Ten tasks, each with a page in hand but for those that were between two.
    assert 1 <= int(match[1]) <= 10
    assert object_files(namespace) == []


def test_a_telegraph_loses_no_letter() -> None:
    assert run("signals.py") == [
        "the first letter is W, of the operator: True",
        "WHAT HATH GOD WROUGHT",
        "then SIGUSR1 came by kill, with the number None",
        "the operator has ended with 0",
    ]


def test_a_night_shift_goes_home_and_loses_no_job(namespace: Path) -> None:
    assert run("night_shift.py") == [
        "3 workers have begun, Ben is asleep",
        "it is 22 o'clock: everybody goes home",
        "Anna went with exit code 0",
        "Ben went with exit code 0",
        "Carl was killed",
        "10 jobs: 2 done, 8 left, 0 lost",
    ]
    assert object_files(namespace) == []


def test_emergency_calls_are_answered_by_urgency_and_none_is_lost() -> None:
    assert run("posix_mq.py") == [
        "4 calls wait, and their callers have hung up",
        "caller 5: all lines are busy, I hold",
        "the dispatcher is back",
        "urgency 9: fire, says caller 3",
        "urgency 7: accident, says caller 4",
        "urgency 1: cat on a tree, says caller 1",
        "urgency 0: noise, says caller 2",
        "urgency 0: lost key, says caller 5",
        "urgency 9: heart attack, says caller 6",
        "no call: b'hee hee'",
        "6 of 6 calls answered",
    ]


def test_a_wreck_keeps_its_space_until_it_is_towed_away() -> None:
    lines = run("named_semaphore.py")
    assert "car 2 is a wreck in its space: 2 of 3 spaces are free" in lines
    match = re.fullmatch(
        r"7 cars have parked and left, never more than ([123]) at a time, 1 was towed away", lines[-2]
    )
    assert match
    assert lines[-1] == "3 spaces are free"


def test_what_a_killed_program_left_is_found_and_removed() -> None:
    assert run("sysv.py") == [
        "the program was killed; the kernel still has of it:",
        "- a queue of 0 messages",
        "- 2 semaphores, (0, 0)",
        "- 1,048,576 bytes of memory, abandoned",
        "removed: 0 are left",
    ]


@pytest.mark.parametrize("path", [pytest.param(path, id=path.name) for path in EXAMPLES])
def test_each_example_is_explained_in_the_docs(path: Path) -> None:
    assert f'--8<-- "examples/{path.name}"' in (ROOT / "docs" / "examples.md").read_text()
