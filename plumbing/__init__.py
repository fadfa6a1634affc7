"""Command line, run folders, logs, figures, tables: what any project has. Nothing here is about diffusion; skip it."""
