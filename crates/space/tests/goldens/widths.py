"""Makes widths.txt: one line per base, its widths at the ratios by divisor 8, then by divisor 2.

python3 widths.py > widths.txt
"""
RATIOS = [1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7]


def width(base, ratio, divisor):
    v = base * ratio
    w = max(divisor, int(v + divisor / 2) // divisor * divisor)
    return w + divisor if w < 0.9 * v else w


for base in range(16, 513):
    print(base, *(width(base, r, d) for d in (8, 2) for r in RATIOS))
