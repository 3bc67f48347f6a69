"""The work behind the command-line modules: demo, export, weights files, counts, synthetic sets.

May import everything but the command-line modules; only those import it.
"""
