"""Command line, run folders, logs, figures, tables: what any project has. Skip it."""
