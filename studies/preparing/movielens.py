"""MovieLens 100K, from recbole: films, users and ratings."""

import logging
import tempfile
import zipfile
from pathlib import Path

from studies.preparing.downloads import DATA, download, write_table

logger = logging.getLogger("prepare")

RECBOLE = "recbole==1.2.1"
ML_100K = "recbole/dataset_example/ml-100k/ml-100k"
FILMS = f"{ML_100K}.item"
GENDERS = {"F": "woman", "M": "man"}
OLDER = "35 and older"
NEWER_FROM = 1995


def prepare_films() -> None:
    """Write titles of MovieLens 100K with their genres, which have `|` between them: older films, and newer ones."""
    paths = DATA / "films_older.csv", DATA / "films_newer.csv"
    if all(path.exists() for path in paths):
        return
    logger.info("data: titles and genres of MovieLens 100K")
    DATA.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, zipfile.ZipFile(download(RECBOLE, Path(temporary))) as archive:
        lines = archive.read(FILMS).decode("utf-8").splitlines()[1:]
    films = [line.split("\t") for line in lines]
    rows = [(title, year, "|".join(genres.split(" "))) for _, title, year, genres in films if genres != "unknown"]
    newer = [row for row in rows if row[1].isdigit() and int(row[1]) >= NEWER_FROM]  # One has the year V.
    for path, part in zip(paths, ([row for row in rows if row not in newer], newer), strict=True):
        write_table(path, [("title", "year", "genres"), *part])


def prepare_histories() -> None:
    """Write the users, films and ratings of MovieLens 100K; the ratings of users under 35 apart."""
    if all((DATA / f"movielens_{name}.csv").exists() for name in ("films", "users", "ratings", "young", "older")):
        return
    logger.info("data: users and ratings of MovieLens 100K")
    DATA.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, zipfile.ZipFile(download(RECBOLE, Path(temporary))) as archive:
        tables = {
            end: [line.split("\t") for line in archive.read(f"{ML_100K}.{end}").decode("utf-8").splitlines()[1:]]
            for end in ("item", "user", "inter")
        }
    films = [(item, title, genres.replace(" ", ", ")) for item, title, _, genres in tables["item"]]
    write_table(DATA / "movielens_films.csv", [("film", "title", "genres"), *films])
    users = [(user, GENDERS[gender], age_group(int(age)), job) for user, age, gender, job, _ in tables["user"]]
    write_table(DATA / "movielens_users.csv", [("user", "gender", "age", "occupation"), *users])
    young = {user for user, _, age, _ in users if age != OLDER}
    ratings = [(user, film, when) for user, film, _, when in tables["inter"]]
    parts = {"ratings": ratings, "young": [row for row in ratings if row[0] in young]}
    parts["older"] = [row for row in ratings if row[0] not in young]
    for name, rows in parts.items():
        write_table(DATA / f"movielens_{name}.csv", [("user", "film", "time"), *rows])


def age_group(age: int) -> str:
    """Return which of three groups a user is in."""
    return OLDER if age >= 35 else "25 to 34" if age >= 25 else "under 25"
