"""Command line of `scripts.tools.run_demo`: ``python -m scripts.demo --help``."""

from .cli import command_line

if __name__ == "__main__":
    command_line("tools.run_demo", "main")
