"""What a program run as a job needs: arguments, records, locks, Slurm."""
