#!/usr/bin/env bash
# End the daemons that start_cluster.sh started, by the process ids it recorded, and nothing else.
#
#   tests/slurm/stop_cluster.sh [--keep]    --keep leaves the folder with its logs
set -uo pipefail
dir=${PAIRSCAPE_SLURM_DIR:-${TMPDIR:-/tmp}/pairscape-slurm}
export SLURM_CONF=$dir/slurm.conf
[ -f "$SLURM_CONF" ] || {
    echo "slurm: nothing to stop ($dir)"
    exit 0
}

jobs=$(timeout 5 squeue -h -o %A 2>/dev/null)
if [ -n "$jobs" ]; then
    # shellcheck disable=SC2086  # one argument each
    scancel $jobs
    for _ in $(seq 100); do
        [ -z "$(timeout 5 squeue -h -t running,completing -o %A 2>/dev/null)" ] && break
        sleep 0.1
    done
fi
for file in slurmd.pid slurmctld.pid munge/munged.pid; do
    name=$(basename "$file" .pid)
    pid=$(cat "$dir/$file" 2>/dev/null) || continue
    # A process id that was given out again isn't ours.
    [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$name" ] || continue
    kill "$pid"
    for _ in $(seq 100); do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    kill -0 "$pid" 2>/dev/null && kill -9 "$pid"
    echo "slurm: stopped $name"
done
for file in slurm.conf gres.conf cgroup.conf; do
    [ "$(readlink "/etc/slurm/$file")" = "$dir/$file" ] && rm "/etc/slurm/$file"
done
rmdir /etc/slurm 2>/dev/null
[ "${1:-}" = --keep ] || rm -rf "$dir"
exit 0
