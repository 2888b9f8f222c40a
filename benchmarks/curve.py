"""README's curve: ssim_dscf over the samples seen, with published systems as lines.

    python benchmarks/curve.py assets/curve.png

Reads the tables of the long run in EXPERIMENTS.md. Published scores are of all official test pairs,
as are the dots, the ends of the run's parts; the line is of people held out of the first three.
"""

import re
from pathlib import Path

import click
from PIL import Image, ImageDraw, ImageFont

PUBLISHED = {
    **{"PG2 (ssim_pg2)": 0.253, "RPT-GAN, plain": 0.268, "DSCF": 0.290, "RPT-GAN": 0.302},
    **{"PATN": 0.311, "PCDMs": 0.317, "IMAGPose": 0.328},
}
LOW, HIGH = 0.225, 0.335
ZOOM = 2
SIZE, FRAME = (640, 330), (46, 14, 508, 276)  # left, top, right, bottom
GREY, LIGHT, BLUE, ORANGE = (60, 60, 60), (150, 150, 150), (30, 95, 190), (200, 90, 20)
NUMBER = r"(\d+(?:,\d{3})+)"


def read_tables(text: str) -> tuple[list, list]:
    """Samples and ssim_dscf: the ends of the parts, and people held out of the first three."""
    ends = re.findall(rf"^\| \d \| {NUMBER} \| (0\.\d+) \|", text, re.MULTILINE)
    held = re.findall(rf"^\| {NUMBER} \| (0\.\d+) \|", text, re.MULTILINE)
    ends, held = ([(int(x.replace(",", "")), float(y)) for x, y in rows] for rows in (ends, held))
    line: list[tuple[int, float]] = []
    for x, y in held:
        if (line[-1][0] if line else 0) < x <= ends[2][0]:
            line.append((x, y))
    return ends, line


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
def main(out: Path) -> None:
    text = Path(__file__).parents[1].joinpath("EXPERIMENTS.md").read_text()
    ends, line = read_tables(text.partition("### The long run")[2])
    picture = Image.new("RGB", [side * ZOOM for side in SIZE], "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(11 * ZOOM)
    left, top, right, bottom = (edge * ZOOM for edge in FRAME)
    last = 1.03 * ends[-1][0]

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = x / last, (y - LOW) / (HIGH - LOW)
        return left + (right - left) * across, bottom - (bottom - top) * up

    for name, value in PUBLISHED.items():
        pen.line([place(0, value), place(last, value)], LIGHT, 1)
        beside = right + 6 * ZOOM, place(0, value)[1]
        pen.text(beside, f"{name} {value:.3f}", GREY, font, anchor="lm")
    for value in (0.24, 0.26, 0.28, 0.30, 0.32):
        beside = left - 6 * ZOOM, place(0, value)[1]
        pen.text(beside, f"{value:.2f}", GREY, font, anchor="rm")
    for x in range(0, int(last), 200_000):
        below = place(x, LOW)[0], bottom + 4 * ZOOM
        pen.text(below, f"{x:,}", GREY, font, anchor="mt")
    pen.rectangle([left, top, right, bottom], outline=GREY)
    pen.line([place(*point) for point in line], BLUE, 3 * ZOOM, joint="curve")
    pen.line([place(*point) for point in ends], ORANGE, ZOOM)
    for point in ends:
        pen.circle(place(*point), 4 * ZOOM, ORANGE)
    about = (
        "samples seen; ssim_dscf: dots, all official pairs at the end of each part;",
        "line, people held out of the first three",
    )
    for number, words in enumerate(about):
        pen.text((left, bottom + (22 + 14 * number) * ZOOM), words, GREY, font)
    picture.save(out)


if __name__ == "__main__":
    main()
