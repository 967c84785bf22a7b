#!/usr/bin/env bash
# Bring up a Slurm of one node (munged, slurmctld, slurmd) with fake GPUs, as root, without systemd.
#
#   tests/slurm/start_cluster.sh      does nothing where it is up already
#   tests/slurm/stop_cluster.sh       ends what this started
#
#   PAIRSCAPE_SLURM_DIR     folder of its state, logs and keys   PAIRSCAPE_SLURM_PORT   first of two ports
#   PAIRSCAPE_SLURM_GPUS    fake GPUs
#
# Exit status: 0 up; 77 a Slurm can't be had here, for the reason that is said; 1 it didn't start.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
dir=${PAIRSCAPE_SLURM_DIR:-${TMPDIR:-/tmp}/pairscape-slurm}
port=${PAIRSCAPE_SLURM_PORT:-16817}
gpus=${PAIRSCAPE_SLURM_GPUS:-2}
# More than there is may be claimed: jobs only have to fit in by what they ask for.
cpus=16
memory_mb=96000
host=$(hostname -s)
export SLURM_CONF=$dir/slurm.conf
PATH=$PATH:/usr/sbin:/sbin

cannot() {
    echo "slurm: $1: $2" >&2
    exit 77
}
answers() { timeout 5 scontrol ping 2>/dev/null | grep -q UP; }
node_is_up() { timeout 5 sinfo -h -o %T 2>/dev/null | grep -qE '^(idle|mixed|allocated)$'; }
alive() { # a pid file, and the name of the program it should be
    local pid
    pid=$(cat "$1" 2>/dev/null) && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$2" ]
}

if [ -f "$SLURM_CONF" ] && answers && node_is_up; then
    echo "slurm: already up ($dir)"
    exit 0
fi

[ "$(uname -s)" = Linux ] || cannot "this is $(uname -s)" "the test cluster needs Linux"
[ "$(id -u)" = 0 ] || cannot "you aren't root" "the daemons of the test cluster need it (a container will do)"
for file in slurm.conf gres.conf cgroup.conf; do
    there=/etc/slurm/$file
    if [ -L "$there" ]; then
        target=$(readlink "$there")
        if [ "$target" != "$dir/$file" ] && [ -e "$target" ]; then
            cannot "$there is a link to $target" "another Slurm is set up here; stop that one first"
        fi
    elif [ -e "$there" ]; then
        cannot "$there is there" "this machine has its own Slurm, which is left alone"
    fi
done

missing=()
for pair in munged:munge slurmctld:slurmctld slurmd:slurmd sbatch:slurm-client; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
done
if [ ${#missing[@]} -gt 0 ]; then
    command -v apt-get >/dev/null || cannot "${missing[*]} missing and no apt-get here" "install them by hand"
    echo "slurm: installing ${missing[*]} ..." >&2
    {
        apt-get update -qq &&
            RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
    } >/dev/null || cannot "apt-get can't install ${missing[*]}" "no network, or no such packages"
fi

umask 022
mkdir -p "$dir"
[ -O "$dir" ] || cannot "$dir belongs to someone else" "set PAIRSCAPE_SLURM_DIR to another folder"
mkdir -p "$dir"/{state,spool,dev,munge}
for ((i = 0; i < gpus; i++)); do
    [ -e "$dir/dev/nvidia$i" ] || mknod "$dir/dev/nvidia$i" c 1 3 2>/dev/null ||
        cannot "mknod isn't allowed" "fake GPUs need it (a container with CAP_MKNOD)"
done
for file in slurm.conf gres.conf cgroup.conf; do
    sed -e "s|@HOST@|$host|g; s|@DIR@|$dir|g; s|@CPUS@|$cpus|g; s|@MEMORY_MB@|$memory_mb|g" \
        -e "s|@GPUS@|$gpus|g; s|@LAST_GPU@|$((gpus - 1))|g; s|@PORT@|$port|g; s|@PORT_NODE@|$((port + 1))|g" \
        "$here/$file.in" >"$dir/$file"
done
# SLURM_CONF isn't enough: the executor's job step drops it before its own srun.
mkdir -p /etc/slurm
for file in slurm.conf gres.conf cgroup.conf; do
    ln -sfn "$dir/$file" "/etc/slurm/$file"
done

if ! alive "$dir/munge/munged.pid" munged; then
    if [ ! -s "$dir/munge/munge.key" ]; then
        (umask 077 && dd if=/dev/urandom of="$dir/munge/munge.key" bs=128 count=1 status=none)
    fi
    rm -f "$dir"/munge/munge.sock*
    munged --force --key-file="$dir/munge/munge.key" --socket="$dir/munge/munge.sock" \
        --pid-file="$dir/munge/munged.pid" --log-file="$dir/munge/munged.log" \
        --seed-file="$dir/munge/munged.seed" --num-threads=2 2>>"$dir/munge/start.log"
fi
alive "$dir/slurmctld.pid" slurmctld || slurmctld -f "$SLURM_CONF"
for _ in $(seq 100); do
    answers && break
    sleep 0.1
done
alive "$dir/slurmd.pid" slurmd || slurmd -f "$SLURM_CONF"
for _ in $(seq 200); do
    node_is_up && break
    sleep 0.1
done
if ! node_is_up; then
    echo "slurm: the node didn't come up:" >&2
    timeout 5 sinfo -R >&2 || true
    tail -n 15 "$dir"/slurmctld.log "$dir"/slurmd.log >&2 || true
    exit 1
fi
echo "slurm: up ($dir)"
