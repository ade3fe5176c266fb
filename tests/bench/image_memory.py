"""Peak memory over images of 1 MB each: reading the task, and a trial's run, must not keep images at full size.

    python -m tests.bench.image_memory                # 200 and 2,000 images (10 minutes, most of them to draw these)
    python -m tests.bench.image_memory --counts 50 500

Each number of images is measured in a process of its own: its memory once the libraries are loaded, the most that it
had when the task was read (every image is opened and compared), and when a trial had run (a linear probe on a small
random model, without a store, so that every image is opened for each pass).
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops

LABELS = ("dark", "light")
WIDTH, HEIGHT = 1600, 1200


def write_images(folder: Path, count: int) -> Path:
    """Write JPEG files of about 1 MB, soft shapes with the noise of a camera, and their table; return its path."""
    random = np.random.default_rng(0)
    noise = Image.fromarray(np.clip(random.normal(128, 28, (HEIGHT, WIDTH, 3)), 0, 255).astype(np.uint8))
    lines = ["image,label"]
    for number in range(count):
        coarse = random.integers(0, 120, (9, 12, 3), dtype=np.uint8) + np.uint8(100 * (number % 2))
        soft = Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        image = ImageChops.add(soft, ImageChops.offset(noise, number), offset=-128)
        image.save(folder / f"{number}.jpg", quality=85)
        lines.append(f"{number}.jpg,{LABELS[number % 2]}")
    table = folder / "table.csv"
    table.write_text("\n".join(lines) + "\n")
    return table


def peak_bytes() -> int:
    """Return the most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(table: str, model: str) -> None:
    """Read the task and run a trial; print the memory at each point as JSON."""
    from promptgraft.objectives.backbones import count_layers
    from promptgraft.objectives.data import Split, TaskSpec
    from promptgraft.objectives.spec import BackboneSpec, ObjectiveSpec
    from promptgraft.objectives.trial import Objective
    from promptgraft.spaces import Candidate, Categorical, SearchSpace, StudyFacts, Template

    template = Template("plain", "{{ image }} {{ label }}")
    facts = StudyFacts(count_layers(model, "vit"), has_head=True, has_source=False)
    space = SearchSpace((template,), (), (Categorical("head", ("probe",)),), facts)
    small = Path(table).with_name("small.csv")
    small.write_text("\n".join(Path(table).read_text().splitlines()[:41]) + "\n")

    def objective(path: str | Path) -> Objective:
        target = TaskSpec(str(path), {"image": "image"}, "label", kind="image_classification", test_rows=10, folds=2)
        return Objective(ObjectiveSpec(BackboneSpec(model, "vit"), target, None, space, "accuracy", evaluate_every=2))

    def run(own: Objective) -> None:
        own.use_split(Split(0, 0))
        own.evaluate(Candidate(template.id, "", head="probe", steps=0), seed=1)

    run(objective(small))  # Loads every library.
    found = {"loaded": peak_bytes()}
    whole = objective(table)
    found |= {"read": peak_bytes(), "rows": len(whole.target.labelled)}
    run(whole)
    print(json.dumps(found | {"trial": peak_bytes()}))


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[200, 2000], help="Numbers of images.")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(*arguments.measure)
        return
    from tests.support.models import write_tiny_image_model

    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "model")
        write_tiny_image_model(model, "vit")
        for count in arguments.counts:
            images = Path(folder, str(count))
            images.mkdir()
            table = write_images(images, count)
            mean = sum(path.stat().st_size for path in images.glob("*.jpg")) / count
            command = [sys.executable, "-m", "tests.bench.image_memory", "--measure", str(table), str(model)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            sizes = ", ".join(f"{name} {found[name] / 2**20:.0f} MiB" for name in ("loaded", "read", "trial"))
            print(f"{count} images of {mean / 1e6:.2f} MB, {found['rows']} labelled rows: {sizes}", flush=True)


if __name__ == "__main__":
    main()
