"""See every call that a torch function makes, and change some of them.

A `TorchFunctionMode` is handed each call of torch's API, those inside modules as well.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# A function that is called in place of a torch function, with that function, its arguments and its options.
Rewrite = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


@dataclass(frozen=True)
class Call:
    """One call of a torch function: its name, its positional arguments and its options."""

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def options(self) -> dict[str, Any]:
        """Arguments by name, where the function's signature is known."""
        try:
            bound = inspect.signature(self.function).bind(*self.args, **self.kwargs)
        except (ValueError, TypeError):
            return dict(self.kwargs)
        bound.apply_defaults()
        return dict(bound.arguments)


@dataclass(frozen=True)
class Edit:
    """A change to the calls of one function, and the sentence to say if it explains the numbers.

    Args:
        name: of the function.
        rewrite: what is called instead.
        words: to say.
        scalar: change only the calls that have this number for an argument; None changes all.
    """

    name: str
    rewrite: Rewrite
    words: str
    scalar: float | None = None

    def mode(self) -> Any:
        """The context in which the change is made."""

        def handle(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            is_meant = _name_of(function) == self.name and (
                self.scalar is None or any(isinstance(a, (int, float)) and a == self.scalar for a in args)
            )
            return self.rewrite(function, args, kwargs) if is_meant else function(*args, **kwargs)

        return _mode_of(handle)


def trace(run: Callable[[Any], Any]) -> list[Call]:
    """Record the calls that `run(context)` makes inside the context, those with equal options once."""
    calls: dict[Any, Call] = {}

    def record(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = Call(_name_of(function), function, args, kwargs)
        settings = [(name, value) for name, value in call.options().items() if is_setting(value)]
        calls.setdefault((call.name, repr(settings), repr([a for a in args if is_setting(a)])), call)
        return function(*args, **kwargs)

    run(_mode_of(record))
    return list(calls.values())


def with_option(name: str, value: Any) -> Rewrite:
    """Set an argument, wherever it stands."""

    def rewrite(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        options = Call("", function, args, kwargs).options() | {name: value}
        positional = [] if options.keys() & {"input", "query"} else [args[0]]
        return function(*positional, **options)

    return rewrite


def with_argument(name: str, position: int, value: Any) -> Rewrite:
    """Set an argument of a function whose signature is not known."""

    def rewrite(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if len(args) > position:
            return function(*args[:position], value, *args[position + 1 :], **kwargs)
        return function(*args, **{**kwargs, name: value})

    return rewrite


def is_setting(value: Any) -> bool:
    """Whether an argument is a setting and no data."""
    return value is None or isinstance(value, (bool, int, float, str))


def _mode_of(handle: Rewrite) -> Any:
    from torch.overrides import TorchFunctionMode

    class Mode(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return handle(func, args, kwargs or {})

    return Mode()


def _name_of(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", "")
