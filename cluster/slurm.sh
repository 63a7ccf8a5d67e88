#!/bin/sh
# A study on a Slurm allocation: Ray's head on the first node, a worker of Ray on each other one, the study on the head.
#
#   sbatch --nodes=4 --gpus-per-node=4 cluster/slurm.sh paper_a --results /shared/results/paper_a
#
# Lines to change: the #SBATCH lines below, for your partition and account. The project and its environment lie in a
# folder that all nodes share: `sh cluster/node.sh setup` makes ~/venv, once, on a node with the GPU driver. Results go
# to a shared folder or a bucket. When the time is up, submit the same command again: it goes on where it stopped.
#
#SBATCH --job-name=calibration-sweep
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=12:00:00
#SBATCH --signal=B:INT@120
set -eu

test $# -gt 0 || { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
PROJECT=${SLURM_SUBMIT_DIR:-$PWD}
NODE_SH=$PROJECT/cluster/node.sh
export VENV=${VENV:-$HOME/venv}
# Jobs of the same user may share a node, and a token keeps other users of the cluster out.
RAY_PORT=$((20000 + SLURM_JOB_ID % 20000))
RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$("$VENV/bin/python" -c 'import secrets; print(secrets.token_hex(32))')
export RAY_PORT RAY_AUTH_MODE RAY_AUTH_TOKEN
# Ray counts the cores of the machine, and a step of Slurm since 22.05 has one core unless it is told.
CPUS=${SLURM_CPUS_PER_TASK:+--num-cpus=$SLURM_CPUS_PER_TASK}
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
RAY_HEAD_IP=$(srun --nodes=1 --ntasks=1 -w "$head" hostname -I | awk '{print $1}')
export RAY_HEAD_IP

# `--block` keeps a step as long as its Ray, so that Slurm ends it with the job.
srun --nodes=1 --ntasks=1 -w "$head" sh "$NODE_SH" head --block --node-ip-address="$RAY_HEAD_IP" $CPUS &
# a busy machine takes node.sh up to three tries of half a minute
tries=60
until "$VENV/bin/python" -c 'import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)' \
    "$RAY_HEAD_IP" "$RAY_PORT" 2>/dev/null; do
    tries=$((tries - 1))
    test $tries -gt 0 || { echo "Ray's head at $RAY_HEAD_IP:$RAY_PORT does not answer" >&2; exit 1; }
    sleep 2
done
workers=
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
    srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) --exclude="$head" sh "$NODE_SH" worker --block $CPUS &
    workers=$!
fi

cd "$PROJECT"
"$VENV/bin/python" -m sweep.launch "$@" --address "$RAY_HEAD_IP:$RAY_PORT" &
study=$!
# two minutes before the end of the allocation: finish writing, say what is kept, and let the same command go on later
# (by TERM: what a shell starts in the background ignores INT)
trap 'kill -TERM $study 2>/dev/null || true' INT TERM
code=0
wait $study || code=$?
kill -0 $study 2>/dev/null && { code=0; wait $study || code=$?; }
# the workers first: a Ray that ends tells its head, and waits half a minute for one that is gone
test -z "$workers" || { kill "$workers" && wait "$workers" || true; }
sh "$NODE_SH" stop
exit $code
