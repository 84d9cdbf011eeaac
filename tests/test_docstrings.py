"""What a reader of the code is told: a docstring on everything public, a word on every argument."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import modeling_ser_mtl

PACKAGE = Path(modeling_ser_mtl.__file__).parent
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))

Function = ast.FunctionDef | ast.AsyncFunctionDef


@pytest.mark.parametrize("module", MODULES)
def test_everything_public_has_a_docstring_that_names_each_argument(module: str) -> None:
    tree = ast.parse((PACKAGE / module).read_text(encoding="utf-8"))
    name = module.removesuffix(".py").replace("/", ".")
    assert list(_undescribed(tree, name)) == []


def _undescribed(scope: ast.Module | ast.ClassDef, name: str) -> Iterator[str]:
    """`module.function` without a docstring, `module.function(argument)` for an argument that its docstring leaves out.

    What a constructor takes may stand in its own docstring or in the class's. Functions inside functions are private.
    """
    for node in scope.body:
        if not isinstance(node, ast.ClassDef | Function) or not _is_public(node):
            continue
        full_name = f"{name}.{node.name}"
        docstring = ast.get_docstring(node) or ""
        if node.name == "__init__":
            docstring += ast.get_docstring(scope) or ""
        if not docstring:
            yield full_name
        elif not docstring.startswith("As in"):
            arguments = _fields(node) if isinstance(node, ast.ClassDef) else _arguments(node)
            yield from (f"{full_name}({argument})" for argument in arguments if argument not in _named(docstring))
        if isinstance(node, ast.ClassDef):
            yield from _undescribed(node, full_name)


def _is_public(node: ast.ClassDef | Function) -> bool:
    # A property is described where it is read, not where it is set.
    is_setter = any(isinstance(mark, ast.Attribute) and mark.attr == "setter" for mark in node.decorator_list)
    return node.name in ("__init__", "__call__") or not (node.name.startswith("_") or is_setter)


def _arguments(function: Function) -> list[str]:
    arguments = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
    return [item.arg for item in arguments if item.arg not in ("self", "cls") and not item.arg.startswith("_")]


def _fields(node: ast.ClassDef) -> list[str]:
    """Fields of a dataclass, which its constructor takes; those whose metadata has a help text describe themselves."""
    if not any(ast.unparse(mark).startswith("dataclass") for mark in node.decorator_list):
        return []
    fields = [item for item in node.body if isinstance(item, ast.AnnAssign) and not _has_help(item)]
    return [name for name in (ast.unparse(item.target) for item in fields) if not name.startswith("_")]


def _has_help(field: ast.AnnAssign) -> bool:
    return isinstance(field.value, ast.Call) and any(
        keyword.arg == "metadata"
        and isinstance(keyword.value, ast.Dict)
        and any(isinstance(key, ast.Constant) and key.value == "help" for key in keyword.value.keys)
        for keyword in field.value.keywords
    )


def _named(docstring: str) -> set[str]:
    """Words in backticks, and the names of entries such as ``size (`int`): ...`` or ``mean, std (`float`): ...``."""
    quoted = re.findall(r"`([^`]+)`", docstring)
    entries = re.findall(r"(\w+(?:, \w+)*) \(\[?`", docstring)
    return set(re.findall(r"\w+", " ".join(quoted + entries)))
