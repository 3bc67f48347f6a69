"""Command line of `scripts.tools.check_machine`: ``python -m scripts.doctor --help``."""

from .cli import command_line

if __name__ == "__main__":
    command_line("tools.check_machine", "doctor")
