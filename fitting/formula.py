"""Model formulas in the notation of lme4 and brms: ``voted ~ 1 + female * dem_share + (1 + female | state/county)``.

`formulae` scans and parses the text; nothing is looked up, called or executed. This module walks the tree it returns,
because its own model description forgets which bar (``|`` or ``||``) a group term was written with.

What a formula means (Bates et al. 2015, "Fitting linear mixed-effects models using lme4", table 2):

==================  ==============================================================================
``a:b``             interaction only
``a*b``             ``a + b + a:b``
``a/b``             ``a + a:b``
``0 +``, ``- 1``    no intercept (otherwise there is one, in a group term too)
``(1 + x | g)``     intercept and slope vary by ``g``, correlated
``(1 + x || g)``    the same, uncorrelated: ``(1 | g) + (0 + x | g)``; levels of a factor too, as in brms
``(1 | a/b)``       ``(1 | a) + (1 | a:b)``
==================  ==============================================================================

A term is the tuple of its columns: ``()`` is the intercept, ``("female",)`` a main effect, ``("female", "age")`` an
interaction. Lower orders come first, as in R. Which columns are factors and which are numbers is not known here: the
data's dictionary says.
"""

import re
from collections.abc import Iterable
from itertools import product
from typing import Any, NamedTuple

from fitting.errors import FormulaError

Term = tuple[str, ...]

INTERCEPT: Term = ()
MAX_TERMS = 1000
"""More terms than this in one formula are taken for a slip (``a*b*c*...`` doubles with every star)."""

_ALLOWED = (
    "column names, 0, 1, the operators + - : * /, and group terms such as (1 | state), (1 + x || state) or "
    "(1 | state/county). Make a transformed column in the data instead of in the formula"
)
_TOKENS = {"IDENTIFIER", "BQNAME", "NUMBER", "PLUS", "MINUS", "STAR", "SLASH", "COLON", "PIPE", "TILDE"}
_TOKENS |= {"LEFT_PAREN", "RIGHT_PAREN", "EOF"}
_QUOTED_NAME = re.compile(r"[^\W\d][\w .\-]*")


class GroupTerm(NamedTuple):
    """Coefficients that vary by group. The groups are the observed combinations of ``columns``.

    ``correlated`` is False for a term written with ``||`` and for an intercept alone. One slope is several
    coefficients if its column is a factor. ``beside`` are all coefficients of the ``||`` that a slope was written in, if there were
    others: they decide, as in brms, whether a factor keeps its reference level.
    """

    columns: Term
    coefficients: tuple[Term, ...]
    correlated: bool
    beside: tuple[Term, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names as in the posterior file: ``("1|state:county", "female|state:county")``."""
        return tuple(f"{term_name(coefficient)}|{':'.join(self.columns)}" for coefficient in self.coefficients)

    def __str__(self) -> str:
        bar = "|" if self.correlated or self.coefficients == (INTERCEPT,) else "||"
        return f"({_sum_text(self.beside or self.coefficients)} {bar} {_term_text(self.columns)})"


class Formula(NamedTuple):
    """A parsed formula. ``parse(str(formula)) == formula``."""

    outcome: str
    fixed: tuple[Term, ...]
    groups: tuple[GroupTerm, ...]

    @property
    def group_columns(self) -> tuple[Term, ...]:
        """Grouping factors, each once, in the order of the formula: ``(("state",), ("state", "county"))``."""
        return tuple(dict.fromkeys(group.columns for group in self.groups))

    @property
    def factor_columns(self) -> tuple[str, ...]:
        """Columns that group terms group by, each once."""
        return _unique_columns(self.group_columns)

    @property
    def predictor_columns(self) -> tuple[str, ...]:
        """Columns of fixed effects and slopes, each once; one that a group term groups by may be among them."""
        slopes = (term for group in self.groups for term in group.coefficients)
        return _unique_columns((*self.fixed, *slopes))

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column except the outcome, each once: factors, then predictors."""
        return tuple(dict.fromkeys(self.factor_columns + self.predictor_columns))

    def __str__(self) -> str:
        alone = {group.columns for group in self.groups if INTERCEPT in group.beside}  # written with the first of its slopes
        written = (g for g in self.groups if g.coefficients != (INTERCEPT,) or g.columns not in alone)
        groups = "".join(f" + {text}" for text in dict.fromkeys(map(str, written)))
        return f"{_quote(self.outcome)} ~ {_sum_text(self.fixed)}{groups}"


def term_name(term: Term) -> str:
    """``"1"`` for the intercept, ``"female"``, ``"female:age"``."""
    return ":".join(term) or "1"


def parse(text: str) -> Formula:
    """Read a formula.

    Raises
    ------
    FormulaError
        With the position of what cannot be read: a function call, a number other than 0 and 1, a power, an attribute, a
        comparison, a group term outside parentheses, a coefficient that varies twice by the same group, ...
    """
    return _Reader(text).read()


class _Terms(NamedTuple):
    """Value of a subexpression. ``intercept`` is None where neither 0 nor 1 was written."""

    intercept: bool | None
    terms: tuple[Term, ...]
    groups: tuple[GroupTerm, ...]


class _Reader:
    """Checks the tokens of one formula, then turns its syntax tree into terms."""

    def __init__(self, text: str):
        self.text = text
        self.positions: dict[int, int] = {}  # id of a token -> its character, from 1

    def error(self, at: Any, found: str, expected: str = _ALLOWED) -> FormulaError:
        """``at`` is a token, or the place as a number."""
        position = at if isinstance(at, int) else self.positions[id(at)]
        return FormulaError(self.text, position, found, expected)

    def read(self) -> Formula:
        from formulae.parser import ParseError, Parser  # imports pandas, over a second

        tokens = self.scan()
        parser = Parser(tokens)
        try:
            tree = parser.parse()
        except ParseError:
            raise self.error(parser.peek(), _show(parser.peek())) from None
        except RecursionError:
            raise self.error(1, "parentheses nested too deeply", "a few levels at most") from None
        if not parser.at_end():
            raise self.error(parser.peek(), _show(parser.peek()) + " after a complete formula", "nothing more, or '+'")
        return self.formula(tree)

    def scan(self) -> list[Any]:
        """Tokens, all of kinds that formulas here have; ``||`` is one token."""
        from formulae.scanner import ScanError, Scanner

        if not self.text.strip():
            raise self.error(1, "an empty formula", "outcome ~ terms")
        scanner = Scanner(self.text)
        try:
            tokens = scanner.scan(add_intercept=False)
        except (ScanError, ValueError) as error:
            raise self.error(scanner.current, str(error)) from None
        except IndexError:  # it looks for the closing one behind the end
            raise self.error(scanner.start + 1, "a backquote that is never closed", "a closing backquote") from None
        end = 0
        joined: list[Any] = []
        for token in tokens:
            start = len(self.text) if token.kind == "EOF" else self.text.index(token.lexeme, end)
            if token.kind == "PIPE" and joined and joined[-1].lexeme == "|" and start == end:
                joined[-1].lexeme = "||"
            else:
                self.positions[id(token)] = start + 1
                self.check(token, joined[-1] if joined else None)
                joined.append(token)
            end = start + len(token.lexeme)
        return joined

    def check(self, token: Any, previous: Any) -> None:
        if token.kind not in _TOKENS:
            raise self.error(token, _show(token))
        if token.kind == "NUMBER" and token.lexeme not in ("0", "1"):
            raise self.error(token, f"the number {token.lexeme}")
        if token.kind == "IDENTIFIER" and not _is_plain(token.lexeme):
            raise self.error(token, f"'{token.lexeme}'", f"a plain name, or `{token.lexeme}` in backquotes")
        if token.kind == "BQNAME" and not _QUOTED_NAME.fullmatch(token.lexeme[1:-1]):
            raise self.error(token, token.lexeme, "a column name: a letter, then letters, digits and . _ -")
        if token.kind == "LEFT_PAREN" and previous is not None:
            if previous.kind in ("IDENTIFIER", "BQNAME"):
                raise self.error(previous, f"a call of the function {previous.lexeme}()")
            if previous.kind in ("RIGHT_PAREN", "NUMBER"):
                raise self.error(token, "'(' without an operator before it")

    def formula(self, tree: Any) -> Formula:
        if _operator(tree) != "~":
            raise self.error(1, "no '~' between outcome and terms", "outcome ~ terms")
        if _kind(tree.left) not in ("Variable", "QuotedName"):
            raise self.error(1, "an outcome that is not one column", "the name of one column before '~'")
        try:
            found = self.terms(tree.right)
        except RecursionError:
            raise self.error(tree.operator, "terms nested too deeply", "a few hundred terms at most") from None
        outcome = _column(tree.left)
        fixed = _coefficients(found)
        formula = Formula(outcome, fixed, self.merge_groups(found.groups, tree.operator))
        if not formula.fixed and not formula.groups:
            raise self.error(tree.operator, "no terms after '~'", "an intercept, a column or a group term")
        if outcome in formula.columns:
            raise self.error(tree.operator, f"the outcome {outcome!r} on both sides of '~'", "it on the left only")
        return formula

    def terms(self, node: Any) -> _Terms:
        kind, operator = _kind(node), _operator(node)
        if kind in ("Variable", "QuotedName"):
            return _Terms(None, ((_column(node),),), ())
        if kind == "Literal":
            return _Terms(bool(node.value), (), ())
        if kind == "Grouping":
            inner = node.expression
            return self.group(inner) if _operator(inner) in ("|", "||") else self.terms(inner)
        if kind == "Unary":
            nothing = _Terms(None, (), ())
            return self.add(nothing, self.terms(node.right), node.operator)
        if operator in ("|", "||"):
            raise self.error(node.operator, f"'{operator}' outside parentheses", "group terms such as (1 | state)")
        left, right = self.terms(node.left), self.terms(node.right)
        if operator in ("+", "-"):
            return self.add(left, right, node.operator)
        return self.multiply(left, right, node.operator)

    def add(self, left: _Terms, right: _Terms, operator: Any) -> _Terms:
        if operator.lexeme == "+":
            intercept = left.intercept if right.intercept is None else right.intercept
            return _Terms(intercept, self.unique(left.terms + right.terms, operator), left.groups + right.groups)
        if right.groups:
            raise self.error(operator, "'-' before a group term", "the group term left out")
        removed = {frozenset(term) for term in right.terms}
        intercept = left.intercept if right.intercept is None else not right.intercept
        return _Terms(intercept, tuple(term for term in left.terms if frozenset(term) not in removed), left.groups)

    def multiply(self, left: _Terms, right: _Terms, operator: Any) -> _Terms:
        for side in (left, right):
            if side.groups or side.intercept is not None:
                what = "a group term" if side.groups else "0 or 1"
                raise self.error(operator, f"{what} beside '{operator.lexeme}'", "columns on both sides of it")
        if len(left.terms) * len(right.terms) > MAX_TERMS:
            raise self.error(operator, "too many interactions", f"at most {MAX_TERMS} terms")
        nested = (_unique_columns(left.terms),) if operator.lexeme == "/" else left.terms
        crossed = tuple(_unique_columns(pair) for pair in product(nested, right.terms))
        before = {":": (), "/": left.terms, "*": left.terms + right.terms}[operator.lexeme]
        return _Terms(None, self.unique(before + crossed, operator), ())

    def unique(self, terms: Iterable[Term], operator: Any) -> tuple[Term, ...]:
        """Each term once, in order; ``a:b`` and ``b:a`` are one term."""
        first: dict[frozenset[str], Term] = {}
        for term in terms:
            first.setdefault(frozenset(term), term)
        if len(first) > MAX_TERMS:
            raise self.error(operator, f"over {MAX_TERMS} terms", f"at most {MAX_TERMS} terms")
        return tuple(first.values())

    def group(self, node: Any) -> _Terms:
        bar = node.operator
        if _operator(node.left) in ("|", "||"):
            raise self.error(bar, "two bars in one group term", "one bar, as in (1 | state)")
        left = self.terms(node.left)
        if left.groups:
            raise self.error(bar, "a group term inside a group term", "(coefficients | columns)")
        coefficients = _coefficients(left)
        if not coefficients:
            raise self.error(bar, f"nothing before '{bar.lexeme}'", "what varies by group, as in (1 | state)")
        found = []
        for columns in self.grouping(node.right, bar):
            if bar.lexeme == "|":
                found.append(GroupTerm(columns, coefficients, coefficients != (INTERCEPT,)))
            else:
                beside = coefficients if len(coefficients) > 1 else ()
                found += [GroupTerm(columns, (c,), False, beside if c else ()) for c in coefficients]
        return _Terms(None, (), tuple(found))

    def grouping(self, node: Any, bar: Any) -> tuple[Term, ...]:
        """Grouping factors of what stands after the bar; ``a/b`` gives ``a`` and ``a:b``."""
        if _kind(node) in ("Variable", "QuotedName"):
            return ((_column(node),),)
        if _kind(node) == "Grouping":
            return self.grouping(node.expression, bar)
        if _operator(node) in (":", "/"):
            left, right = self.grouping(node.left, bar), self.grouping(node.right, bar)
            if node.operator.lexeme == "/":
                return left + tuple(_unique_columns((left[-1], columns)) for columns in right)
            if len(left) == len(right) == 1:
                return (_unique_columns((left[0], right[0])),)
        raise self.error(bar, "something other than columns joined by ':' and '/' after the bar", "(1 | state/county)")

    def merge_groups(self, groups: tuple[GroupTerm, ...], tilde: Any) -> tuple[GroupTerm, ...]:
        """Each group term once; ``a:b`` and ``b:a`` are one grouping factor."""
        order: dict[frozenset[str], Term] = {}
        for group in groups:
            order.setdefault(frozenset(group.columns), group.columns)
        merged = tuple(dict.fromkeys(group._replace(columns=order[frozenset(group.columns)]) for group in groups))
        seen: set[tuple[Term, frozenset[str]]] = set()
        for group in merged:
            for coefficient, name in zip(group.coefficients, group.names, strict=True):
                if (group.columns, frozenset(coefficient)) in seen:
                    raise self.error(tilde, f"{name} twice", "each coefficient to vary once by a grouping factor")
                seen.add((group.columns, frozenset(coefficient)))
        return merged


def _coefficients(found: _Terms) -> tuple[Term, ...]:
    """The intercept unless it was taken out, then main effects before interactions, as R orders them."""
    return (() if found.intercept is False else (INTERCEPT,)) + tuple(sorted(found.terms, key=len))


def _kind(node: Any) -> str:
    return type(node).__name__


def _operator(node: Any) -> str | None:
    return node.operator.lexeme if _kind(node) == "Binary" else None


def _column(node: Any) -> str:
    return node.name.lexeme if _kind(node) == "Variable" else node.expression.lexeme[1:-1]


def _show(token: Any) -> str:
    return "the end" if token.kind == "EOF" else f"'{token.lexeme}'"


def _unique_columns(terms: Iterable[Term]) -> Term:
    return tuple(dict.fromkeys(column for term in terms for column in term))


def _is_plain(name: str) -> bool:
    """Whether the scanner reads ``name`` as one identifier without quotes."""
    letters = name.replace("_", "a")
    return name[0].isalpha() and letters.isalnum() and name not in ("True", "False", "None")


def _quote(column: str) -> str:
    return column if _is_plain(column) else f"`{column}`"


def _term_text(term: Term) -> str:
    return ":".join(_quote(column) for column in term) or "1"


def _sum_text(terms: tuple[Term, ...]) -> str:
    return " + ".join(([] if INTERCEPT in terms else ["0"]) + [_term_text(term) for term in terms])
