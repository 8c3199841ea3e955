"""`osmo completion SHELL`: a script that completes verbs and options. It asks `osmo` itself for the words, so it is
never older than the program."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

_BASH = """_osmo() {
  local IFS=$'\\n'
  COMPREPLY=($(compgen -W "$(osmo completion words -- "${COMP_WORDS[@]:1:COMP_CWORD-1}" 2>/dev/null)" \\
    -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -o bashdefault -F _osmo osmo
"""
_ZSH = """#compdef osmo
_osmo() {
  local -a found
  found=("${(@f)$(osmo completion words -- ${words[2,CURRENT-1]} 2>/dev/null)}")
  compadd -a found
  _files
}
compdef _osmo osmo
"""
_FISH = """function __osmo_words
  set -l typed (commandline -opc)
  osmo completion words -- $typed[2..-1] 2>/dev/null
end
complete -c osmo -a '(__osmo_words)'
"""
SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


class Completion:
    """Takes every word after `words --` as it is, options too."""

    rest = True

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("shell", choices=(*SCRIPTS, "words"), help="words: what may follow the words after --")

    def run(self, args: argparse.Namespace) -> int:
        if args.shell != "words":
            print(SCRIPTS[args.shell], end="")
            return 0
        typed = args.rest[1:] if args.rest[:1] == ["--"] else args.rest
        print("\n".join(words(args.verbs, typed)))
        return 0


def words(verbs: Mapping[str, tuple[str, Any]], typed: Sequence[str]) -> list[str]:
    """Verbs, or the options of the verb that stands there. `verbs` is the program's own table."""
    from osmo_ray.cli.command import load

    target = ""
    for number, word in enumerate(typed):
        entry = verbs.get(word)
        if entry is None:
            return [] if not number else sorted(verbs)
        if isinstance(entry[1], str):
            target = entry[1]
            break
        verbs = entry[1]
    if not target:
        return sorted(verbs)
    parser = argparse.ArgumentParser(add_help=True)
    load(target).add_arguments(parser)
    return sorted(o for action in parser._actions for o in action.option_strings if o.startswith("--"))


COMPLETION = Completion()
