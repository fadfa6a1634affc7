#!/usr/bin/env bash
# Every fork in variants/ beside fdp, one seed each. Resumes where it was stopped: a finished JSON is kept.
#   study/forks/run.sh         about 45 minutes on 2 cores (two runs at a time, one thread each)
# Evaluated with --seed 7, episodes on which nothing was chosen. Checkpoints go to runs/forks/.
set -euo pipefail
cd "$(dirname "$0")/../.."
export OMP_NUM_THREADS=1

one() {  # name, then the training flags
    local name=$1; shift
    [ -f "study/forks/$name.json" ] && return
    python train.py "$@" --eval-episodes 0 --device cpu --overwrite --out "runs/forks/$name" >/dev/null 2>"runs/forks/$name.log" &&
        python evaluate.py --run "runs/forks/$name" --episodes 50 --seed 7 --out "study/forks/$name.json" >/dev/null 2>>"runs/forks/$name.log"
}
export -f one
mkdir -p runs/forks
python train.py --tasks mt6,reach,push --steps 1 --eval-episodes 0 --overwrite --out runs/forks/demonstrations >/dev/null
# fdp itself is the shipped run, made by the default command.
[ -f study/forks/mt6-fdp.json ] || python evaluate.py --run study/core/mt6 --episodes 50 --seed 7 --out study/forks/mt6-fdp.json >/dev/null
{
    echo "reach-push-flow --tasks reach,push --policy flow"
    echo "mt6-uniform --tasks mt6 --policy uniform"
    echo "mt6-flow --tasks mt6 --policy flow"
    echo "mt6-moe-top1 --tasks mt6 --policy moe --top 1"
    echo "mt6-moe-top2 --tasks mt6 --policy moe --top 2"
    echo "mt6-moe-top2-multinomial --tasks mt6 --policy moe --top 2 --selection multinomial"
    echo "mt6-moe-top1-unbalanced --tasks mt6 --policy moe --top 1 --balance 0"
    echo "mt6-proprioception --tasks mt6 --policy proprioception"
} | xargs -P 2 -I{} bash -c 'one {}'
