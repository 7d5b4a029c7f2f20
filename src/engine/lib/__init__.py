"""libengine.so lies here, and what a compiler, CMake, pkg-config or a shell must know of it: `engine embed`."""
from __future__ import annotations

import shlex
import sys
import sysconfig
from ctypes.util import find_library
from pathlib import Path

from engine.errors import ConfigError

HOME = Path(__file__).resolve().parent
INCLUDE = HOME.parent / "include"
KINDS = ("cflags", "libs", "env", "fortran", "cmake", "pkgconfig")


def text(kind: str) -> str:
    """What `engine embed --KIND` prints."""
    if not (HOME / "libengine.so").exists():
        raise ConfigError(f"libengine.so is not in {HOME}", fix="install the engine with pip")
    if kind == "env":
        return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in environment().items())
    return {"cflags": f"-I{shlex.quote(str(INCLUDE))}",
            "libs": f"-L{shlex.quote(str(HOME))} -lengine -Wl,-rpath,{shlex.quote(str(HOME))}",
            "fortran": str(INCLUDE / "engine.f90"),
            "cmake": str(HOME / "cmake"), "pkgconfig": str(HOME / "pkgconfig")}[kind]


def environment() -> dict[str, str]:
    """Where the host finds this Python: the library to load, and the program whose packages it uses."""
    return {"ENGINE_LIBPYTHON": libpython(), "ENGINE_PYTHON": sys.executable}


def libpython() -> str:
    """The shared library of this Python; ConfigError where there is none."""
    folder, name = sysconfig.get_config_var("LIBDIR") or "", sysconfig.get_config_var("INSTSONAME") or ""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    shared = name if ".so" in name else f"libpython{version}.so.1.0"
    for path in (Path(folder, shared), Path(folder, multiarch, shared), Path(sys.base_prefix, "lib", shared)):
        if path.exists():
            return str(path)
    found = find_library(f"python{version}")
    if found:
        return found
    raise ConfigError(f"this Python ({sys.executable}) has no shared library: {shared} not found in {folder}",
                      fix=f"Debian: apt-get install libpython{version}; or a Python configured with --enable-shared")
