"""From schedules to artifacts: C for processors, Triton for GPUs, torch itself for everything else."""
