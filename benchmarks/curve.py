"""ssim_dscf of held-out people over the samples seen, with published systems as lines.

    python benchmarks/curve.py runs/market1501-flow/log.jsonl curve.png

Published scores are of the official test pairs, and of training to its end.
"""

import json
from pathlib import Path

import click
from PIL import Image, ImageDraw

PUBLISHED = {
    **{"PG2 (ssim_pg2)": 0.253, "RPT-GAN, plain": 0.268, "DSCF": 0.290, "RPT-GAN": 0.302},
    **{"PATN": 0.311, "PCDMs": 0.317, "IMAGPose": 0.328},
}
SIZE, MARGIN, LEGEND = (640, 320), 44, 130
COLOURS = {"line": (20, 90, 200), "published": (150, 150, 150), "text": (60, 60, 60)}


@click.command()
@click.argument("log", type=click.Path(exists=True, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--batch-size", default=32, show_default=True)
def main(log: Path, out: Path, batch_size: int) -> None:
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    found = [
        (line["step"] * batch_size, line["validation"]["ssim_dscf"])
        for line in lines
        if "validation" in line
    ]
    end = found[-1][0]
    values = [y for _, y in found] + list(PUBLISHED.values())
    low, high = min(values) - 0.005, max(values) + 0.005
    picture = Image.new("RGB", SIZE, "white")
    pen = ImageDraw.Draw(picture)
    left, right = MARGIN, SIZE[0] - LEGEND
    top, bottom = 16, SIZE[1] - MARGIN

    def place(x: float, y: float) -> tuple[float, float]:
        return left + (right - left) * x / end, bottom - (bottom - top) * (y - low) / (high - low)

    for name, value in PUBLISHED.items():
        pen.line([place(0, value), place(end, value)], COLOURS["published"])
        pen.text((right + 6, place(0, value)[1] - 6), f"{name} {value:.3f}", COLOURS["text"])
    pen.line([place(*point) for point in found], COLOURS["line"], 3)
    pen.rectangle([left, top, right, bottom], outline=COLOURS["text"])
    for tenth in range(round(low * 100) + 1, round(high * 100) + 1, 2):
        pen.text((6, place(0, tenth / 100)[1] - 6), f"{tenth / 100:.2f}", COLOURS["text"])
    for part in range(5):
        x, _ = place(end * part / 4, low)
        pen.text((x - 16, bottom + 4), f"{end * part / 4:,.0f}", COLOURS["text"])
    pen.text((left, bottom + 20), "samples seen; ssim_dscf of held-out people", COLOURS["text"])
    picture.save(out)


if __name__ == "__main__":
    main()
