"""`python -m engine VERB …`, alone or under any mpirun or srun."""
from engine.cli import main

raise SystemExit(main())
