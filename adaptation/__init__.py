"""What adapt.py is made of: rows.py (which rows learn), memory.py (replay), refusals.py (what is refused beforehand),
stages.py (a stage, from its flags to its result, and the metrics)."""
