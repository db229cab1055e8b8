"""Writes crates/ranking/tests/goldens.json: what SciPy says about the lists that the tests compare.

Run from the repository's root with NumPy and SciPy installed: python3 scripts/goldens_ranking.py
Undefined statistics are null. Lists are stored, except the large ones, which both sides generate from
the same linear congruential generator.
"""

import json
import math
import pathlib
import warnings

import numpy
import scipy
from scipy import stats


def generated(n, seed, n_values):
    """n pairs from a 64-bit generator (Knuth's MMIX constants): y follows x, both on a grid of
    n_values, so that both lists have ties (few when n_values is large)."""
    state, out = seed, []
    for _ in range(2 * n):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        out.append(state >> 33)
    x = [float(v % n_values) for v in out[0::2]]
    y = [float((int(a) + v % n_values) // 2) for a, v in zip(x, out[1::2])]
    return x, y


def statistics(x, y):
    def value(function):
        if len(x) < 2:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # constant input: undefined, which null says
            result = float(function(x, y).statistic)
        return None if math.isnan(result) else result

    return {
        "kendall_tau": value(stats.kendalltau),
        "pearson": value(stats.pearsonr),
        "spearman": value(stats.spearmanr),
    }


def main():
    random = numpy.random.default_rng(20220624)
    truth = random.uniform(69, 75, 30).round(2)
    lists = {
        "five": ([61.0, 64.5, 63.0, 66.0, 68.5], [70.1, 71.0, 71.3, 72.0, 73.4]),
        "two, in order": ([1.0, 2.0], [3.0, 7.0]),
        "two, reversed": ([1.0, 2.0], [7.0, 3.0]),
        "two, tied": ([1.0, 1.0], [7.0, 3.0]),
        "one": ([1.0], [2.0]),
        "constant predictions": ([5.0] * 4, [1.0, 2.0, 3.0, 4.0]),
        "constant truth": ([1.0, 2.0, 3.0, 4.0], [0.1] * 4),
        "ties in one": ([1.0, 1.0, 2.0, 3.0, 3.0, 3.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
        "ties in both": ([1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 3.0], [2.0, 2.0, 1.0, 3.0, 3.0, 4.0, 4.0]),
        "thirty": ((truth + random.normal(0, 1, 30)).round(3).tolist(), truth.tolist()),
        "large offset": ([1e9 + v for v in range(8)], [1e9 + v for v in (0, 2, 1, 3, 5, 4, 7, 6)]),
    }
    cases = [
        {"name": name, "x": x, "y": y, **statistics(x, y)} for name, (x, y) in lists.items()
    ]
    for n, seed, n_values in [(1000, 1, 7), (1000, 2, 2**31), (45000, 3, 2500), (45000, 4, 2**31)]:
        x, y = generated(n, seed, n_values)
        cases.append({
            "name": f"generated {n} on {n_values}",
            "generated": {"n": n, "seed": seed, "n_values": n_values},
            **statistics(x, y),
        })

    # Percentile intervals, from so many resamples that their own noise is small.
    x, y = map(numpy.asarray, lists["thirty"])
    intervals = {}
    for name, function in [("kendall_tau", stats.kendalltau), ("pearson", stats.pearsonr),
                           ("spearman", stats.spearmanr)]:
        result = stats.bootstrap(
            (x, y), lambda a, b: function(a, b).statistic, paired=True, vectorized=False,
            n_resamples=20000, confidence_level=0.95, method="percentile",
            rng=numpy.random.default_rng(1),
        ).confidence_interval
        intervals[name] = [float(result.low), float(result.high)]

    p_values = [0.01, 0.04, 0.03, 0.005, 0.2, 0.2]
    # SciPy has no Holm; it is Bonferroni over what is left, stepping up from the smallest.
    ranked = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, running = [0.0] * len(p_values), 0.0
    for step, i in enumerate(ranked):
        running = max(running, min(1.0, (len(p_values) - step) * p_values[i]))
        adjusted[i] = running

    path = pathlib.Path(__file__).parents[1] / "crates/ranking/tests/goldens.json"
    goldens = {
        "made_by": f"scripts/goldens_ranking.py, SciPy {scipy.__version__}",
        "correlations": cases,
        "intervals_of_thirty": intervals,
        "holm": {"p_values": p_values, "adjusted": adjusted},
    }
    path.write_text(json.dumps(goldens, indent=1) + "\n")


if __name__ == "__main__":
    main()
