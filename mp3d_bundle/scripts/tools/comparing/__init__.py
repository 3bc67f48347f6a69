"""The work behind ``python -m scripts compare-scans``: files and words; `workflows.comparing` has the rules."""
