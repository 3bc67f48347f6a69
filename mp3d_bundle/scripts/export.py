"""Command line of `scripts.tools.export_detector`: ``python -m scripts.export --help``."""

from .cli import command_line

if __name__ == "__main__":
    command_line("tools.export_detector", "export")
