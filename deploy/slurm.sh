#!/usr/bin/env bash
# A search on one node, which goes on when it is submitted again: sbatch deploy/slurm.sh study.yaml
#SBATCH --job-name=promptgraft
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus=1
#SBATCH --mem=64G
#SBATCH --time=08:00:00
# SIGTERM ten minutes before the end: trials that run are recorded, and start again in the next job.
#SBATCH --signal=B:TERM@600
set -euo pipefail

study=${1:?name a study file: sbatch deploy/slurm.sh study.yaml}
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
# Ray's sockets and logs on the node's own disk; a database in SQLite needs a disk that locks files, so not a shared one.
export RAY_TMPDIR=${TMPDIR:-/tmp}
concurrent=${CONCURRENT:-$((SLURM_CPUS_PER_TASK / 4))}

promptgraft run "$study" --concurrent "$concurrent" --timeout 7h45m &
search=$!
trap 'kill -TERM "$search"; wait "$search"' TERM
wait "$search"
