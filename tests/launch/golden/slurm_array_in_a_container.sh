#!/bin/bash
#SBATCH --job-name=sweep
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --signal=USR1@120
#SBATCH --output=/shared/runs/sweep/slurm-%A_%a.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --array=0-1%4
#SBATCH --gres=gpu:a100:1
#
# One torchrun on each node, started by its agent (python -m trainer.node.agent).
# Leaves with 0 when the run is done; puts itself back into the queue when the run was saved because time ran out.
# Submitted by `sbatch --parsable --export=ALL`, which decides the environment together with the lines below.
# A task of an array by both its numbers: its own id alone may mean the whole array.
me=${SLURM_ARRAY_TASK_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
me=${me:-$SLURM_JOB_ID}

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
[ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] || rm -f -- "$run_dir/logs/timeouts" # of an earlier submission

# The user's lines, under a shell's usual rules: unset variables are empty, as conda and modules expect.
setup=('module load cuda')
trap 'code=$?; echo "setup failed with code $code: ${setup[LINENO - before_setup]:-$BASH_COMMAND}" >&2; exit "$code"' ERR
before_setup=$((LINENO + 1))
module load cuda
trap - ERR
set +e
set -u
unset SLURM_EXPORT_ENV # srun would start ranks without what was exported above

# A hint for the agents, which agree on the address: at submission nobody knows which nodes these will be.
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST") || exit 1
first=${nodes%%$'\n'*}
hint=$(scontrol -o show node "$first" | sed -n 's/.* NodeAddr=\([^ ]*\).*/\1/p')

# Ranks save on SIGUSR1. This shell passes it on and outlives them, to requeue. SIGTERM reaches it only when the job is
# cancelled (then it must not come back), is taken by Slurm (which requeues it itself), or has run out of time.
step=
ended=0
trap '[ -z "$step" ] || kill -USR1 "$step" 2>/dev/null' USR1
trap 'ended=1; [ -z "$step" ] || kill -TERM "$step" 2>/dev/null' TERM

run_ranks() {
  local port=$((20000 + (SLURM_JOB_ID * 4 + $1) % 20000))
  echo "starting job $me on ${nodes//$'\n'/ }, port $port"
  # The first agent claims an attempt of the run; it ends a job that does not advance with another code than 75. Agents
  # end each other: srun must not kill those that are still saving because one has left.
  srun --kill-on-bad-exit=0 --wait=300 --export=ALL --cpu-bind=none --container-image=/images/escala.sqsh --container-mounts=/shared:/shared,/data:/data:ro \
    /opt/escala/bin/python -m trainer.node.agent --run-dir "$run_dir" --job "$me" --repeat "${SLURM_RESTART_COUNT:-0}" \
    --nodes 1 --ranks 1 --restarts 0 \
    --rendezvous "$hint:$port" --id "$SLURM_JOB_ID.$1.$(date +%s)" --names "${nodes//$'\n'/,}" \
    --join-timeout 600 \
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

# The limit that holds now: the partition's own where none was asked for, an operator's where it was changed.
limit_seconds() {
  local text days=0 h m s
  text=$(scontrol -o show job "$me" | sed -n 's/.* TimeLimit=\([^ ]*\).*/\1/p')
  case $text in *-*) days=${text%%-*} text=${text#*-} ;; esac
  IFS=: read -r h m s <<<"$text"
  case "$days$h${m:-}${s:-}" in *[!0-9]*) return ;; esac # UNLIMITED
  [ -z "${s:-}" ] || echo "$(((10#$days * 24 + 10#$h) * 3600 + 10#$m * 60 + 10#$s))"
}

requeue() {
  echo "saved; back into the queue: $1"
  scontrol requeue "$me" && sleep 60 # Slurm ends this shell
  exit 75
}

if [ "$code" -eq 75 ]; then
  limit=$(limit_seconds)
  if [ -n "$limit" ]; then
    if [ "$SECONDS" -ge $((limit - 5)) ]; then ended=0; fi
    if [ "$ended" -eq 0 ] && [ "$SECONDS" -ge $((limit - 210)) ]; then
      echo "$me" >>"$run_dir/logs/timeouts"
      spent=$(wc -l <"$run_dir/logs/timeouts")
      [ "$spent" -le 10 ] && requeue "time limit reached, $spent of 10"
      echo "the time limit was reached $spent times, 10 are allowed: stopped, saved"
      exit 75
    fi
  fi
  if [ "$ended" -eq 0 ]; then requeue "preempted"; fi
fi
exit "$code"
