"""Native parts only; everything else is in pyproject.toml. Nothing here knows of MPI or of this machine's ISA."""
import os
import re
from glob import glob

import numpy
from Cython.Build import cythonize
from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
from setuptools import Extension, setup

HEADERS = glob("csrc/**/*.h", recursive=True)


def inputs(path: str, seen: set[str]) -> set[str]:
    """`path` and all headers of ours that it includes, near or far."""
    if path not in seen:
        seen.add(path)
        for name in re.findall(r'^#include "([^"]+)"', open(path, encoding="utf-8").read(), re.MULTILINE):
            for root in (os.path.dirname(path), "csrc", "csrc/include"):
                if os.path.exists(found := os.path.normpath(os.path.join(root, name))):
                    inputs(found, seen)
    return seen


def changed(obj: str, src: str) -> bool:
    """True if `src` or a header that it includes is newer than `obj`."""
    return not os.path.exists(obj) or any(os.path.getmtime(path) > os.path.getmtime(obj) for path in inputs(src, set()))


ParallelCompile("ENGINE_JOBS", default=0, needs_recompile=changed).install()

sanitize = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer"] if os.environ.get("ENGINE_SANITIZE") else []
# GCC 12 takes the undefined operand inside its own AVX-512 intrinsics for ours, hundreds of times; the sanitizers see real ones.
quiet = ["-Wno-uninitialized", "-Wno-maybe-uninitialized"]
flags = ["-O1" if sanitize else "-O3", "-g0", "-Wall", "-Wextra", *quiet, "-fvisibility=hidden", "-ffp-contract=off", *sanitize]

SOURCES = sorted(glob("csrc/**/*.cpp", recursive=True))


class Build(build_ext):
    """Also builds libengine.so: a plain shared library inside the package, for hosts that are not Python."""

    def get_ext_filename(self, name: str) -> str:
        return name.replace(".", os.sep) + ".so" if name.split(".")[-1] == "libengine" else super().get_ext_filename(name)

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return [] if ext.name.endswith(".libengine") else super().get_export_symbols(ext)


native = Pybind11Extension(
    "engine.kernels._native",
    [path for path in SOURCES if not path.startswith("csrc/embed/")],
    depends=HEADERS,
    include_dirs=["csrc"],
    cxx_std=17,
    extra_compile_args=flags,
    extra_link_args=sanitize,
)
library = Extension(
    "engine.lib.libengine",
    [path for path in SOURCES if not path.startswith("csrc/bind/")],
    depends=HEADERS,
    include_dirs=["csrc", "csrc/include"],
    language="c++",
    extra_compile_args=[*flags, "-std=c++17"],
    extra_link_args=[*sanitize, *([] if sanitize else ["-static-libstdc++", "-static-libgcc"]), "-Wl,--version-script=csrc/embed/exports.map",
                     "-Wl,-soname,libengine.so", "-Wl,-z,defs", "-ldl", "-lpthread"],
)
rows = Extension(
    "engine.kernels.rows",
    ["src/engine/kernels/rows.pyx"],
    include_dirs=[numpy.get_include()],
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
    extra_compile_args=[*flags, "-Wno-unused-function"],
    extra_link_args=sanitize,
)
setup(ext_modules=[native, library, *cythonize([rows], language_level=3)], cmdclass={"build_ext": Build})
