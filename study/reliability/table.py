"""How often each promise was put to the test, and how often it held: one JSON per script, one table of them all.

    from study.reliability.table import row, write
    write("races", {"two commands, one free folder": row(tried, survived, "both end in their own folder")}, seed=0)

`survived` counts what went as promised. The JSON has command, revision, seed and hardware like every result.
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent))
from plumbing.cli import provenance, revision, say, write_json  # noqa: E402

revision()  # now: the scripts that import this run for an hour, and write their results at the end

HEAD = """# Reliability: tried and survived

Every row is a promise, put to the test by a script in this folder; its command and revision stand in the JSON of the
same name. *Survived* counts the tries that went as promised. The test suite has a smaller version of each.
Written by these scripts; do not edit.
"""


def row(tried: int, survived: int, promise: str, **more) -> dict:
    """One line of the table: what was promised, and the counts. `more` goes into the JSON (failures, seconds, ...)."""
    return {"promise": promise, "tried": tried, "survived": survived, **more}


def write(name: str, rows: dict[str, dict], seed: int) -> None:
    """study/reliability/NAME.json, and README.md anew from all of them."""
    write_json(HERE / f"{name}.json", {"rows": rows, **provenance(seed, "cpu")})
    (HERE / "README.md").write_text(readme())
    for what, r in rows.items():
        say(f"{what:<60}{r['survived']:>7} of {r['tried']}")


def readme() -> str:
    """The text of README.md, from the JSONs beside it."""
    lines = [HEAD]
    for path in sorted(HERE.glob("*.json")):
        result = json.loads(path.read_text())
        lines += [f"\n## {path.stem}\n", f"`{result['command']}`, revision {result['revision']}\n"]
        lines += ["| tried | promise | times | survived |", "|---|---|---:|---:|"]
        lines += [f"| {what} | {r['promise']} | {r['tried']:,} | {r['survived']:,} |"
                  for what, r in result["rows"].items()]  # fmt: skip
    return "\n".join(lines) + "\n"
