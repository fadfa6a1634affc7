"""Command line, run folders, logs, figures, tables: what any project has. Skip it, but for what adapt.py is made of:
rows.py (which rows learn), memory.py (replay), stages.py (a stage, from its flags to its result)."""
