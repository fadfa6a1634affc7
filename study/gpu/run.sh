#!/usr/bin/env bash
# What only a GPU can show, section by section; study/gpu/README.md says which question each one answers.
#   bash study/gpu/run.sh                      all sections: eighty minutes at most
#   bash study/gpu/run.sh speed components     some of them
#   ... --peer peer/bin/python                 flags, after the names, go to section.py
# A section whose JSON is there is left out, and one that fails does not stop the others. Demonstrations are made here.
set -uo pipefail
cd "$(dirname "$0")/../.."
names=()
while [[ $# -gt 0 && $1 != -* ]]; do names+=("$1"); shift; done
[[ ${#names[@]} -gt 0 ]] || names=(tests speed mt6-base mt6-small mt6-pixels mt50-small mt50-base one-demonstration components)
failed=()
for name in "${names[@]}"; do
    # Nine minutes, where a command may take ten; sections plan for eight.
    timeout --kill-after=10 540 python study/gpu/section.py "$name" "$@" || failed+=("$name")
done
[[ ${#failed[@]} -eq 0 ]] || { echo "failed: ${failed[*]}" >&2; exit 1; }
