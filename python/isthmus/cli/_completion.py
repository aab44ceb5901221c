"""``isthmus completion``: what makes a shell complete commands, options and the names of objects.

The scripts are made from the parser, so they know what it knows. Names are asked for when they are completed
(`isthmus ls --names`). They come from other processes: the scripts compare and quote them, and never evaluate
one.
"""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING, NamedTuple

from isthmus.cli._parser import parser

if TYPE_CHECKING:
    from collections.abc import Callable

KINDS = (
    "barrier", "bounded_semaphore", "condition", "event", "memory", "mutex", "queue", "rlock", "rwlock",
    "semaphore", "value",
)  # fmt: skip
TYPES = ("bytes", "str", "int", "float", "bool", "dict", "list", "object")


class Option(NamedTuple):
    """An option of a command."""

    names: list[str]
    help: str
    takes: str
    """What stands behind it, by the metavar of its argument; empty for nothing."""
    words: list[str]
    """All that may stand behind it, where that is known."""


class Command(NamedTuple):
    """A command as a shell must know it."""

    name: str
    help: str
    options: list[Option]
    takes: str
    """What it is given, by its metavar; empty for nothing."""
    words: list[str]


def run(options: argparse.Namespace) -> int:
    """Print the script for a shell."""
    scripts: dict[str, Callable[[list[Command]], str]] = {"bash": bash, "zsh": zsh, "fish": fish}
    print(scripts[options.shell](commands()), end="")
    return 0


def commands() -> list[Command]:
    """Return all commands, from the parser."""
    all_of_it = parser()
    (subparsers,) = (one for one in all_of_it._actions if isinstance(one, argparse._SubParsersAction))
    about = {one.dest: one.help or "" for one in subparsers._choices_actions}
    return [_command(name, about[name], one) for name, one in subparsers.choices.items()]


def _command(name: str, about: str, command: argparse.ArgumentParser) -> Command:
    options, takes, words = [], "", []
    for action in command._actions:
        metavar = str(action.metavar or "") if action.nargs != 0 else ""
        choices = {"TYPE": TYPES, "KIND": KINDS}.get(metavar) or action.choices or ()
        if action.option_strings:
            metavar = metavar or ("WORD" if choices else "")
            options.append(Option(list(action.option_strings), action.help or "", metavar, list(choices)))
        else:
            takes, words = metavar, list(choices)
    return Command(name, about, options, takes, words)


_BASH = """\
# Completion of isthmus for bash: eval "$(isthmus completion bash)"
_isthmus() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} command= takes= words= name at
    local -a space=()
    COMPREPLY=()
    for ((at = 1; at < COMP_CWORD; at++)); do
        case ${{COMP_WORDS[at]}} in
            --namespace) space=(--namespace "${{COMP_WORDS[++at]}}") ;;
            -*) ;;
            *)
                if [[ -z $command ]]; then command=${{COMP_WORDS[at]}}
                elif [[ $command == demo && ${{COMP_WORDS[at]}} == frames ]]; then command='demo frames'
                fi ;;
        esac
    done
    case "$command:$prev" in
{values}
    esac
    if [[ -z $takes && $cur == -* ]]; then
        takes=WORDS
        case $command in
{options}
        esac
    elif [[ -z $takes ]]; then
        case $command in
{arguments}
        esac
    fi
    case $takes in
        WORDS) COMPREPLY=($(compgen -W "$words" -- "$cur")) ;;
        DIR) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- "$cur") ;;
        PATH)
            compopt -o filenames
            mapfile -t COMPREPLY < <(compgen -f -- "$cur")
            [[ $COMP_CWORD == 2 && frames == "$cur"* ]] && COMPREPLY+=(frames) ;;
        QUEUE | NAME)
            [[ $takes == QUEUE ]] && space+=(--kind queue)
            while IFS= read -r name; do
                [[ $name == "$cur"* ]] && COMPREPLY+=("$(printf %q "$name")")
            done < <("${{COMP_WORDS[0]}}" ls --names "${{space[@]}}" 2> /dev/null) ;;
    esac
}}
complete -F _isthmus isthmus
"""


def bash(all_of_them: list[Command]) -> str:
    """Return the script for bash, which needs nothing but bash 4."""
    values, options, arguments = [], [], []
    for one in all_of_them:
        for option in one.options:
            if option.takes:
                patterns = " | ".join(shlex.quote(f"{one.name}:{name}") for name in option.names)
                values.append(f"        {patterns}) {_bash_takes(option.takes, option.words)} ;;")
        names = " ".join(name for option in one.options for name in option.names if name.startswith("--"))
        options.append(f"            {shlex.quote(one.name)}) words='{names}' ;;")
        if one.takes:
            arguments.append(f"            {shlex.quote(one.name)}) {_bash_takes(one.takes, one.words)} ;;")
    words = " ".join(sorted({one.name.split()[0] for one in all_of_them}))
    options.append("            '') words='--help --version' ;;")
    arguments.append(f"            '') takes=WORDS words='{words}' ;;")
    return _BASH.format(values="\n".join(values), options="\n".join(options), arguments="\n".join(arguments))


def _bash_takes(takes: str, words: list[str]) -> str:
    return f"takes=WORDS words='{' '.join(words)}'" if words else f"takes={takes}"


_ZSH = """\
#compdef isthmus
# Completion of isthmus for zsh: eval "$(isthmus completion zsh)", after compinit
_isthmus_names() {{
    local -a found space
    [[ -n ${{opt_args[--namespace]}} ]] && space=(--namespace "${{(Q)opt_args[--namespace]}}")
    found=("${{(@f)$(isthmus ls --names "${{space[@]}}" "$@" 2> /dev/null)}}")
    compadd -- "${{(@)found:#}}"
}}
_isthmus() {{
    local context state line curcontext="$curcontext"
    local -A opt_args
    local -a commands
    commands=(
{commands}
    )
    _arguments -C '(- *)'{{-h,--help}}'[show help]' '(- *)--version[show the version]' \\
        '1: :->command' '*:: :->rest'
    case $state in
        command) _describe command commands ;;
        rest)
            local command=$words[1]
            if [[ $command == demo && $words[2] == frames ]]; then
                command='demo frames'
                shift words
                (( CURRENT-- ))
            fi
            case $command in
{cases}
            esac ;;
    esac
}}
compdef _isthmus isthmus
"""
_ZSH_ACTIONS = {
    "QUEUE": " _isthmus_names --kind queue",
    "NAME": " _isthmus_names",
    "DIR": "_directories",
    "PATH": "_files",
}


def zsh(all_of_them: list[Command]) -> str:
    """Return the script for zsh."""
    shown, cases = [], []
    for one in all_of_them:
        if " " not in one.name:
            shown.append(f"        {_zsh_quote(f'{one.name}:{one.help}')}")
        specs = []
        for option in one.options:
            text = option.help.replace("[", "(").replace("]", ")").replace(":", "\\:")
            behind = f":{option.takes}:{_zsh_action(option.takes, option.words)}" if option.takes else ""
            specs += [_zsh_quote(f"{name}[{text}]{behind}") for name in option.names]
        if one.takes:
            many = "*" if one.name == "rm" else "1"
            specs.append(_zsh_quote(f"{many}:{one.takes}:{_zsh_action(one.takes, one.words)}"))
        arguments = " \\\n                    ".join(specs)
        cases.append(
            f"                {_zsh_quote(one.name)}) _arguments \\\n                    {arguments} ;;"
        )
    return _ZSH.format(commands="\n".join(shown), cases="\n".join(cases))


def _zsh_action(takes: str, words: list[str]) -> str:
    return f"({' '.join(words)})" if words else _ZSH_ACTIONS.get(takes, " ")


def _zsh_quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


_FISH = """\
# Completion of isthmus for fish: isthmus completion fish > ~/.config/fish/completions/isthmus.fish
function __isthmus_names
    set -l words (commandline -opc)
    set -l space
    if set -l at (contains -i -- --namespace $words)
        set space --namespace $words[(math $at + 1)]
    end
    isthmus ls --names $space $argv 2> /dev/null
end
complete -c isthmus -f
complete -c isthmus -n __fish_use_subcommand -l version -d 'show the version'
complete -c isthmus -s h -l help -d 'show help'
"""
_FISH_ACTIONS = {
    "QUEUE": "-a '(__isthmus_names --kind queue)'",
    "NAME": "-a '(__isthmus_names)'",
    "DIR": "-a '(__fish_complete_directories)'",
    "PATH": "-F",
}


def fish(all_of_them: list[Command]) -> str:
    """Return the script for fish."""
    rows = [_FISH.rstrip("\n")]
    for one in all_of_them:
        first, _, second = one.name.partition(" ")
        seen = f"__fish_seen_subcommand_from {first}"
        if second:
            seen += f"; and __fish_seen_subcommand_from {second}"
            start = f"complete -c isthmus -n '__fish_seen_subcommand_from {first}'"
            rows.append(f"{start} -a {second} -d {_fish_quote(one.help)}")
        else:
            rows.append(f"complete -c isthmus -n __fish_use_subcommand -a {first} -d {_fish_quote(one.help)}")
        start = f"complete -c isthmus -n '{seen}'"
        for option in one.options:
            if "--help" in option.names:
                continue
            names = " ".join(
                f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names
            )
            behind = f" -x {_fish_action(option.takes, option.words)}".rstrip() if option.takes else ""
            rows.append(f"{start} {names}{behind} -d {_fish_quote(option.help)}")
        if one.takes:
            rows.append(f"{start} {_fish_action(one.takes, one.words)}")
    return "\n".join(rows) + "\n"


def _fish_action(takes: str, words: list[str]) -> str:
    return f"-a {_fish_quote(' '.join(words))}" if words else _FISH_ACTIONS.get(takes, "")


def _fish_quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
