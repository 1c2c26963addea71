#!/bin/bash
#SBATCH --job-name=sweep
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --output=/shared/runs/sweep/slurm-%A_%a.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --array=0-1%4
#SBATCH --gres=gpu:a100:1
#
# One torchrun on each node, started by its agent (python -m trainer.agent).
# Leaves with 0 when the run is done; puts itself back into the queue when the run was saved because time ran out.
set -u

case "${SLURM_ARRAY_TASK_ID:-0}" in
0)
  run_dir=/r/a
  program=(-m trainer.train --run-dir /r/a)
  ;;
1)
  run_dir=/r/b
  program=(-m trainer.train --run-dir /r/b)
  ;;
*)
  echo "array task ${SLURM_ARRAY_TASK_ID} is not of this job" >&2
  exit 2
  ;;
esac
cd -- /shared/escala || exit 2
mkdir -p -- "$run_dir/logs" || exit 2
module load cuda

# The meeting point is found here, on the first node: at submission nobody knows which nodes these will be.
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST") || exit 1
first=${nodes%%$'\n'*}
address=$(scontrol -o show node "$first" | sed -n 's/.* NodeAddr=\([^ ]*\).*/\1/p')

# Ranks save on SIGUSR1. This shell passes it on and outlives them, to requeue. SIGTERM reaches it only when the job is
# cancelled (then it must not come back), is taken by Slurm (which requeues it itself), or has run out of time.
step=
ended=0
trap '[ -z "$step" ] || kill -USR1 "$step" 2>/dev/null' USR1
trap 'ended=1; [ -z "$step" ] || kill -TERM "$step" 2>/dev/null' TERM

run_ranks() {
  # A new directory is the claim on the run: an older attempt that still runs sees it and ends.
  attempt=1
  until mkdir -- "$run_dir/logs/$attempt" 2>/dev/null; do
    [ -w "$run_dir/logs" ] || { echo "cannot write to $run_dir/logs" >&2; return 2; }
    attempt=$((attempt + 1))
  done
  local port=$((20000 + (SLURM_JOB_ID * 4 + $1) % 20000))
  echo "attempt $attempt of job $SLURM_JOB_ID on ${nodes//$'\n'/ }, meeting at $address:$port"
  # Agents end each other: srun must not kill those that are still saving because one has left with 75.
  srun --kill-on-bad-exit=0 --container-image=/images/escala.sqsh --container-mounts=/shared:/shared,/data:/data:ro \
    /opt/escala/bin/python -m trainer.agent --run-dir "$run_dir" --attempt "$attempt" \
    --nodes 1 --ranks 1 --restarts 0 \
    --rendezvous "$address:$port" --id "$SLURM_JOB_ID.$attempt" \
    -- "${program[@]}" &
  step=$!
  while kill -0 "$step" 2>/dev/null; do wait "$step"; done
  wait "$step"
}

for try in 0 1 2; do
  run_ranks "$try"
  code=$?
  [ "$code" -eq 98 ] || break # 98: another program holds the port
done

requeue() {
  echo "saved; back into the queue: $1"
  scontrol requeue "$SLURM_JOB_ID" && sleep 60 # Slurm ends this shell
  exit 75
}

if [ "$code" -eq 75 ]; then
  if [ "$ended" -eq 0 ]; then requeue "preempted"; fi
fi
exit "$code"
