#!/usr/bin/env bash
# Every run behind the README's numbers on adaptation, as commands. Resumes where it was stopped: a finished JSON is kept.
#   study/adapt/run.sh         all of it: over three hours on 2 cores (two at a time, one thread each)
# Checkpoints go to runs/adapt/ and runs/sequence/, results to study/adapt/; the tables and figures are made at the end.
set -euo pipefail
cd "$(dirname "$0")/../.."
export OMP_NUM_THREADS=1
ORDER=door-close,drawer-close,disassemble,window-open

# Evaluated on block 5: episodes on which nothing was ever chosen.
sequence() {  # name, then the flags of adapt.py
    local name=$1; shift
    [ -f "study/adapt/sequence-$name.json" ] && return
    python adapt.py --run study/core/mt6 --sequence "$ORDER" --eval-seed 5 --out "runs/sequence/$name" "$@" >/dev/null &&
        cp "runs/sequence/$name/adaptation.json" "study/adapt/sequence-$name.json"
}
together() {  # the same tasks, learned at once
    local name=$1; shift
    [ -f "study/adapt/together-$name.json" ] && return
    rm -rf "runs/sequence/together-$name"  # what an interrupted run left: adapt.py goes on with sequences only
    python adapt.py --run study/core/mt6 --tasks "$ORDER" --eval-seed 5 --out "runs/sequence/together-$name" "$@" >/dev/null &&
        cp "runs/sequence/together-$name/adaptation.json" "study/adapt/together-$name.json"
}
one_task() { python study/adapt/one_task.py "$@" >/dev/null; }
export -f sequence together one_task
export ORDER

# Make the demonstrations once: 50 of each task, of which runs with fewer use the first.
python train.py --tasks mt6,mt4 --steps 1 --eval-episodes 0 --overwrite --out runs/adapt-demonstrations >/dev/null
{
    # 1. One new task at a time: success on it, and on the six old ones.
    for half in door-close,disassemble drawer-close,window-open; do
        echo "one_task --tasks $half --seeds 0"
    done
    for half in door-close,disassemble drawer-close,window-open; do
        echo "one_task --tasks $half --ways add-exact,full --seeds 1,2"
    done
    # 2. Four tasks in turn.
    for retain in exact replay paper; do echo "sequence $retain-s0 --retain $retain --seed 0"; done
    echo "sequence full-s0 --mode full --seed 0"
    # 3. The same four, learned together.
    for retain in exact replay paper; do echo "together $retain-s0 --retain $retain --seed 0"; done
    echo "together full-s0 --mode full --seed 0"
    # 4. Fewer demonstrations, fewer steps: success on the new task.
    for half in door-close,disassemble drawer-close,window-open; do
        budget="one_task --tasks $half --new-only --out study/adapt/budget"
        for demos in 5 10 50; do echo "$budget --ways add-exact,scratch,full --demos $demos"; done
        for steps in 250 500 1000; do echo "$budget --ways add-exact,scratch,full,add-encoder --steps $steps"; done
        echo "$budget --ways start-0,start-random --steps 250"
    done
} | xargs -P 2 -I{} bash -c '{}'
# 5. Why --retain paper forgets.
python study/adapt/why_paper.py >/dev/null
python study/report.py && python study/plots.py
