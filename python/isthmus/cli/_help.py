"""What `--help` says besides the options: examples, what a command does, exit codes."""

from __future__ import annotations

COMMANDS = """\
examples:
  seq 1000 | isthmus put jobs   a message from each line, into a queue that is made if need be
  isthmus get jobs --follow     take messages, and wait for more
  isthmus inspect jobs          who uses it, what is in it, without taking anything
  isthmus ls                    what is in the namespace, how full, and who is attached
  isthmus rm jobs               remove an object
  isthmus doctor                find deadlocks and who is in the way
  isthmus clean                 remove what killed processes left behind
  isthmus demo --kill 5         count words with queues, while workers are killed
  isthmus demo frames           pass on video frames between processes without copying them
  isthmus completion bash       completion for your shell: eval "$(isthmus completion bash)"
  isthmus COMMAND --help        more on one command

exit codes: 0 done; 1 failed; 2 wrong arguments; 3 no message, or no room, in time; 130 interrupted
"""

PUT = """\
examples:
  isthmus put jobs < jobs.txt              a message from each line
  find . -name '*.png' -print0 | isthmus put images --null
  isthmus put photos --whole < photo.jpg   one message, all of the input
  echo '{"id": 1}' | isthmus put tasks --type dict
  isthmus put jobs --timeout 5 < more.txt || echo full

Where there is no queue of that name, put makes one that stays until it is removed (isthmus rm). Messages are
bytes, or what --type says: `str`, or a type that msgspec knows such as `int`, `dict` or `list[int]`, whose
messages are lines of JSON. Where the queue is full, put waits for room.

exit codes: 0 all of the input was put; 1 failed; 2 wrong arguments; 3 no room in time (--timeout);
130 interrupted. Where it ends early it says how many messages were put.
"""

GET = """\
examples:
  isthmus get jobs                         all messages that are there, a line each
  isthmus get jobs --follow | while read -r job; do echo "$job"; done
  job=$(isthmus get jobs -n 1 --timeout 10) || echo nothing to do
  isthmus get photos -n 1 --whole > photo.jpg
  isthmus get images --null | xargs -0 rm
  isthmus get old --json | isthmus put new --json

A message is taken for good only when it has been written: where that fails, or get is killed, it goes back to
the queue, before all others. Killed at the very moment between the two, it may be written twice.

exit codes: 0 done; 1 failed; 2 wrong arguments; 3 fewer messages than -n asked for came in time;
130 interrupted. A reader that goes away is no error.
"""

INSPECT = """\
examples:
  isthmus inspect jobs
  isthmus inspect jobs --messages 100 --bytes 40
  isthmus inspect jobs --json | jq '.state.depth'

Nothing is opened, taken or locked: nobody who uses the object can notice. Messages that are pickled objects
are shown as bytes, never unpickled.

exit codes: 0 done; 1 no such object, or a damaged one (what can be seen of it is shown); 2 wrong arguments
"""

LS = """\
examples:
  isthmus ls
  isthmus ls --json | jq '.[] | select(.depth > 0) | .name'
  isthmus ls --names --kind queue
  isthmus ls --namespace /dev/shm/isthmus-1000
  isthmus ls --kernel           the kernel's queues, semaphores and memory, of all programs

--kernel shows POSIX message queues (where /dev/mqueue is mounted), semaphores and shared memory, and those of
System V, with the processes that use them as far as this user may see it.
"""

RM = """\
examples:
  isthmus rm jobs
  isthmus rm --force jobs       although a process uses it: that one keeps what it has

exit codes: 0 all removed; 1 one of them is not there, is in use, or is no object; 2 wrong arguments
"""

CLEAN = """\
examples:
  isthmus clean --dry-run       only say what would go
  isthmus clean

Objects that a living process uses and persistent ones stay.
"""

DOCTOR = """\
examples:
  isthmus doctor
  isthmus doctor --hold-limit 1

Each deadlock is a sentence: which thread or task of which process waits for what, and who has it.

exit codes: 0 no deadlock; 1 at least one; 2 wrong arguments
"""

COMPLETION = """\
examples:
  eval "$(isthmus completion bash)"                                       in ~/.bashrc
  eval "$(isthmus completion zsh)"                                        in ~/.zshrc, after compinit
  isthmus completion fish > ~/.config/fish/completions/isthmus.fish

Commands, options and the names of objects are completed.
"""

DEMO = """\
examples:
  isthmus demo                            the running Python's standard library
  isthmus demo ~/notes --workers 4        every text file below a folder
  isthmus demo --capacity 256K --json     small queues, numbers for a program
  isthmus demo --kill 10                  ten workers are killed on the way, and nothing is lost
  isthmus demo --all                      every mechanism at work between two processes, a line each

One reader process, several workers and one collector, joined by two queues, count the words of every text
file below PATH. The same files are then counted in one process, and both counts are compared. The exit code
is 0 only if they agree. Files that are not text or cannot be read are skipped, and the result says how many.
"""

FRAMES = """\
examples:
  isthmus demo frames                              300 frames of 1920x1080, as fast as it goes
  isthmus demo frames --seconds 10 --rate 30       as a camera would send them
  isthmus demo frames --size 640x480 --json        small frames, numbers for a program

A camera process fills RGB frames where a detector process reads them, in the memory of a queue. The detector
finds a moving square, and computes a picture where the viewer reads it, in the memory of a second queue. The
viewer, this command, compares each picture with what the camera had drawn. The exit code is 0 only if every
frame came, in order and intact. Needs NumPy: pip install 'isthmus[demo]'
"""
