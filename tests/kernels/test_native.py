"""The hand-written types say exactly what the native module has."""
import ast
from pathlib import Path

from engine.kernels import _native

STUB = Path(_native.__file__).parent / "_native.pyi"


def public(names):
    return {name for name in names if not name.startswith("_")}


def stubbed():
    """Functions, and the methods of each class, that the stub declares."""
    body = ast.parse(STUB.read_text()).body
    functions = {node.name for node in body if isinstance(node, ast.FunctionDef)}
    classes = {node.name: public(n.name for n in node.body if isinstance(n, ast.FunctionDef))
               for node in body if isinstance(node, ast.ClassDef)}
    return functions, classes


def test_names_are_those_of_the_module():
    functions, classes = stubbed()
    assert functions | set(classes) == public(dir(_native))


def test_methods_are_those_of_the_classes():
    _, classes = stubbed()
    assert classes
    for name, methods in classes.items():
        assert methods == public(dir(getattr(_native, name)))


def test_every_isa_named_runs():
    assert _native.isa() in _native.isa_runs()
    for isa in _native.isa_runs():
        assert _native.crc32c(b"123456789", isa=isa) == 0xE3069283
