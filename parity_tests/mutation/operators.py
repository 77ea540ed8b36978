"""Deliberate mistakes, made from the syntax tree of a source file.

Each operator maps a node of the tree to the nodes that may stand in its place by mistake. Docstrings,
annotations, decorators, assertions and error messages are left alone.
"""

import ast
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One mistake: `after` in place of `before`, in a function of a file below jaxloss/."""

    file: str
    function: str
    operator: str
    before: str
    after: str
    # Of the same mistakes in one function, in their order.
    ordinal: int
    line: int

    @property
    def id(self) -> str:
        """What stays the same when code moves: no line, but a digest of what is replaced and by what."""
        replaced = f"{self.before} -> {self.after} #{self.ordinal}"
        digest = hashlib.sha256(replaced.encode()).hexdigest()[:8]
        return f"{self.file} {self.function} {self.operator} {digest}"

    def __str__(self):
        return f"jaxloss/{self.file}:{self.line} {self.function}\n    - {self.before}\n    + {self.after}"


def mutants(file: str, source: str) -> list[Mutant]:
    """Every mistake that the operators make in the source, in its order."""
    return [mutant for mutant, _, _ in _mistakes(file, ast.parse(source))]


def mutate(source: str, mutant: Mutant) -> str:
    """The source, formatted anew, with the mistake in it."""
    tree = ast.parse(source)
    old, new = next((old, new) for found, old, new in _mistakes(mutant.file, tree) if found.id == mutant.id)
    return ast.unparse(_Replace(old, new).visit(tree))


class _Replace(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST):
        self.old, self.new = old, new

    def visit(self, node):
        return self.new if node is self.old else self.generic_visit(node)


def _mistakes(file: str, tree: ast.Module) -> Iterator[tuple[Mutant, ast.AST, ast.AST]]:
    seen: Counter = Counter()
    for function, node in _nodes(tree, "", None):
        before, texts = ast.unparse(node), set()
        for operator, replacements in OPERATORS.items():
            for new in replacements(node):
                after = ast.unparse(new)
                if after == before or after in texts:
                    continue
                texts.add(after)
                key = (function or "module", operator, before, after)
                yield Mutant(file, *key, ordinal=seen[key], line=node.lineno), node, new
                seen[key] += 1


_SKIPPED = (ast.Raise, ast.Assert, ast.Import, ast.ImportFrom, ast.JoinedStr)


def _nodes(node: ast.AST, function: str, parent: ast.AST | None) -> Iterator[tuple[str, ast.AST]]:
    """The nodes in which mistakes are made, each with the name of its function."""
    if isinstance(node, _SKIPPED) or is_string(node) or _is_export(node):
        return
    children = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        function = f"{function}.{node.name}" if function else node.name
        arguments = getattr(node, "args", ast.arguments(defaults=[], kw_defaults=[]))
        children = [*arguments.defaults, *(d for d in arguments.kw_defaults if d), *node.body]
    elif isinstance(node, ast.AnnAssign):
        children = [node.value] if node.value else []
    elif isinstance(node, ast.expr | ast.AugAssign):
        if isinstance(parent, ast.If | ast.IfExp | ast.While):
            node.is_condition = node is parent.test
        yield function, node
        if _number(node) is not None:
            return
    for child in children:
        yield from _nodes(child, function, node)


def is_string(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_export(node: ast.AST) -> bool:
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"


def _number(node: ast.AST) -> bool | int | float | None:
    """The value of a number as written, sign included."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _number(node.operand)
        return None if value is None else -value
    is_number = isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float)
    return node.value if is_number else None


def _constant(value) -> ast.expr:
    return ast.parse(repr(value), mode="eval").body


def _called(node: ast.AST) -> str:
    """The last part of the name that a call calls: "where" of `jnp.where(...)`."""
    if not isinstance(node, ast.Call):
        return ""
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def _with(node: ast.AST, **fields) -> ast.AST:
    return type(node)(**dict(ast.iter_fields(node)) | fields)


def _both_ways(pairs: list[tuple]) -> dict:
    return dict(pairs) | {b: a for a, b in pairs}


_NEGATIONS = _both_ways(
    [(ast.Lt, ast.GtE), (ast.LtE, ast.Gt), (ast.Eq, ast.NotEq), (ast.Is, ast.IsNot), (ast.In, ast.NotIn)]
)
_NEIGHBOURS = _both_ways([(ast.Lt, ast.LtE), (ast.Gt, ast.GtE)])


def comparison(node):
    """Negated; and with its bound on the other side."""
    if isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            for table in (_NEGATIONS, _NEIGHBOURS):
                if type(op) in table:
                    yield _with(node, ops=[*node.ops[:i], table[type(op)](), *node.ops[i + 1 :]])


def condition(node):
    """Negated, where it is a flag."""
    if getattr(node, "is_condition", False) and isinstance(node, ast.Name | ast.Attribute | ast.Call):
        yield ast.UnaryOp(ast.Not(), node)


def logic(node):
    """And for or; or one of the parts alone."""
    if isinstance(node, ast.BoolOp):
        yield _with(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
        for i in range(len(node.values)):
            others = [*node.values[:i], *node.values[i + 1 :]]
            yield others[0] if len(others) == 1 else _with(node, values=others)
    if isinstance(getattr(node, "op", None), ast.BitAnd | ast.BitOr):
        yield _with(node, op=ast.BitOr() if isinstance(node.op, ast.BitAnd) else ast.BitAnd())
        if isinstance(node, ast.BinOp):
            yield from (node.left, node.right)


def negation(node):
    """Of truth or sign, dropped."""
    if isinstance(node, ast.UnaryOp) and _number(node) is None:
        yield node.operand


def where(node):
    """With its arms swapped; or one of them alone."""
    if isinstance(node, ast.IfExp):
        yield _with(node, body=node.orelse, orelse=node.body)
    if _called(node) in ("where", "select") and len(node.args) == 3 and ast.unparse(node.func) != "select":
        mask, yes, no = node.args
        yield _with(node, args=[mask, no, yes])
        yield from (yes, no)


def select(node):
    """Nothing masked."""
    if _called(node) == "select" and ast.unparse(node.func) == "select":
        yield node.args[1]


def term(node):
    """Subtracted in place of added, or the other way; or left out."""
    if isinstance(getattr(node, "op", None), ast.Add | ast.Sub):
        is_sum = isinstance(node.op, ast.Add)
        if isinstance(node, ast.BinOp) and not any(
            isinstance(side, ast.Tuple | ast.List) for side in (node.left, node.right)
        ):
            yield node.left
            yield node.right if is_sum else ast.UnaryOp(ast.USub(), node.right)
        if isinstance(node, ast.BinOp | ast.AugAssign):
            yield _with(node, op=ast.Sub() if is_sum else ast.Add())


def factor(node):
    """Divided by in place of multiplied, or the other way; or left out."""
    if isinstance(getattr(node, "op", None), ast.Mult | ast.Div | ast.Pow):
        is_product = isinstance(node.op, ast.Mult)
        if isinstance(node, ast.BinOp):
            yield node.left
            if is_product:
                yield node.right
        yield _with(node, op=ast.Div() if is_product else ast.Mult())


def constant(node):
    """Another number: one more, twice as much, the other truth."""
    value = _number(node)
    if isinstance(value, bool):
        yield _constant(not value)
    elif isinstance(value, int):
        yield _constant(value + 1)
    elif isinstance(value, float):
        yield _constant(2 * value or 1.0)
    elif isinstance(node, ast.Attribute) and node.attr in ("nan", "inf"):
        yield _constant(0.0)


_AXIS_SECOND = ("sum", "max", "min", "mean", "argmax", "expand_dims", "logsumexp", "softmax", "log_softmax")


def axis(node):
    """The first axis, where a variable says which."""
    if not isinstance(node, ast.Call):
        return
    for i, keyword in enumerate(node.keywords):
        if keyword.arg == "axis" and _number(keyword.value) is None:
            changed = ast.keyword("axis", _constant(0))
            yield _with(node, keywords=[*node.keywords[:i], changed, *node.keywords[i + 1 :]])
    place = 2 if _called(node) == "take_along_axis" else 1 if _called(node) in _AXIS_SECOND else None
    if place and len(node.args) > place and _number(node.args[place]) is None:
        yield _with(node, args=[*node.args[:place], _constant(0), *node.args[place + 1 :]])


_DTYPES = {"float32": "bfloat16", "bfloat16": "float32", "float64": "float32"}


def dtype(node):
    """Another one, or the input's own."""
    if isinstance(node, ast.Attribute) and node.attr in _DTYPES:
        yield _with(node, attr=_DTYPES[node.attr])
    if _called(node) == "astype" and isinstance(node.func, ast.Attribute):
        yield node.func.value


def cancellation(node):
    """`log1p` and `expm1`, as written in a textbook."""
    if _called(node) == "log1p":
        yield ast.Call(_with(node.func, attr="log"), [ast.BinOp(_constant(1), ast.Add(), node.args[0])], [])
    if _called(node) == "expm1":
        yield ast.BinOp(ast.Call(_with(node.func, attr="exp"), node.args, []), ast.Sub(), _constant(1))


_DROPPED = ("stop_gradient", "abs", "square", "sqrt", "clip", "sign", "psum", "pmax")


def call(node):
    """Left out: what is called gives its first argument back."""
    if _called(node) in _DROPPED and node.args:
        yield node.args[0]


_EXTREMES = [("min", "max"), ("minimum", "maximum"), ("argmin", "argmax"), ("pmin", "pmax"), ("any", "all")]
_OPPOSITES = _both_ways(
    [*_EXTREMES, ("sum", "mean"), ("isnan", "isinf"), ("zeros_like", "ones_like"), ("zeros", "ones")]
)


def opposite(node):
    """The maximum for the minimum, the mean for the sum, and the like."""
    if isinstance(node, ast.Attribute) and node.attr in _OPPOSITES:
        yield _with(node, attr=_OPPOSITES[node.attr])
    if isinstance(node, ast.Name) and node.id in ("min", "max", "any", "all"):
        yield _with(node, id=_OPPOSITES[node.id])


_ALL = [comparison, condition, logic, negation, where, select, term, factor, constant, axis, dtype]
_ALL += [cancellation, call, opposite]
OPERATORS: dict[str, Callable[[ast.AST], Iterator[ast.AST]]] = {each.__name__: each for each in _ALL}
