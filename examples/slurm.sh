#!/bin/bash
# Train under Slurm, for as long as it takes: sbatch slurm.sh --net resnet50 --data photos.h5
#
# Two minutes before its time is over the job makes a checkpoint, and goes back into the queue. Change the numbers of
# nodes, of ranks on each (one a core computes fastest), and the hours; the launcher of Open MPI is pmix, not pmi2.
#SBATCH --nodes=2 --ntasks-per-node=16 --cpus-per-task=1 --time=04:00:00
#SBATCH --signal=B:USR1@120 --requeue --open-mode=append

srun --mpi=pmi2 --cpu-bind=cores python -m mpilayer.train --checkpoint saved --resume --out run "$@" &
step=$!
trap 'kill -USR1 "$step"' USR1  # srun passes it on to all ranks

wait "$step"
while kill -0 "$step" 2>/dev/null; do wait "$step"; done  # a signal ends the waiting, not the ranks
wait "$step"
status=$?
if [ "$status" = 75 ]; then  # stopped with a checkpoint, before its end
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
