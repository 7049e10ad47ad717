"""Rules of a layout: names in files -> name of a parameter, and what is done on the way.

A rule of a table holds for all parameters whose name fits its target; the first that fits counts. In a name,
`*` stands for one part between dots and `**` for all that is left; what they stand for in the target they
stand for in the sources, in order. So a table says only what differs, and holds for a network of any depth.
The tables stand in `tables.py`. Knows nothing of files or configs.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import mlx.core as mx

from fluxnb.errors import CheckpointError

SHOWN = 3  # names that an error message lists before it says how many there are


def same(x: mx.array) -> mx.array:
    """Takes a tensor as it is."""
    return x


def stack(*parts: mx.array) -> mx.array:
    """Puts the rows of several tensors below one another: q, k and v of a fused matrix."""
    return mx.concatenate(parts)


def abreast(*parts: mx.array) -> mx.array:
    """Puts the columns of several matrices side by side."""
    return mx.concatenate(parts, axis=-1)


def swap_halves(x: mx.array) -> mx.array:
    """Swaps the two halves of the rows: (scale, shift) of diffusers to (shift, scale)."""
    return mx.concatenate(mx.split(x, 2)[::-1])


def channels_last(x: mx.array) -> mx.array:
    """Turns kernels (out, in, kh, kw) into (out, kh, kw, in); what is no kernel stays."""
    return mx.contiguous(x.transpose(0, 2, 3, 1)) if x.ndim == 4 else x


def pointwise(x: mx.array) -> mx.array:
    """Turns a matrix (out, in) into kernels of a single cell (out, 1, 1, in); a bias stays."""
    return x[:, None, None, :] if x.ndim == 2 else x


def flat(x: mx.array) -> mx.array:
    """Turns kernels of a single cell (out, 1, 1, in) into a matrix (out, in)."""
    return x.reshape(len(x), -1)


def first(x: mx.array, *others: mx.array) -> mx.array:
    """Takes the first of several tensors; the others say nothing that counts."""
    return x


def stack_keyless(q: mx.array, *others: mx.array) -> mx.array:
    """Stacks biases of q, v and what follows, with zeros for those of k between q and v."""
    return mx.concatenate([q, mx.zeros_like(q), *others])


@dataclass(frozen=True, slots=True)
class Rule:
    """Where the parameters that fit `target` come from.

    Attributes:
        target: name of a parameter, with `*` and `**`.
        sources: names in the files, arguments of `transform` in this order.
        transform: makes the parameter.
        also: names that stand for `sources` in files of other origin, as many. Where a file has both, they
            have to be equal.
    """

    target: str
    sources: tuple[str, ...]
    transform: Callable[..., mx.array] = same
    also: tuple[str, ...] = ()


Table = tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """What one parameter is made of.

    Attributes:
        target: name of the parameter.
        sources: names in the files.
        copies: names of further tensors that have to equal `sources`; empty but for files that say it twice.
        transform: makes the parameter of `sources`.
    """

    target: str
    sources: tuple[str, ...]
    copies: tuple[str, ...]
    transform: Callable[..., mx.array]


def plan(table: Table, targets: Iterable[str], names: Collection[str], origin: str) -> tuple[Part, ...]:
    """Finds for every parameter what it is made of, and uses up every name.

    Args:
        table: rules of the layout.
        targets: names of all the parameters.
        names: names of all the tensors in the files.
        origin: what to call the files in an error.

    Raises:
        CheckpointError: a tensor is missing, or is left over.
    """
    names = set(names)
    parts, missing, used = [], [], set()
    for target in targets:
        rule, stars = _rule(table, target)
        sources = tuple(_fill(source, stars) for source in rule.sources)
        also = tuple(_fill(source, stars) for source in rule.also)
        if also and not names.issuperset(sources) and names.issuperset(also):
            sources, also = also, ()
        copies = also if names.issuperset(also) else ()
        missing += [source for source in sources if source not in names]
        used.update(sources, copies)
        parts.append(Part(target, sources, copies, rule.transform))
    surplus = sorted(names - used)
    if missing or surplus:
        faults = [f"{len(missing)} missing ({listed(missing)})"] if missing else []
        faults += [f"{len(surplus)} without a place in the network ({listed(surplus)})"] if surplus else []
        raise CheckpointError(
            f"{origin}: among {len(names)} tensors, {' and '.join(faults)}; the weights do not belong to "
            "this config.json, or were saved by halves: download both again, or save them with diffusers"
        )
    return tuple(parts)


def part(table: Table, target: str) -> Part:
    """Tells what a parameter is made of, by its rule alone.

    Raises:
        LookupError: the layout has no such parameter.
    """
    rule, stars = _rule(table, target)
    return Part(target, tuple(_fill(source, stars) for source in rule.sources), (), rule.transform)


def shape(part: Part, arrays: Mapping[str, mx.array]) -> tuple[int, ...] | None:
    """Tells the shape that a parameter would have, without reading it; None if it cannot be made."""
    try:
        return part.transform(*(arrays[name] for name in part.sources)).shape
    except ValueError:  # MLX's word for shapes that do not go together
        return None


@dataclass(frozen=True, slots=True)
class Outline:
    """What parameters tensors could become, whatever the network.

    Attributes:
        table: rules of the layout.
        arrays: name -> tensor, of which only the shape is looked at.
    """

    table: Table
    arrays: Mapping[str, mx.array]

    def shape(self, target: str) -> tuple[int, ...] | None:
        """Tells the shape that a parameter would have, None if what it is made of is not there."""
        for part in self._parts(target):
            if self.arrays.keys() >= set(part.sources):
                return shape(part, self.arrays)
        return None

    def sources(self, target: str) -> str:
        """Names the tensors that a parameter is made of, for a message."""
        return " + ".join(next((part.sources for part in self._parts(target)), (target,)))

    def _parts(self, target: str) -> list[Part]:
        try:
            rule, stars = _rule(self.table, target)
        except LookupError:  # one level or layer more than the layout has
            return []
        named = [tuple(_fill(source, stars) for source in names) for names in (rule.sources, rule.also)]
        return [Part(target, names, (), rule.transform) for names in named if names]


def listed(names: Collection[str]) -> str:
    """Lists the first names, and says how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(list(names)[:SHOWN]) + more


def _rule(table: Table, target: str) -> tuple[Rule, tuple[str, ...]]:
    """Finds the rule of a parameter, and what the stars of its target stand for."""
    for rule in table:
        if fit := _expression(rule.target).fullmatch(target):
            return rule, fit.groups()
    raise LookupError(f"the table has no rule for {target}")  # our mistake


@cache
def _expression(pattern: str) -> re.Pattern:
    """Writes a name with stars as a regular expression."""
    escaped = re.escape(pattern)
    return re.compile(escaped.replace(r"\*\*", "(.+)").replace(r"\*", "([^.]+)"))


def _fill(pattern: str, stars: tuple[str, ...]) -> str:
    """Puts what the stars stand for into a pattern."""
    left = iter(stars)
    return re.sub(r"\*\*?", lambda _: next(left), pattern)
