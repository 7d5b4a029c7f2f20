"""Watching a run: prequential scores, log lines and files, the report page. Fed with data; knows no MPI."""
