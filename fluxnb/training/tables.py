"""The results of `trust` as tables in Markdown; knows only what is in them."""

from __future__ import annotations

from fluxnb.training import scoring


def tables(results: dict) -> str:
    """The results for RECIPE.md: average precision, the other scores at the middle sigma, controls, cuts."""
    sigmas = [one["sigma"] for one in results["cuts"]]
    middle = sigmas[len(sigmas) // 2]
    found = {(one["method"], one["blocks"], one["sigma"]): one for one in results["maps"]}
    pairs = list(dict.fromkeys((method, blocks) for method, blocks, _ in found))
    named = [pair for pair in pairs if not pair[1].isdigit()]
    at_sigmas = [f"sigma {sigma:g}" for sigma in sigmas]
    scores = list(scoring.NAMES)
    controls = list(dict.fromkeys(name for one in results["maps"] for name in one["controls"]))

    def row(pair: tuple[str, str], figures: list) -> list[str]:
        return [pair[0], pair[1], *map(_spell, figures)]

    precision = [row(pair, [found[(*pair, sigma)][scores[0]] for sigma in sigmas]) for pair in pairs]
    others = [row(pair, [found[(*pair, middle)][name] for name in scores]) for pair in named]
    failing = [
        row(pair, [found[(*pair, middle)]["controls"].get(name) for name in controls]) for pair in named
    ]
    untrained = [
        row(pair, [found[(*pair, sigma)]["controls"]["untrained"] for sigma in sigmas]) for pair in named
    ]
    cuts = [[f"{one['sigma']:g}", *map(_spell, list(one.values())[1:])] for one in results["cuts"]]
    titled = {
        "Average precision": (["method", "blocks", *at_sigmas], precision),
        f"All scores at sigma {middle:g}": (["method", "blocks", *scores], others),
        f"Controls, average precision at sigma {middle:g}": (["method", "blocks", *controls], failing),
        "Control of an untrained network, average precision": (["method", "blocks", *at_sigmas], untrained),
        "Cuts": (list(results["cuts"][0]), cuts),
    }
    return "\n\n".join(f"{title}:\n\n{_table(*content)}" for title, content in titled.items())


def _table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines).replace("_", " ")


def _spell(figure: list[float] | None) -> str:
    """A figure with its interval."""
    return "" if figure is None else "{:.2f} ({:.2f} to {:.2f})".format(*figure)
