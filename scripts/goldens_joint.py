"""Writes crates/ranking/tests/goldens_joint.json: reliability, stratified tau, quantiles and the joint
bootstrap, computed with NumPy and SciPy.

Run from the repository's root with NumPy and SciPy installed: python3 scripts/goldens_joint.py
Undefined statistics are null.
"""

import itertools
import json
import math
import pathlib
import warnings

import numpy
import scipy
from scipy import stats

warnings.simplefilter("ignore")  # constant input: undefined, which null says


def tau(x, y):
    if len(x) < 2:
        return None
    result = float(stats.kendalltau(x, y).statistic)
    return None if math.isnan(result) else result


def n_untied(values):
    _, counts = numpy.unique(values, return_counts=True)
    n = len(values)
    return (n * (n - 1) - int((counts * (counts - 1)).sum())) // 2


def tau_within(x, y, groups):
    """SciPy's tau-b of each group, its denominator multiplied out, summed and divided again."""
    difference, x_untied, y_untied = 0.0, 0, 0
    x, y, groups = map(numpy.asarray, (x, y, groups))
    for group in numpy.unique(groups):
        a, b = x[groups == group], y[groups == group]
        difference += (tau(a, b) or 0.0) * math.sqrt(n_untied(a) * n_untied(b))
        x_untied += n_untied(a)
        y_untied += n_untied(b)
    return difference / math.sqrt(x_untied * y_untied) if x_untied and y_untied else None


def mean_or_none(values):
    values = list(values)
    return None if not values or None in values else float(numpy.mean(values))


def replicates_case(name, rows):
    rows = numpy.asarray(rows)
    k = len(rows)
    # The F of the one-way analysis of variance, architectures being the groups, is MSB / MSW.
    f = float(stats.f_oneway(*rows.T).statistic) if k > 1 else math.nan
    between = mean_or_none(tau(a, b) for a, b in itertools.combinations(rows, 2))
    rest = [tau(rows[i], numpy.delete(rows, i, axis=0).mean(axis=0).round(9)) for i in range(k)]
    return {
        "name": name,
        "replicates": rows.tolist(),
        "single": None if math.isnan(f) else 1.0 if math.isinf(f) else (f - 1) / (f + k - 1),
        "mean": None if math.isnan(f) else 1.0 if math.isinf(f) else 1 - 1 / f,
        "noise": float(numpy.sqrt(rows.var(axis=0, ddof=1).mean())) if k > 1 else None,
        "between_replicates": between,
        "with_the_rest": mean_or_none(rest) if k > 1 else None,
    }


def joint(lists, rows, resamples, random):
    """Percentile intervals of the mean tau over the lists, and of the difference between the first and
    the second list: architectures, their replicates and the lists drawn with replacement, the mean
    effect of drawing replicates taken off."""
    lists, rows = numpy.asarray(lists), numpy.asarray(rows)
    k, n = rows.shape
    kept_truth = rows.mean(axis=0).round(9)
    means, differences, moved, moved_difference = [], [], [], []
    for _ in range(resamples):
        archs = random.integers(n, size=n)
        truth = rows[random.integers(k, size=(k, n)), numpy.arange(n)].mean(axis=0).round(9)
        seeds = random.integers(len(lists), size=len(lists))
        drawn = numpy.array([tau(row[archs], truth[archs]) for row in lists])
        kept = numpy.array([tau(row[archs], kept_truth[archs]) for row in lists])
        means.append(drawn[seeds].mean())
        differences.append(drawn[0] - drawn[1])
        moved.append((drawn - kept).mean())
        moved_difference.append((drawn[0] - kept[0]) - (drawn[1] - kept[1]))
    ends = [2.5, 97.5]
    return {
        "mean_interval": (numpy.percentile(means, ends) - numpy.mean(moved)).tolist(),
        "difference_interval":
            (numpy.percentile(differences, ends) - numpy.mean(moved_difference)).tolist(),
    }


def main():
    random = numpy.random.default_rng(20220625)
    quality = random.normal(85, 1.5, 40)
    replicates = (quality + random.normal(0, 0.5, (3, 40))).round(2)
    lists = [(quality + random.normal(0, noise, 40)).round(2) for noise in (1.0, 1.6, 1.3)]
    coarse = numpy.round(replicates)  # many ties
    truth = replicates.mean(axis=0).round(9)
    groups = random.integers(4, size=40).tolist()

    stratified = [
        ("no ties", lists[0], truth, groups),
        ("ties in both", numpy.round(lists[1]), numpy.round(truth), groups),
        ("one group", lists[1], truth, [3] * 40),
        ("all alone", lists[0], truth, list(range(40))),
        ("constant predictions", numpy.ones(40), truth, groups),
        ("constant in one group", [1.0, 1.0, 1.0, 4.0, 6.0, 5.0], [1.0, 2.0, 3.0, 1.0, 2.0, 3.0],
         [0, 0, 0, 1, 1, 1]),
    ]
    goldens = {
        "made_by": f"scripts/goldens_joint.py, SciPy {scipy.__version__}",
        "stratified": [
            {"name": name, "x": list(map(float, x)), "y": list(map(float, y)), "groups": groups,
             "tau": tau_within(x, y, groups)}
            for name, x, y, groups in stratified
        ],
        "replicates": [
            replicates_case("three", replicates),
            replicates_case("two", replicates[:2]),
            replicates_case("one", replicates[:1]),
            replicates_case("ties", coarse),
            replicates_case("noise alone", random.normal(85, 0.5, (4, 12)).round(2)),
            replicates_case("one constant", [[1.0, 2.0, 3.0], [2.0, 2.0, 2.0], [1.0, 3.0, 5.0]]),
            replicates_case("all constant", [[1.0] * 3] * 2),
        ],
        "quantiles": [
            {"values": values, "q": q, "quantile": float(numpy.percentile(values, 100 * q))}
            for values in (truth.tolist(), [3.0, 3.0, 1.0], [7.0])
            for q in (0.0, 0.05, 0.5, 0.95, 1.0)
        ],
        "joint": {
            "lists": [row.tolist() for row in lists],
            "replicates": replicates.tolist(),
            **joint(lists, replicates, 10000, numpy.random.default_rng(1)),
        },
    }
    path = pathlib.Path(__file__).parents[1] / "crates/ranking/tests/goldens_joint.json"
    path.write_text(json.dumps(goldens, indent=1) + "\n")


if __name__ == "__main__":
    main()
