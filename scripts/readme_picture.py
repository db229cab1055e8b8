"""Takes a plot out of a report, as a picture of the documentation: the first of its class.

    python scripts/readme_picture.py runs/quick/report.html scatter docs/images/scatter.svg
    python scripts/readme_picture.py runs/reproduce/report.html forest docs/images/forest.svg

The report colours its plots by a style sheet (dark and light); a file of its own needs colours that
stand in it. Standard library only.
"""
import re
import sys

SERIES = {"#100000": "#1f5fb4", "#100001": "#c2571a", "#100002": "#1a7f6b"}
COLOURS = SERIES | {"#200000": "#8ab8ea", "#200001": "#4a90d9", "#200002": "#2060b0", "#200003": "#0d3875"}


def main(report, kind, picture):
    html = open(report, encoding="utf-8").read()
    plots = re.findall(r"<svg.*?</svg>", html, re.S)
    plot = next(p for p in plots if f'class="{kind}"' in p)
    width, height = re.search(r'viewBox="0 0 (\d+) (\d+)"', plot).groups()
    size = f'xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
    plot = plot.replace("<svg ", f"<svg {size}", 1)
    head = plot.index(">") + 1
    plot = plot[:head] + f'<rect width="{width}" height="{height}" fill="#fff"/>' + plot[head:]
    for place, colour in COLOURS.items():
        plot = plot.replace(place, colour)
    with open(picture, "w", encoding="utf-8") as out:
        out.write(plot + "\n")


main(*sys.argv[1:])
