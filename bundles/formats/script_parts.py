"""What the scripts of formats have in common: how they prepare a row's text or image, without promptgraft."""

# Beside a model: what decides how rows are prepared, and the script that classifies them.
PROMPT_FILE, SCRIPT_FILE = "prompt.json", "classify.py"

# Part of a script; needs its `re`, `unicodedata` and `PROMPT`.
TEXTS = '''def as_data(text):
    """Break up the names of special tokens in a row's text."""
    if not PROMPT["special"]:
        return text  # The tokenizer doesn't look for them.
    names = sorted(PROMPT["special"], key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, names)), re.IGNORECASE)
    text = pattern.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)
    normal = unicodedata.normalize("NFKC", text)
    return as_data(normal) if pattern.search(normal) else text


def shortened(fields, ends, excess):
    """Cut the longest text; `ends` has, for each field, where in its text each token ends."""
    longest = max(ends, key=lambda name: len(ends[name]))
    kept = len(ends[longest]) - excess if excess < len(ends[longest]) else len(ends[longest]) // 2
    end = ends[longest][kept - 1] if kept else 0
    if end == len(fields[longest]):
        end = max((place for place in ends[longest] if place < end), default=0)
    if not end:
        raise ValueError(f"there is no room for {longest}")
    return fields | {longest: fields[longest][:end]}
'''

# Part of a script; needs its `base64`, `io`, `np`, Pillow's `Image` and `ImageOps`, and `PROMPT`.
IMAGES = '''def opened(reference):
    """Open an image, a path or a data URI, as RGB and the right way up; transparent parts become white."""
    if reference.startswith("data:"):
        reference = io.BytesIO(base64.b64decode(reference.partition(",")[2]))
    image = Image.open(reference, formats=PROMPT["formats"])
    image.load()
    try:
        image = ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, ValueError, EOFError, LookupError, ArithmeticError, TypeError):
        pass  # Its EXIF data is damaged.
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(as_bytes(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    return image.convert("RGB")


def as_bytes(values):
    """Scale integers of 16 bits, or floats, to 8 bits."""
    numbers = np.nan_to_num(values.astype(np.float32))
    least, most = float(numbers.min()), float(numbers.max())
    scales = (65535,) if np.issubdtype(values.dtype, np.integer) else (1.0, 255.0)
    white = next((scale for scale in scales if least >= 0 and most <= scale), None)
    if white is None:
        numbers, white = numbers - least, max(most - least, float(np.finfo(np.float32).tiny))
    return np.round(numbers / white * 255).astype(np.uint8)


def prepared(image):
    """Resize and crop an image as the model's processor does; bytes of shape (3, height, width)."""
    size, crop = PROMPT["resize"], PROMPT["crop"]
    if size is not None:
        width, height = size.get("width"), size.get("height")
        if "shortest_edge" in size:
            short = min(image.size)
            width, height = (int(size["shortest_edge"] * side / short) for side in image.size)
        image = image.resize((width, height), PROMPT["resample"])
    if crop is not None:
        left, top = (image.width - crop["width"]) // 2, (image.height - crop["height"]) // 2
        image = image.crop((left, top, left + crop["width"], top + crop["height"]))
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
'''
