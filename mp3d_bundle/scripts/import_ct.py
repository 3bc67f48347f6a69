"""Command line of `scripts.tools.import_set`: ``python -m scripts.import_ct --help``."""

from .cli import command_line

if __name__ == "__main__":
    command_line("tools.import_set", "main")
