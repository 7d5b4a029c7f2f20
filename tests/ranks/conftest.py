"""A made-up tree of tests, run with the suite's own conftest."""
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest


@pytest.fixture
def pytester_tree(tmp_path):
    """`run(source) -> (exit status, output)` of one test file beside a copy of tests/conftest.py."""
    def run(source):
        shutil.copy(Path(__file__).parent.parent / "conftest.py", tmp_path)
        (tmp_path / "test_made_up.py").write_text(textwrap.dedent(source))
        (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = ranks\ntimeout = 100\n")
        done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], cwd=tmp_path,
                              capture_output=True, text=True, timeout=100)
        return done.returncode, done.stdout + done.stderr
    return run
